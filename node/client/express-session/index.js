'use strict'

const { createHash } = require('node:crypto')

// express-session keeps a session without maxAge as long as the browser runs;
// a store has to end it some time.
const DAY = 86_400

/** An answer that is no success. status is 0 when no node answered. */
class RevocastError extends Error {
  constructor (message, { status = 0, type = 'unreachable', cause } = {}) {
    super(message, { cause })
    this.name = 'RevocastError'
    this.status = status
    this.type = type
  }
}

/**
 * Makes the store. session is the express-session function itself: the store has
 * to extend the Store of the very copy of the module that uses it.
 */
function revocastStore (session, options) {
  if (typeof session !== 'function' || typeof session.Store !== 'function') {
    throw new TypeError('revocastStore(session, options): the first argument is the function that express-session exports')
  }
  const conf = checked(options)

  class RevocastStore extends session.Store {
    constructor () {
      super()
      this.client = new Client(conf)
    }

    get (sid, callback) {
      later(callback, async () => {
        const found = await this.client.get(sid)
        return found === null ? null : JSON.parse(Buffer.from(found.data, 'base64').toString('utf8'))
      })
    }

    set (sid, sess, callback) {
      later(callback, async () => {
        const until = ends(sess, conf.ttl)
        if (until <= Date.now()) {
          await this.client.destroy(sid)
        } else if (!await this.client.set(sid, JSON.stringify(sess), userOf(sess, conf.user), until)) {
          // Another request of the browser was still running when somebody logged
          // it out. What it leaves behind is of nobody any more.
          this.emit('ended', sid)
        }
      })
    }

    touch (sid, sess, callback) {
      later(callback, async () => {
        const until = ends(sess, conf.ttl)
        if (until <= Date.now()) {
          await this.client.destroy(sid)
        } else if (!await this.client.touch(sid, until)) {
          this.emit('ended', sid)
        }
      })
    }

    destroy (sid, callback) { later(callback, () => this.client.destroy(sid)) }
    clear (callback) { later(callback, () => this.client.clear()) }

    all (callback) {
      later(callback, async () => {
        const all = {}
        for await (const s of this.client.all()) {
          if (s.token) all[s.token] = JSON.parse(Buffer.from(s.data, 'base64').toString('utf8'))
        }
        return all
      })
    }

    length (callback) {
      later(callback, async () => {
        let n = 0
        for await (const s of this.client.all()) if (s.token) n++
        return n
      })
    }
  }
  return new RevocastStore()
}

/** Calls back with what the promise brings, after the caller has returned. */
function later (callback, run) {
  run().then(
    (value) => { if (callback) setImmediate(callback, null, value) },
    (err) => { if (callback) setImmediate(callback, err) }
  )
}

/** When the session ends, in ms since 1970. */
function ends (sess, ttl) {
  const expires = sess.cookie && (sess.cookie.expires ?? sess.cookie._expires)
  const at = expires ? new Date(expires).getTime() : NaN
  return Number.isNaN(at) ? Date.now() + ttl * 1000 : at
}

/** The id of the user, '' before the log-in. */
function userOf (sess, user) {
  const id = typeof user === 'function' ? user(sess) : user.split('.').reduce((at, name) => at?.[name], sess)
  if (id === undefined || id === null || id === '') return ''
  if (typeof id === 'string' || typeof id === 'number' || typeof id === 'bigint') return String(id)
  throw new TypeError('the user of the session is neither a string nor a number; see the option user')
}

const KNOWN = ['url', 'key', 'user', 'ttl', 'touchAfter', 'consistency', 'timeout', 'fetch']

