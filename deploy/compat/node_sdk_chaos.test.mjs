// The Node.js SDK beside two nodes that lag, cut its feed, hold it back, repeat it, and
// answer pings late and twice, while sessions are revoked. Whatever they do: nobody is let
// in longer than the lease after a revocation, and nobody is turned away without one.
// The nodes are honest, as real ones are: they say how old what they know is.
import assert from 'node:assert/strict'
import http from 'node:http'
import { once } from 'node:events'
import { test } from 'node:test'
import { createClient } from '../../node/client/js/index.js'
import { APP, STREAM, good, mint, newKey, newSID, refused, sleep } from './node_sdk_fake.mjs'

const LEASE = 1000
const STALE = 900 // a node that knows nothing newer is fenced
const SECONDS = Number(process.env.CHAOS_SECONDS ?? 6)
const seed = Number(process.env.CHAOS_SEED ?? (Date.now() % 1e9)) + 1

let state = seed
function random () { // xorshift
  state ^= state << 13
  state ^= state >>> 17
  state ^= state << 5
  return (state >>> 0) / 2 ** 32
}
const chance = (p) => random() < p
const sequence = (cursor) => Number(/eu:0:(\d+)/.exec(cursor ?? '')?.[1] ?? 0)
const message = (type, at, data) => `event: ${type}\nid: _config:0:1,eu:0:${at}\ndata: ${JSON.stringify(data)}\n\n`

/** What both nodes read: the session ids that were revoked, in order. */
class Log {
  sids = []
  nodes = []
  cut () { // from both nodes, for a while
    const until = performance.now() + random() * 2500
    for (const n of this.nodes) n.cutUntil = until
  }
}

class Node {
  applied = 0
  proven = performance.now() // when it had applied all that there was
  cutUntil = 0
  feeds = new Set()

  constructor (log, key, name) {
    Object.assign(this, { log, key, name })
    log.nodes.push(this)
  }

  async start (t) {
    this.server = http.createServer((req, res) => this.handle(req, res).catch(() => res.destroy())).listen(0, '127.0.0.1')
    await once(this.server, 'listening')
    const timer = setInterval(() => this.tick(performance.now()), 10)
    t.after(() => {
      clearInterval(timer)
      this.server.closeAllConnections()
      this.server.close()
    })
    return `http://127.0.0.1:${this.server.address().port}`
  }

  tick (now) {
    if (now > this.cutUntil) [this.applied, this.proven] = [this.log.sids.length, now]
    for (const feed of this.feeds) this.serve(feed, now)
    if (chance(0.003)) for (const feed of this.feeds) feed.res.destroy()
  }

  /** Before the events: a heartbeat says nothing of what they may lack. */
  streams (now) {
    const age = Math.ceil(now - this.proven) + 1
    return [{ region: '_config', stream: 1, staleness_ms: 0 }, { region: 'eu', stream: STREAM, staleness_ms: age, ...(age > STALE && { stale: 'silent' }) }]
  }

  serve (feed, now) {
    const streams = this.streams(now)
    if (chance(0.004)) feed.heldUntil = now + random() * 2500
    let text = ''
    for (; feed.at < this.applied; feed.at++) {
      const event = { type: 'session.revoked', revision: `eu:0:${feed.at + 1}`, at: new Date().toISOString(), app_id: APP, region: 'eu', stream: STREAM, session_id: this.log.sids[feed.at] }
      text += message(event.type, feed.at + 1, event)
    }
    for (const nonce of feed.nonces.splice(0)) {
      if (chance(0.1)) setTimeout(() => feed.nonces.push(nonce), 400)
      else text += message('heartbeat', feed.at, { streams, nonce })
    }
    if (chance(0.002)) text += `event: resync\ndata: {"reason":"${['slow', 'gone', 'rewound'][Math.floor(random() * 3)]}"}\n\n`
    feed.kept += text
    if (feed.kept === '' || now < feed.heldUntil) return
    feed.res.write(feed.kept + (chance(0.05) ? feed.before : ''))
    ;[feed.before, feed.kept] = [feed.kept, '']
  }

