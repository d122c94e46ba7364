// A node as the Node.js SDK sees one, small enough that a test says exactly what it
// answers and when; and clocks and JWTs that a test makes as it needs them.
import http from 'node:http'
import { once } from 'node:events'
import { CompactSign, exportJWK, calculateJwkThumbprint, generateKeyPair } from 'jose'
import { createClient } from '../../node/client/js/index.js'
import { userHash } from '../../node/client/js/jwt.js'

export { userHash }
export const APP = 'shop'
export const STREAM = 2
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** Waits until what returns something true. */
export async function until (what, ms = 15_000) {
  for (const end = Date.now() + ms; ;) {
    const got = await what()
    if (got) return got
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`)
    await sleep(5)
  }
}

let serial = 0
/** A session id whose home is the stream. */
export function newSID (stream = STREAM) {
  const bytes = Buffer.alloc(16)
  bytes[0] = stream
  bytes.writeUInt32BE(++serial, 12)
  return bytes.toString('base64url')
}

export async function newKey (alg = 'ES256') {
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true })
  const jwk = { ...await exportJWK(publicKey), alg, use: 'sig' }
  jwk.kid = await calculateJwkThumbprint(jwk)
  return { alg, jwk, kid: jwk.kid, privateKey }
}

/** A clock that stands still: what is added to it is all that passes. */
export function newClock () {
  const at = [0, 0, Date.now()]
  return {
    now: () => [...at],
    wall: () => at[2],
    /** Lets ms pass on the clocks named: 0 steady, 1 since boot, 2 wall. */
    pass: (ms, clocks = [0, 1, 2]) => { for (const i of clocks) at[i] += ms }
  }
}

export class Fake {
  keys = []
  requests = 0
  jwksFetches = 0
  jwksStatus = 200
  asked = [] // bodies of authenticate
  answer = () => refused(418, 'nobody_said_what_to_answer') // (body) → [status, body] of authenticate
  snapshot = { revision: '_config:0:1,eu:0:10', jwt_life_seconds: 300, app_state: 'active', sessions: [], users: [], all: [], compromised_keys: [], streams: [] }
  snapshots = 0
  streams = [{ region: '_config', stream: 1, staleness_ms: 0 }, { region: 'eu', stream: STREAM, staleness_ms: 0 }]
  feeds = [] // the open ones; the newest last
  opened = [] // query of each that was opened
  refuse = null // [status, body] of every GET /v1/events
  mute = false // pings are taken and not answered
  pings = 0
  seq = 10
  date = null // instead of the clock, in the header Date

  async start () {
    this.server = http.createServer((req, res) => this.handle(req, res)).listen(0, '127.0.0.1')
    await once(this.server, 'listening')
    this.url = `http://127.0.0.1:${this.server.address().port}`
    return this
  }

  close () {
    this.server.closeAllConnections()
    this.server.close()
  }

  async handle (req, res) {
    this.requests++
    const url = new URL(req.url, 'http://x')
    const json = (status, body, headers) => res.writeHead(status, { 'content-type': 'application/json', ...(this.date && { date: this.date }), ...headers }).end(JSON.stringify(body))
    if (url.pathname === `/v1/apps/${APP}/.well-known/openid-configuration`) return json(200, { issuer: `${this.issuer ?? this.url}/v1/apps/${APP}` })
    if (url.pathname === `/v1/apps/${APP}/jwks`) {
      this.jwksFetches++
      return json(this.jwksStatus, { keys: this.keys.map((k) => k.jwk ?? k) }, { 'cache-control': 'public, max-age=300' })
    }
    if (req.headers.authorization !== 'Bearer sk_test') return json(401, { error_type: 'unauthorized_credentials', error_message: 'x' })
    let text = ''
    for await (const piece of req) text += piece
    const body = text === '' ? undefined : JSON.parse(text)
    switch (`${req.method} ${url.pathname}`) {
      case 'POST /v1/sessions/authenticate':
        this.asked.push(body)
        return json(...this.answer(body))
      case 'POST /v1/sessions/revoke':
        return json(200, { revoked: 1, revision: this.cursor() })
      case 'GET /v1/revocations':
        this.snapshots++
        return json(200, this.snapshot)
      case 'GET /v1/events':
        this.opened.push(url.searchParams)
        if (this.refuse) return json(...this.refuse)
        return this.open(res)
      case 'POST /v1/events/ping': {
        this.pings++
        const feed = this.feeds.find((f) => f.name === body.feed)
        if (feed === undefined) return json(404, { error_type: 'feed_not_found', error_message: 'x' })
        if (!this.mute) this.heartbeat(feed, body.nonce)
        else feed.held.push(body.nonce)
        return json(202, {})
      }
    }
    json(404, { error_type: 'not_found', error_message: url.pathname })
  }

  open (res) {
    const feed = { res, name: `f.${this.opened.length}`, held: [] }
    this.feeds.push(feed)
    res.on('close', () => { this.feeds = this.feeds.filter((f) => f !== feed) })
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    this.write(feed, 'hello', { feed: feed.name, revision: this.cursor(), node: 'n1', heartbeat_seconds: 5, jwt_life_seconds: this.snapshot.jwt_life_seconds, streams: [] }, this.cursor())
  }

  cursor () { return `_config:0:1,eu:0:${this.seq}` }
  write (feed, type, data, id) { feed.res.write(`event: ${type}\n${id ? `id: ${id}\n` : ''}data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`) }
  heartbeat (feed, nonce) { this.write(feed, 'heartbeat', { revision: this.cursor(), streams: this.streams, ...(nonce && { nonce }) }, this.cursor()) }

  /** Sends an event to all feeds. */
  event (type, fields = {}) {
    this.seq++
    const at = new Date().toISOString()
    const data = { type, revision: `eu:0:${this.seq}`, at, app_id: APP, region: 'eu', stream: STREAM, revoked_at: at, ...fields }
    for (const feed of this.feeds) this.write(feed, type, data, this.cursor())
  }
}

