import { randomBytes } from 'node:crypto'
import { elapsed } from './clock.js'
import { RevocastError } from './errors.js'
import { refusal } from './api.js'
import { EventStream } from './sse.js'

// What decides about JWTs. The other states of sessions are not asked for.
const TYPES = ['session.revoked', 'user.revoked', 'app.revoked', 'app.suspended', 'app.resumed', 'app.deleted', 'key.compromised']

const STATES = ['app.suspended', 'app.resumed', 'app.deleted']

const MAX_WAIT = 5000 // ms between two attempts to connect, at most
const MAX_PINGS = 8 // outstanding on one connection
const LAPSE = 60_000 // ms without a lease, and without a catch-up, after which a stream is not taken up again without one
const CAUGHT = 300_000 // ms for which a catch-up is not repeated because JWTs live longer than it says

/**
 * Follows the revocations of the app, and holds a lease per stream: the proof
 * that everything that was revoked up to some seconds ago was heard. A ping with
 * a nonce goes to the node, and comes back through the feed, behind everything
 * that was sent before it; the lease runs from the moment the ping was *sent*, less
 * what the node itself lags. No two clocks are compared. A feed that is black-holed
 * lets no ping come back, so the leases end, whether TCP notices or not.
 */
export class Feed {
  #api
  #revoked
  #keys
  #clock
  #leaseMs
  #onEvent
  #onProblem
  #leases = new Map() // stream → {sent, staleness}
  #regions = new Map() // region → stream, of those that the feed has told of
  #cursor // everything up to here was heard; undefined: /v1/revocations is needed
  #newest = '' // the last cursor there was
  #stateAt = '' // revision of what the state of the app was last learned from
  #caught // when they were last caught up with
  #covered = new Set() // regions whose revocations were heard from the beginning on
  #stopping
  #running
  #live // settles the promise of start
  #connection // the one that is open

  constructor ({ api, revoked, keys, clock, leaseMs, onEvent, onProblem }) {
    this.#api = api
    this.#revoked = revoked
    this.#keys = keys
    this.#clock = clock
    this.#leaseMs = leaseMs
    this.#onEvent = onEvent
    this.#onProblem = onProblem
  }

  /** Whether there is a lease on the stream at that reading of the clocks. */
  holds (stream, now) { return this.#left(stream, now) > 0 }

  #left (stream, now) {
    const lease = this.#leases.get(stream)
    return lease === undefined ? 0 : this.#leaseMs - lease.staleness - elapsed(lease.sent, now)
  }

