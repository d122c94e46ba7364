import { Api } from './api.js'
import { systemClock } from './clock.js'
import { RevocastError } from './errors.js'
import { covers, Feed, joined } from './feed.js'
import { baseOf, deepFreeze, looksLikeJWT, readHeader, readJWT, streamOf, userHash } from './jwt.js'
import { Keys } from './keys.js'
import { Revoked } from './revoked.js'

export { RevocastError } from './errors.js'
export { expressAuth, fastifyAuth, nextRoute, nextMiddleware } from './adapters.js'

/** Makes a client of one app. It does nothing before it is started or asked. */
export const createClient = (options) => new Client(checked(options))

const MAX_TOKEN = 8192

class Client {
  #conf
  #api
  #keys
  #revoked = new Revoked()
  #feed
  #read = new Map() // JWT → what it says; the one not used for longest first

  constructor (conf) {
    this.#conf = conf
    this.#api = new Api(conf)
    this.#keys = new Keys(this.#api, conf.clock, conf.onProblem, conf.issuer)
    this.#feed = new Feed({ ...conf, api: this.#api, revoked: this.#revoked, keys: this.#keys })
  }

  /** Begins to follow the app's revocations; resolves at the first lease. Rejects when the API refuses it. */
  start () { return this.#feed.start() }

  /** Ends that, and with it every lease. */
  stop () { return this.#feed.stop() }

  /** How the feed is. */
  status () { return this.#feed.status() }

  /**
   * The session of a token or a JWT, or a RevocastError. A JWT is judged here, in
   * microseconds, while there is a lease on its session's home stream; everything
   * else by the API. dpop proves a session that is bound to a key.
   */
  async verify (credential, { dpop, touch } = {}) {
    if (credential === undefined || credential === null || credential === '') throw new RevocastError('missing', 'no token and no JWT was shown')
    if (typeof credential !== 'string' || credential.length > MAX_TOKEN || !/^[\x21-\x7e]+$/.test(credential)) {
      throw new RevocastError('invalid', 'what was shown is neither a token nor a JWT', { reason: 'malformed' })
    }
    if (!looksLikeJWT(credential)) return this.#ask({ session_token: credential }, { dpop, touch })
    const jwt = { session_jwt: credential }
    let v = this.#read.get(credential)
    if (v === undefined || this.#keys.get(v.kid) === undefined) {
      v = await this.#readAnew(credential)
      if (v === undefined) return this.#undecided(jwt, { dpop, touch }, 'unavailable', 'the key of the JWT cannot be looked up now')
    }
    // From here to the verdict nothing may be awaited: a revocation could come in between.
    if (this.#keys.get(v.kid) === undefined) return this.#undecided(jwt, { dpop, touch }, 'unavailable', 'the key of the JWT was withdrawn meanwhile')
    const seconds = this.#conf.clock.wall() / 1000
    const early = seconds + this.#conf.leewaySeconds < v.nbf // the clocks of this machine and the node differ
    if (early || v.exp <= Math.max(seconds - this.#conf.leewaySeconds, this.#revoked.over)) {
      if (this.#revoked.look(v) === 'revoked') throw revoked()
      if (this.#conf.whenExpired === 'api' && this.#askable) return this.#ask(jwt, { dpop, touch, stream: v.stream })
      if (early) throw new RevocastError('invalid', 'the JWT is not valid yet: clocks differ', { reason: 'not_yet_valid' })
      throw new RevocastError('expired', 'the JWT has expired')
    }
    // The clock is read before the lease, and the lease before the lookup, and all of
    // it now: a process that was stopped for a minute has to notice.
    const now = this.#conf.clock.now()
    this.#keys.renew(now)
    const fresh = this.#feed.holds(v.stream, now)
    const known = this.#revoked.look(v)
    if (known === 'revoked') throw revoked()
    if (this.#revoked.state === 'suspended' && !fresh && this.#conf.whenStale === 'api' && this.#askable) {
      // Nobody would have said that it is so no more.
      return this.#ask(jwt, { dpop, touch, stream: v.stream, mark: known, least: this.#feed.stateAt })
    }
    if (this.#revoked.state !== 'active') throw new RevocastError('suspended', `the app is ${this.#revoked.state}`)
    if (v.bound) {
      if (dpop === undefined) throw unproved()
      return this.#ask(jwt, { dpop, touch, stream: v.stream })
    }
    if (!fresh) return this.#undecided(jwt, { touch, stream: v.stream }, 'stale', 'revocations of this session may not have been heard')
    if (known !== undefined) return this.#ask(jwt, { touch, stream: v.stream, mark: known })
    // A revocation of a JWT that lives longer than the app's may be forgotten.
    if (v.exp - v.iat > this.#revoked.life) return this.#ask(jwt, { touch, stream: v.stream })
    this.#remember(credential, v)
    return v.session
  }

  /** Reads a JWT and checks its signature. undefined: with no key at hand that could tell. */
  async #readAnew (jwt) {
    this.#read.delete(jwt)
    const parts = readHeader(jwt)
    const entry = await this.#keys.find(parts.header.kid)
    if (entry === undefined || (entry === null && this.#conf.whenStale === 'api' && !this.#keys.compromised(parts.header.kid))) return undefined
    if (entry === null) throw new RevocastError('invalid', 'the JWT is signed with no key of the app', { reason: 'unknown_key' })
    if (entry.alg !== parts.header.alg) throw new RevocastError('invalid', 'the JWT has not the algorithm of its key', { reason: 'bad_signature' })
    return readJWT(jwt, parts, entry.key, { ...this.#conf, issuer: this.#keys.issuer })
  }

  #remember (jwt, v) {
    this.#read.delete(jwt) // so that it is the newest
    this.#read.set(jwt, v)
    if (this.#read.size > this.#conf.cacheSize) this.#read.delete(this.#read.keys().next().value)
  }

  /** Whether the API takes the JWTs: of another audience than the app it says that they are nothing, which is not meant. */
  get #askable () { return this.#conf.audience === this.#api.app }

  /** What is to be done when nothing here can tell. */
  #undecided (body, options, code, why) {
    if (this.#conf.whenStale === 'refuse' || (body.session_jwt !== undefined && !this.#askable)) throw new RevocastError(code, why)
    return this.#ask(body, options)
  }

  /**
   * Lets the API judge. The node asked may lag behind the one that the feed comes
   * from, so it has to know what this client has heard: of the session's home
   * stream, and of the watermark that the question is about.
   */
  async #ask (credential, { dpop, touch, stream, mark, least }) {
    if (credential.session_jwt !== undefined && !this.#askable) throw new RevocastError('unavailable', 'only the API could tell, and it takes no JWT of another audience')
    // A proof counts once, so a question with one cannot be asked again: it is about all streams.
    let known = dpop !== undefined ? this.#feed.cursor : this.#feed.position(stream ?? tokenStream(credential.session_token))
    known = joined(joined(known, mark?.revision), least)
    const body = { ...credential, ...(touch !== undefined && { touch }), ...(dpop !== undefined && { dpop }), ...(known !== undefined && { consistency: { at_least: known } }) }
    let answer
    try {
      answer = (await this.#api.call('POST', '/v1/sessions/authenticate', { body, once: dpop !== undefined })).body
    } catch (err) { throw verdict(err) }
    const s = answer.session
    const home = streamOf(s?.session_id)
    if (home === undefined || s.status !== 'active' || s.app_id !== this.#api.app) {
      throw new RevocastError('unavailable', 'the answer of the API names no active session of the app', { type: 'unreadable' })
    }
    const against = this.#revoked.against({ sid: s.session_id, stream: home, userHash: userHash(this.#api.app, s.user_id) })
    if (against === 'revoked') throw revoked()
    for (const other of against) {
      if (other !== mark && !covers(known, other.revision)) {
        if (dpop !== undefined) throw new RevocastError('unavailable', 'revocations of the user were heard meanwhile: ask again')
        return this.#ask(credential, { touch, stream: home, mark: other, least: known })
      }
      other.good.add(s.session_id) // who called it good knew of the watermark
    }
    return fromAnswer(answer)
  }

  /** POST /v1/sessions. idempotencyKey: a repeat is the same session. */
  async create (session, { idempotencyKey, dpop } = {}) {
    const headers = { ...(idempotencyKey !== undefined && { 'idempotency-key': idempotencyKey }), ...(dpop !== undefined && { dpop }) }
    // Without a key, a call that was answered by nobody may have made a session.
    return (await this.#api.call('POST', '/v1/sessions', { body: session, headers, once: idempotencyKey === undefined })).body
  }

  /** POST /v1/sessions/authenticate, with all that it can do. */
  async authenticate (body) {
    return (await this.#api.call('POST', '/v1/sessions/authenticate', { body, once: body.dpop !== undefined })).body
  }

  /**
   * POST /v1/sessions/revoke: by session_id, session_token, session_jwt, user_id
   * or all. wait "all": the answer comes once no node says "good" any more, or
   * with a receipt that is not complete. A session that is named by its id, or by a
   * JWT that was verified here, this client refuses from then on, whatever the feed
   * does; others as soon as the feed tells.
   */
  async revoke (body) {
    // Until a silent node can have no lease any more takes 15.3 s.
    const wait = body.wait === 'all' ? 30_000 : 0
    const { body: answer } = await this.#api.call('POST', '/v1/sessions/revoke', { body, wait })
    // Of a JWT that was verified here: anybody can write a session id into another.
    const sid = body.session_id ?? this.#read.get(body.session_jwt)?.sid
    if (streamOf(sid) !== undefined) this.#revoked.revoke(sid, 0, performance.now())
    this.#revoked.forget(performance.now())
    return answer
  }

  /** GET /v1/sessions: one page. */
  async list (query) { return (await this.#api.call('GET', '/v1/sessions', { query })).body }

  /** GET /v1/sessions/{sid}, also of one that has ended and is still known. */
  async get (sid) { return (await this.#api.call('GET', `/v1/sessions/${encodeURIComponent(sid)}`)).body.session }
}

const revoked = () => new RevocastError('revoked', 'the session was revoked')

const unproved = () => new RevocastError('invalid', 'the session is bound to a key, and there is no proof of it', {
  reason: 'dpop_proof', type: 'invalid_dpop_proof', headers: { 'www-authenticate': 'DPoP error="invalid_dpop_proof"' }
})

/** What the API's refusal of an authenticate says about the session; nothing at all, unless it is clearly about that. */
function verdict (err) {
  const about = { type: err.type, reason: err.reason, details: err.details, requestId: err.requestId, cause: err }
  switch (err.type) {
    case 'session_not_found': return new RevocastError(err.code, err.message, about)
    case 'app_suspended': return err
    case 'jwt_not_yet_valid': return new RevocastError('invalid', err.message, { ...about, reason: 'not_yet_valid' })
    case 'token_reuse_detected': return new RevocastError('revoked', err.message, about)
    case 'invalid_dpop_proof': case 'use_dpop_nonce': return new RevocastError('invalid', err.message, { ...about, reason: 'dpop_proof', headers: err.headers })
    case 'session_home_unreachable': return new RevocastError('unavailable', err.message, { ...about, status: 401, headers: err.headers })
    // 401 and 403 of the API key say nothing of the user.
    default: return err.code === 'unavailable' ? err : new RevocastError('unavailable', err.message, about)
  }
}

/** The home stream of a token: its byte 0. A foreign token has none that could be told. */
function tokenStream (token) {
  return token?.length === 44 && /^[\w-]+$/.test(token) ? Buffer.from(token.slice(0, 4), 'base64url')[0] : undefined
}

function fromAnswer ({ session: s, session_jwt: jwt }) {
  return deepFreeze({
    sessionId: s.session_id, userId: s.user_id, appId: s.app_id, source: 'api', expiresAt: new Date(s.expires_at),
    ...(jwt && { jwt, claims: JSON.parse(Buffer.from(jwt.split('.')[1], 'base64url').toString()) }), session: s
  })
}

const DEFAULTS = { leaseMs: 15_000, whenStale: 'api', whenExpired: 'api', leewaySeconds: 5, cacheSize: 10_000, timeoutMs: 5000, onProblem: () => {} }
const KNOWN = ['baseUrl', 'app', 'apiKey', 'issuer', 'audience', 'fetch', 'clock', 'onEvent', ...Object.keys(DEFAULTS)]

function checked (options) {
  for (const name of Object.keys(options ?? {})) {
    if (!KNOWN.includes(name)) throw new TypeError(`unknown option ${name}; there are ${KNOWN.join(', ')}`)
  }
  const o = { ...DEFAULTS, ...Object.fromEntries(Object.entries(options ?? {}).filter(([, v]) => v !== undefined)) }
  const urls = [].concat(o.baseUrl ?? []).map((u) => String(u).replace(/\/+$/, ''))
  if (urls.length === 0 || !urls.every((u) => /^https?:\/\/[^/]/.test(u))) throw new TypeError('option baseUrl: the address of a node, or several')
  if (typeof o.app !== 'string' || !/^[a-z0-9][a-z0-9_-]{0,63}$/.test(o.app)) throw new TypeError('option app: the id of the app')
  if (typeof o.apiKey !== 'string' || o.apiKey === '') throw new TypeError('option apiKey: an API key of the app')
  for (const name of ['whenStale', 'whenExpired']) {
    if (o[name] !== 'api' && o[name] !== 'refuse') throw new TypeError(`option ${name}: api or refuse`)
  }
  for (const [name, least, most] of [['leaseMs', 1000, 15_000], ['leewaySeconds', 0, 5], ['cacheSize', 0, 1e6], ['timeoutMs', 1, 60_000]]) {
    if (!Number.isFinite(o[name]) || o[name] < least || o[name] > most) throw new TypeError(`option ${name}: a number from ${least} to ${most}`)
  }
  for (const name of ['fetch', 'onEvent', 'onProblem']) {
    if (o[name] !== undefined && typeof o[name] !== 'function') throw new TypeError(`option ${name}: a function`)
  }
  const issuer = o.issuer === undefined ? undefined : baseOf(o.issuer, o.app)
  return { fetch: (...args) => globalThis.fetch(...args), clock: systemClock, ...o, urls, issuer, audience: o.audience ?? o.app }
}

