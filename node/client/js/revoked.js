// A JWT minted this long after a revocation, by the nodes' clocks, was minted by a
// node that knew it: clocks of two nodes differ by at most 60 s, and a node is at
// most 15 s behind. One minted more than 60 s before it was minted before it.
const CLOCKS = 60
const MARGIN = CLOCKS + 15

// What was heard is kept for the longest life of a JWT and this many seconds.
const SLACK = 120

/**
 * What was revoked lately: sessions by id, and watermarks of users and of the
 * whole app. Nothing in it is ever taken back; it is forgotten once no JWT from
 * before can be good any more. All times in seconds since 1970, by nodes' clocks.
 */
export class Revoked {
  /** Longest life of a JWT in seconds. */
  life = 0
  /** active, suspended, deleted. */
  state = 'active'
  /**
   * JWTs that expire up to here are over, whatever the clock of this machine
   * says: some that were revoked are forgotten. A clock that is slow, or set
   * back, would revive them.
   */
  over = 0

  #sessions = new Map() // sid → {at, heard}, in the order in which they were heard
  #users = new Map() // "stream:user hash" → watermark
  #all = new Map() // stream → watermark

  get size () { return this.#sessions.size + this.#users.size + this.#all.size }

  /**
   * revoked; or a watermark of which iat does not say whether it concerns the
   * session, so that the API must; or undefined: nothing known against it.
   */
  look ({ sid, stream, userHash, iat }) {
    if (this.#sessions.has(sid)) return 'revoked'
    for (const mark of [this.#users.get(`${stream}:${userHash}`), this.#all.get(stream)]) {
      if (mark === undefined || mark.except.has(sid) || mark.good.has(sid) || iat > mark.at + MARGIN) continue
      return iat < mark.at - CLOCKS ? 'revoked' : mark
    }
    return undefined
  }

  /**
   * What there is against a session that a node has just called good: revoked, or
   * the watermarks that node must have known.
   */
  against ({ sid, stream, userHash }) {
    if (this.#sessions.has(sid)) return 'revoked'
    return [this.#users.get(`${stream}:${userHash}`), this.#all.get(stream)]
      .filter((mark) => mark !== undefined && !mark.except.has(sid) && !mark.good.has(sid))
  }

  /** Takes in what GET /v1/revocations says. at: when, by the node's clock. now: ms that only grow. */
  load (snapshot, at, now) {
    this.life = snapshot.jwt_life_seconds
    for (const sid of snapshot.sessions) this.revoke(sid, at, now)
    for (const u of snapshot.users) this.#mark(this.#users, `${u.stream}:${u.user_hash}`, u, snapshot.revision, now)
    for (const a of snapshot.all) this.#mark(this.#all, a.stream, a, snapshot.revision, now)
    // What it leaves out was revoked that much earlier, and JWTs from then are over.
    this.over = Math.max(this.over, at - SLACK + MARGIN)
  }

  /** Takes in an event of the feed. */
  apply (e, now) {
    switch (e.type) {
      case 'session.revoked':
        this.revoke(e.session_id, seconds(e.revoked_at ?? e.at), now)
        break
      case 'user.revoked':
        this.#mark(this.#users, `${e.stream}:${e.user_hash}`, e, e.revision, now)
        break
      case 'app.revoked':
        this.#mark(this.#all, e.stream, e, e.revision, now)
        break
      case 'app.suspended': this.become('suspended'); break
      case 'app.resumed': this.become('active'); break
      case 'app.deleted': this.become('deleted'); break
    }
  }

  /** Sets the state of the app. None follows deleted. */
  become (state) {
    if (!['active', 'suspended', 'deleted'].includes(state)) throw new Error('the state of the app is unknown')
    if (this.state !== 'deleted') this.state = state
  }

  revoke (sid, at, now) {
    if (typeof sid !== 'string' || sid.length !== 22 || Number.isNaN(at)) throw new Error('a revocation names no session or no time')
    const held = this.#sessions.get(sid)
    if (held === undefined) this.#sessions.set(sid, { at, heard: now })
    else held.at = Math.max(held.at, at)
  }

  #mark (marks, key, e, revision, now) {
    const at = seconds(e.revoked_at)
    if (!Number.isInteger(e.stream) || Number.isNaN(at)) throw new Error('a revocation names no stream or no time')
    const held = marks.get(key)
    // The newest is the whole truth: it spares no session that an older one ended.
    if (held !== undefined && held.at > at) return
    const same = held !== undefined && held.at === at
    marks.delete(key) // so that the order stays that of hearing
    marks.set(key, {
      at, revision, except: new Set(same ? [...(e.except_session_ids ?? [])].filter((sid) => held.except.has(sid)) : e.except_session_ids),
      good: same ? held.good : new Set(), heard: now
    })
  }

  /** Forgets what no JWT can need any more. */
  forget (now) {
    for (const kept of [this.#sessions, this.#users, this.#all]) {
      for (const [key, one] of kept) {
        if (now - one.heard < (this.life + SLACK) * 1000) break
        kept.delete(key)
        this.over = Math.max(this.over, one.at + this.life + MARGIN)
      }
    }
  }
}

const seconds = (text) => Date.parse(text) / 1000