  /** Something up to here was heard of each stream; undefined: nothing. */
  get cursor () { return this.#newest || undefined }

  /** The newest position that was heard of the stream, undefined when none is known. */
  position (stream) {
    for (const part of this.#newest.split(',')) {
      if (this.#regions.get(part.split(':')[0]) === stream) return part
    }
    return undefined
  }

  /** The position in CONFIG from which the state of the app is known, undefined when none is. */
  get stateAt () { return this.#stateAt.split(',').find((part) => part.startsWith('_config:')) }

  status () {
    const now = this.#clock.now()
    return {
      connected: this.#connection?.feed !== undefined,
      node: this.#connection?.node,
      revision: this.cursor,
      streams: [...this.#regions].map(([region, stream]) => ({ region, stream, leaseMs: Math.max(0, Math.round(this.#left(stream, now))) })),
      revocations: this.#revoked.size
    }
  }

  /** Begins to follow. The promise is for the first lease. */
  start () {
    if (this.#stopping?.signal.aborted && this.#running !== undefined) { // the one before has not ended yet
      const again = this.#running.then(() => this.start())
      again.catch(() => {})
      return again
    }
    if (this.#running === undefined) {
      this.#stopping = new AbortController()
      this.started = new Promise((resolve, reject) => { this.#live = { resolve, reject } })
      this.started.catch(() => {}) // who does not wait for it has onProblem
      this.#running = this.#run(this.#stopping.signal).finally(() => { this.#running = undefined })
    }
    return this.started
  }

  /** Ends the feed. Leases are void at once: what is revoked from now on is not heard. */
  async stop () {
    this.#stopping?.abort()
    this.#leases.clear()
    await this.#running
  }

  async #run (signal) {
    let wait = 0
    while (!signal.aborted) {
      let heard = false
      try {
        if (this.#cursor === undefined) await this.#catchUp()
        if (!signal.aborted) heard = await this.#follow(signal)
      } catch (err) {
        if (!signal.aborted && !this.#report(err)) break
      }
      this.#connection = undefined
      // Processes that lost the same node do not come back together.
      wait = heard ? 100 : Math.min(MAX_WAIT, Math.max(200, wait * 2))
      await pause(wait * (0.5 + Math.random() / 2), signal)
    }
    this.#leases.clear()
    this.#cursor = undefined
    this.#live?.reject(new RevocastError('unavailable', 'the feed was stopped', { type: 'stopped' }))
    this.#live = undefined
  }

  /** Tells of what went wrong. false: it will not go better, and nobody has been told yet that the feed is there. */
  #report (err) {
    this.#onProblem(err)
    if (err.code !== 'refused' || this.#live === undefined) {
      if (this.#connection !== undefined) this.#api.leave(this.#connection.url)
      return true
    }
    this.#live.reject(err)
    this.#live = undefined
    return false
  }

  async #catchUp () {
    const began = this.#clock.now()
    const { body, headers } = await this.#api.call('GET', '/v1/revocations')
    for (const name of ['sessions', 'users', 'all', 'compromised_keys', 'streams']) {
      if (!Array.isArray(body[name])) throw new Error(`the revocations have no ${name}`)
    }
    if (typeof body.revision !== 'string' || !(body.jwt_life_seconds > 0)) throw new Error('the revocations have no revision or no jwt_life_seconds')
    const at = Date.parse(headers.get('date') ?? '') || this.#clock.wall()
    this.#revoked.load(body, at / 1000, performance.now())
    this.#keys.compromise(body.compromised_keys)
    // The answer may be of a node that lags: then the feed tells the rest.
    if (this.#learns(body.revision)) this.#revoked.become(body.app_state)
    this.#covered = new Set(parts(body.revision).keys())
    this.#caught = began
    this.#cursor = body.revision
    if (!covers(this.#newest, this.#cursor)) this.#newest = this.#cursor
  }

  /** One connection, until it ends. Whether it ever gave a lease. */
  async #follow (signal) {
    const url = this.#api.url
    const query = new URLSearchParams({ since: this.#cursor, types: TYPES.join() })
    const abort = new AbortController()
    const c = this.#connection = { url, pings: new Map(), answered: this.#clock.now(), ended: false, leased: false }
    c.end = (why) => {
      c.ended = true
      abort.abort(new Error(why))
    }
    const stop = () => c.end('stopped')
    signal.addEventListener('abort', stop)
    // A connection on which nothing comes back is given up while the leases still
    // hold, so that another node can take over before they end.
    c.watch = setInterval(() => {
      const most = c.feed === undefined ? Math.min(5000, this.#leaseMs / 2) : this.#leaseMs * 0.75
      if (elapsed(c.answered, this.#clock.now()) > most) c.end('the feed is silent')
    }, Math.min(500, this.#leaseMs / 8))
    try {
      const res = await this.#api.fetch(`${url}/v1/events?${query}`, {
        headers: { ...this.#api.headers, accept: 'text/event-stream' }, redirect: 'error', cache: 'no-store', signal: abort.signal
      })
      if (!res.ok) await this.#refused(res)
      if (!/^text\/event-stream\b/.test(res.headers.get('content-type') ?? '')) throw new Error('the feed is no text/event-stream')
      const stream = new EventStream((e) => this.#handle(c, e))
      for await (const bytes of res.body) {
        stream.push(bytes)
        if (abort.signal.aborted) throw abort.signal.reason
      }
      throw new Error('the feed ended')
    } catch (err) {
      if (c.feed === undefined) throw err.code ? err : unavailable(abort.signal.reason ?? err)
      if (!signal.aborted) this.#report(unavailable(abort.signal.reason ?? err))
      return c.leased
    } finally {
      abort.abort()
      signal.removeEventListener('abort', stop)
      clearInterval(c.watch)
      clearTimeout(c.timer)
    }
  }

  async #refused (res) {
    let json
    try { json = JSON.parse(await res.text()) } catch { /* a page of some proxy */ }
    if (res.status === 410) this.#restart()
    throw res.status === 410 ? unavailable(new Error('the cursor is gone')) : refusal('GET', '/v1/events', res, json)
  }

  /** Begins anew with /v1/revocations, without leases: something may be missing. What was heard stays heard. */
  #restart () {
    this.#cursor = undefined
    this.#leases.clear()
  }

  #handle (c, { type, data, id }) {
    if (c.ended) return // what came in one piece with the reason
    const value = JSON.parse(data)
    if (type === 'hello') {
      if (!(value.jwt_life_seconds > 0)) throw new Error('the feed names no jwt_life_seconds')
      c.feed = value.feed
      c.node = value.node
      // Of JWTs that live longer than was said then, revocations may be forgotten: they
      // are read again first. Nodes may differ in that for a while, so not too often.
      if (value.jwt_life_seconds > this.#revoked.life && elapsed(this.#caught, this.#clock.now()) >= CAUGHT) {
        this.#cursor = undefined
        return c.end('JWTs live longer than what was caught up with')
      }
      this.#revoked.life = Math.min(this.#revoked.life, value.jwt_life_seconds)
      this.#ping(c)
    } else if (type === 'heartbeat') {
      this.#heartbeat(c, value)
    } else if (type === 'resync') {
      if (value.reason !== 'slow') this.#restart()
      c.end(`the feed wants a resync: ${value.reason}`)
    } else {
      this.#apply(value)
    }
    if (c.ended) return
    if (id !== undefined) this.#cursor = this.#newest = id
    this.#revoked.forget(performance.now())
  }

  /** An event that cannot be read throws: the connection ends, and with it the leases. */
  #apply (event) {
    if (event.app_id === undefined || event.app_id === this.#api.app) {
      if (!STATES.includes(event.type) || this.#learns(event.revision)) this.#revoked.apply(event, performance.now())
      if (event.type === 'key.compromised') this.#keys.compromise([event.kid])
    }
    void this.#tell(event)
  }

  /** Whether the revision says something about the state of the app, which is not one that was left since. */
  #learns (revision) {
    if (behind(revision, this.#stateAt)) return false
    this.#stateAt = revision
    return true
  }

  /** Tells the application, at once. What it does wrong, also later, is no end of the feed nor of the process. */
  async #tell (event) {
    try { await this.#onEvent?.(event) } catch (err) { this.#onProblem(err) }
  }

  #heartbeat (c, { nonce, streams }) {
    for (const s of streams) this.#regions.set(s.region, s.stream)
    const sent = c.pings.get(nonce)
    if (sent === undefined) return
    for (const [older] of c.pings) { // the answers come in order, so those before it are lost
      c.pings.delete(older)
      if (older === nonce) break
    }
    c.answered = sent
    const now = this.#clock.now()
    let fresh = 0
    for (const s of streams) {
      if (s.stale !== undefined || !(s.staleness_ms >= 0)) continue
      // Of a stream that began after this feed, or was out of reach when it did, the
      // first revocations were not heard. Of one that was out of reach for long, those
      // that were recorded elsewhere meanwhile may be forgotten, although its own
      // region, which is yet to be told of them, went on minting.
      if (!this.#covered.has(s.region) || this.#lapsed(s.stream, now)) {
        this.#cursor = undefined
        return c.end(`the revocations of region ${s.region} are to be read first`)
      }
      if (this.#leaseMs - s.staleness_ms - elapsed(sent, now) > this.#left(s.stream, now)) {
        this.#leases.set(s.stream, { sent, staleness: s.staleness_ms })
      }
      if (s.region !== '_config') fresh++
    }
    if (fresh > 0) {
      c.leased = true
      this.#live?.resolve()
      this.#live = undefined
    } else if (this.#api.urls.length > 1) {
      c.end('the node is fenced') // another one may not be
    }
  }

  #lapsed (stream, now) {
    const lease = this.#leases.get(stream)
    return elapsed(this.#caught, now) > LAPSE && (lease === undefined || elapsed(lease.sent, now) > LAPSE)
  }

  #ping (c) {
    clearTimeout(c.timer)
    const nonce = randomBytes(12).toString('base64url')
    c.pings.set(nonce, this.#clock.now()) // before it is sent: later would be a promise too much
    if (c.pings.size > MAX_PINGS) c.pings.delete(c.pings.keys().next().value)
    this.#api.at(c.url, 'POST', '/v1/events/ping', { body: { feed: c.feed, nonce } }).catch((err) => {
      if (this.#connection !== c) return
      if (err.type === 'feed_not_found') c.end('the node has ended the feed')
      else this.#onProblem(err) // the watch ends what stays silent
    })
    c.timer = setTimeout(() => this.#ping(c), this.#leaseMs / 3 * (0.85 + Math.random() * 0.15))
  }
}

const unavailable = (err) => new RevocastError('unavailable', `the feed: ${err.message}`, { type: 'feed_lost', cause: err })

const parts = (cursor) => new Map((cursor ?? '').split(',').map((part) => {
  const [region, generation, sequence] = part.split(':')
  return [region, { generation, sequence: Number(sequence) }]
}))

/** Whether who knows the cursor knows the revision too. */
export function covers (cursor, revision) {
  const known = parts(cursor)
  for (const [region, { generation, sequence }] of parts(revision)) {
    const at = known.get(region)
    if (at === undefined || at.generation !== generation || !(at.sequence >= sequence)) return false
  }
  return true
}

/** The cursor of who knows both; either may be undefined. */
export function joined (a, b) {
  if (a === undefined || b === undefined) return a ?? b
  const both = parts(a)
  for (const [region, at] of parts(b)) {
    const held = both.get(region)
    const [older, newer] = held === undefined ? [0, 1] : [Number(held.generation), Number(at.generation)]
    if (newer > older || (newer === older && at.sequence > held.sequence)) both.set(region, at)
  }
  return [...both].map(([region, { generation, sequence }]) => `${region}:${generation}:${sequence}`).sort().join(',')
}

/** Whether CONFIG, in which the states of apps are, is less far in a than in b. */
function behind (a, b) {
  const [x, y] = [parts(a).get('_config'), parts(b).get('_config')]
  return x !== undefined && y !== undefined && x.generation === y.generation && x.sequence < y.sequence
}

const pause = (ms, signal) => new Promise((resolve) => {
  const end = () => {
    clearTimeout(timer)
    signal.removeEventListener('abort', end) // which lives as long as the client
    resolve()
  }
  const timer = setTimeout(end, ms)
  signal.addEventListener('abort', end)
  if (signal.aborted) end()
})