function checked (options) {
  const o = { user: 'userId', ttl: DAY, touchAfter: 0, consistency: 'bounded', timeout: 5000, fetch: globalThis.fetch, ...options }
  for (const name of Object.keys(o)) {
    if (!KNOWN.includes(name)) throw new TypeError(`unknown option ${name}; there are ${KNOWN.join(', ')}`)
  }
  const urls = [].concat(o.url ?? []).map((u) => String(u).replace(/\/+$/, ''))
  if (urls.length === 0 || !urls.every((u) => /^https?:\/\//.test(u))) throw new TypeError('option url: the address of a node, or several')
  if (typeof o.key !== 'string' || o.key === '') throw new TypeError('option key: an API key of the app')
  if (typeof o.user !== 'string' && typeof o.user !== 'function') throw new TypeError('option user: a path in the session, or a function of it')
  for (const name of ['ttl', 'touchAfter', 'timeout']) {
    if (!Number.isFinite(o[name]) || o[name] < 0) throw new TypeError(`option ${name}: a number`)
  }
  if (o.ttl === 0 || o.timeout === 0) throw new TypeError('options ttl and timeout: above 0')
  if (o.consistency !== 'bounded' && o.consistency !== 'strong') throw new TypeError('option consistency: bounded or strong')
  return { ...o, urls }
}

/** Speaks to the nodes. No session id leaves the process in a URL, only its hash. */
class Client {
  constructor (conf) {
    this.conf = conf
    this.first = 0 // index of the node to ask first: the last that answered
    this.revision = '' // of the newest write: what every later read has to know
    this.written = new Map() // expiry by id, of sessions touched lately; the oldest first
  }

  async get (sid) {
    const query = new URLSearchParams()
    if (this.conf.consistency === 'strong') query.set('consistency', 'strong')
    else if (this.revision) query.set('at_least', this.revision)
    const answer = await this.ask('GET', `/${hash(sid)}`, { query, missing: true })
    return answer
  }

  /** False when the session has ended, and with it its id. */
  async set (sid, data, user, until) {
    const body = {
      token: sid, user_id: user, data: Buffer.from(data, 'utf8').toString('base64'), expires_at: new Date(until).toISOString()
    }
    return this.wrote(sid, until, await this.ask('PUT', `/${hash(sid)}`, { body, ended: true }))
  }

  async touch (sid, until) {
    const before = this.written.get(sid)
    if (before !== undefined && until >= before && until - before < this.conf.touchAfter * 1000) return true
    const body = { expires_at: new Date(until).toISOString() }
    return this.wrote(sid, until, await this.ask('POST', `/${hash(sid)}/touch`, { body, missing: true, ended: true }))
  }

  wrote (sid, until, answer) {
    this.written.delete(sid)
    if (answer === null) return false
    this.knows(answer.revision)
    if (this.conf.touchAfter > 0) {
      this.written.set(sid, until)
      if (this.written.size > 10_000) this.written.delete(this.written.keys().next().value)
    }
    return true
  }

  /** Answers of writes that went on at once come in any order. */
  knows (revision) {
    if (revision && !older(revision, this.revision)) this.revision = revision
  }

  async destroy (sid) {
    this.written.delete(sid)
    const answer = await this.ask('DELETE', `/${hash(sid)}`)
    this.knows(answer.revision)
  }

  async clear () {
    this.written.clear()
    for (let more = true; more;) {
      const answer = await this.ask('DELETE', '')
      this.knows(answer.revision)
      more = answer.more === true
    }
  }

  async * all () {
    for (let cursor = ''; ;) {
      const query = new URLSearchParams(cursor ? { cursor } : {})
      const page = await this.ask('GET', '', { query })
      yield * page.sessions
      cursor = page.next_cursor
      if (!cursor) return
    }
  }

  /**
   * Asks one node after the other until one answers. null: 404 where missing is
   * allowed, or 409 because the session has ended where that is. Every request
   * can be repeated.
   */
  async ask (method, path, { query, body, missing = false, ended = false } = {}) {
    const urls = this.conf.urls
    let failed
    for (let i = 0; i < Math.max(2, urls.length); i++) {
      const at = (this.first + i) % urls.length
      try {
        const answer = await this.once(urls[at], method, path, query, body)
        if (answer.ok) {
          this.first = at
          return answer.body
        }
        if (missing && answer.status === 404 && answer.body.error_type === 'session_not_found') return null
        if (ended && answer.status === 409 && answer.body.error_type === 'foreign_session_ended') return null
        failed = new RevocastError(`${method} of a session: ${answer.status} ${answer.body.error_type}: ${answer.body.error_message}`,
          { status: answer.status, type: answer.body.error_type })
        const clash = answer.status === 409 && answer.body.error_type === 'conflict' // with other nodes
        if (answer.status < 500 && !clash) throw failed
      } catch (err) {
        if (err === failed) throw err
        failed = new RevocastError(`${method} of a session: no answer from ${urls[at]}: ${err.message}`, { cause: err })
      }
    }
    throw failed
  }

  async once (base, method, path, query, body) {
    const search = query && query.size > 0 ? `?${query}` : ''
    const answer = await this.conf.fetch(`${base}/v1/store${path}${search}`, {
      method,
      headers: { authorization: `Bearer ${this.conf.key}`, ...(body && { 'content-type': 'application/json' }) },
      body: body && JSON.stringify(body),
      redirect: 'error',
      signal: AbortSignal.timeout(this.conf.timeout)
    })
    const text = await answer.text()
    let parsed
    try { parsed = JSON.parse(text) } catch { parsed = null }
    if (parsed === null || typeof parsed !== 'object') throw new Error(`status ${answer.status} and no JSON`)
    return { ok: answer.ok, status: answer.status, body: parsed }
  }
}

function hash (sid) { return createHash('sha256').update(sid, 'utf8').digest('hex') }

/**
 * Whether a revision is that of an earlier write than the other. Revisions are
 * stream:generation:sequence; of others the last to come counts.
 */
function older (revision, than) {
  const [, place, seq] = /^(.*):(\d+)$/.exec(revision) ?? []
  const [, placeThan, seqThan] = /^(.*):(\d+)$/.exec(than) ?? []
  return place !== undefined && place === placeThan && BigInt(seq) < BigInt(seqThan)
}

exports.revocastStore = revocastStore
exports.RevocastError = RevocastError