/** A JWT of the profile; claims and header are laid over it. */
export async function mint (fake, key, { sid = newSID(), user = 'ada', profile = 'native', iat = Math.floor(Date.now() / 1000), life = 300, claims = {}, header = {} } = {}) {
  const issuer = fake.issuer ?? fake.url
  const own = {
    native: { iss: `${issuer}/v1/apps/${APP}`, sid, client_id: APP, jti: 'j', sxp: iat + 3600 },
    stytch: { iss: issuer, 'https://stytch.com/session': { id: sid } },
    streambird: { iss: issuer, 'https://streambird.io/jwt/session': { id: sid } },
    clerk: { iss: issuer, sid, sts: 'active', v: 2 }
  }[profile]
  return sign(key, { alg: key.alg, kid: key.kid, typ: profile === 'native' ? 'at+jwt' : 'JWT', ...header },
    JSON.stringify({ sub: user, aud: [APP], iat, nbf: iat - 10, exp: iat + life, ...own, ...claims }))
}

/** A JWS of any text, with any header that jose signs. */
export const sign = (key, header, text) => new CompactSign(new TextEncoder().encode(text)).setProtectedHeader(header).sign(key.privateKey)

/** The API's answer about a good session. */
export const good = (sid, fields = {}) => [200, {
  session: { session_id: sid, app_id: APP, user_id: 'ada', status: 'active', started_at: new Date().toISOString(), expires_at: new Date(Date.now() + 3.6e6).toISOString(), ...fields },
  session_token: '', session_jwt: `e30.${Buffer.from(JSON.stringify({ sid, sub: 'ada' })).toString('base64url')}.x`
}]

export const refused = (status, type, reason) => [status, { status_code: status, error_type: type, error_message: 'no', error_details: reason && { reason } }]

/** A fake node, a key, and a client of it; closed when the test ends. */
export async function setup (t, options = {}) {
  const fake = await new Fake().start()
  const key = await newKey()
  fake.keys = [key]
  const problems = []
  const client = createClient({ baseUrl: fake.url, app: APP, apiKey: 'sk_test', leaseMs: 1000, timeoutMs: 1000, onProblem: (err) => problems.push(err), ...options })
  t.after(async () => {
    await client.stop()
    fake.close()
  })
  return { fake, key, client, problems }
}

/** The code and the reason with which verify refuses, 'good' if it does not. */
export const outcome = (client, credential, options) => client.verify(credential, options).then((s) => `good ${s.source}`, (err) => {
  if (err.name !== 'RevocastError') throw err
  return [err.code, err.reason].filter(Boolean).join(' ')
})