  async handle (req, res) {
    const url = new URL(req.url, 'http://x')
    let text = ''
    for await (const piece of req) text += piece
    const body = text && JSON.parse(text)
    if (chance(0.03)) await sleep(random() * 600)
    const json = (status, answer) => res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(answer))
    switch (url.pathname) {
      case `/v1/apps/${APP}/jwks`: return json(200, { keys: [this.key.jwk] })
      case '/v1/sessions/authenticate': return json(...this.judge(body))
      case '/v1/revocations':
        return json(200, { revision: `_config:0:1,eu:0:${this.applied}`, jwt_life_seconds: 300, app_state: 'active', sessions: this.log.sids.slice(0, this.applied), users: [], all: [], compromised_keys: [], streams: [] })
      case '/v1/events': return this.open(res, sequence(url.searchParams.get('since')), json)
      case '/v1/events/ping': {
        const feed = this.log.nodes.flatMap((n) => [...n.feeds]).find((f) => f.name === body.feed)
        feed?.nonces.push(...Array(chance(0.1) ? 2 : 1).fill(body.nonce))
        return feed ? json(202, {}) : json(...refused(404, 'feed_not_found'))
      }
    }
  }

  judge ({ session_jwt: jwt, consistency }) {
    const { sid } = JSON.parse(Buffer.from(jwt.split('.')[1], 'base64url'))
    if (performance.now() - this.proven > STALE || this.applied < sequence(consistency?.at_least)) return refused(503, 'node_stale')
    return this.log.sids.slice(0, this.applied).includes(sid) ? refused(404, 'session_not_found', 'revoked') : good(sid)
  }

  open (res, at, json) {
    if (chance(0.1)) return json(...refused(410, 'cursor_gone'))
    if (at > this.applied || chance(0.1)) return json(...refused(503, 'consistency_timeout'))
    const feed = { res, at, nonces: [], name: `${this.name}.${Math.floor(random() * 1e9)}`, heldUntil: 0, kept: '', before: '' }
    this.feeds.add(feed)
    res.on('close', () => this.feeds.delete(feed))
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    res.write(message('hello', at, { feed: feed.name, node: this.name, jwt_life_seconds: 300 }))
  }
}

test(`nobody is let in too long, or turned away (CHAOS_SEED=${seed - 1})`, async (t) => {
  const [log, key, issuer] = [new Log(), await newKey(), 'http://sessions.example']
  const baseUrl = [await new Node(log, key, 'a').start(t), await new Node(log, key, 'b').start(t)]
  const client = createClient({ baseUrl, issuer, app: APP, apiKey: 'sk', leaseMs: LEASE, timeoutMs: 800 })
  t.after(() => client.stop())
  const sessions = []
  for (let i = 0; i < 50 + 15 * SECONDS; i++) {
    const sid = newSID()
    sessions.push({ sid, jwt: await mint({ issuer }, key, { sid }), revoked: Infinity })
  }
  await client.start()
  const said = {}
  let [revoked, last] = [0, 0]
  for (const end = performance.now() + SECONDS * 1000; performance.now() < end; await sleep(2)) {
    if (performance.now() > last + 80 && revoked < sessions.length - 50) {
      last = performance.now()
      const s = sessions[revoked++]
      log.sids.push(s.sid)
      s.revoked = performance.now()
    }
    if (chance(0.01)) log.cut()
    for (let i = 0; i < 20; i++) {
      const s = sessions[Math.floor(random() * (revoked + 20))]
      const late = performance.now() - s.revoked
      const got = await client.verify(s.jwt).then((v) => `good ${v.source}`, (err) => err.code)
      said[got] = (said[got] ?? 0) + 1
      if (got.startsWith('good')) assert.ok(late <= LEASE, `${got} ${late} ms after it was revoked`)
      else if (got === 'revoked') assert.ok(s.revoked < performance.now(), 'turned away')
      else assert.equal(got, 'unavailable')
    }
  }
  t.diagnostic(`${revoked} revoked; verify said ${JSON.stringify(said)}`)
  assert.ok(said['good local'] > 0 && said.revoked > 0, JSON.stringify(said))
})
