// A JWT minted this long after a revocation, by the nodes' clocks, was minted by a
// node that knew it: clocks of two nodes differ by at most 60 s, and a node is at
// most 31 s behind, for a lease of up to 30 s. One minted more than 60 s before it was
// minted before it.
const CLOCKS = 60
const MARGIN = CLOCKS + 31

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
  #marks = new Map() // "stream:user hash", or "stream:" for everybody → watermarks; likewise

  get size () { return this.#sessions.size + this.#marks.size }

  /**
   * revoked; or a watermark of which iat does not say whether it concerns the
   * session, so that the API must; or undefined: nothing known against it.
   */
  look ({ sid, stream, userHash, iat }) {
    if (this.#sessions.has(sid)) return 'revoked'
    if (this.#marks.size === 0) return undefined
    let asked
    for (const mark of this.#of(stream, userHash)) {
      if (mark.except.has(sid) || mark.good.has(sid) || iat > mark.until) continue
      if (iat < mark.from - CLOCKS) return 'revoked'
      asked ??= mark
    }
    return asked
  }

  #of (stream, userHash) {
    return [...(this.#marks.get(`${stream}:${userHash}`) ?? []), ...(this.#marks.get(`${stream}:`) ?? [])]
  }

  /**
   * What there is against a session that a node has just called good: revoked, or
   * the watermarks that node must have known.
   */
  against ({ sid, stream, userHash }) {
    if (this.#sessions.has(sid)) return 'revoked'
    return this.#of(stream, userHash).filter((mark) => !mark.except.has(sid) && !mark.good.has(sid))
  }

  /** Takes in what GET /v1/revocations says. at: when, by the node's clock. now: ms that only grow. */
  load (snapshot, at, now) {
    this.life = snapshot.jwt_life_seconds
    for (const sid of snapshot.sessions) this.revoke(sid, at, now)
    for (const mark of [...snapshot.users, ...snapshot.all]) {
      // Without it, the home of the sessions may not know of the watermark yet.
      const until = mark.minted_until === undefined ? Infinity : seconds(mark.minted_until)
      this.#mark(mark, { at, until, revision: snapshot.revision, now })
    }
    // What it leaves out was revoked that much earlier, and JWTs from then are over.
    this.over = Math.max(this.over, at - SLACK + MARGIN)
  }

  /** Takes in an event of the feed. */
  apply (e, now) {
    switch (e.type) {
      case 'session.revoked':
        this.revoke(e.session_id, seconds(e.at), now)
        break
      case 'user.revoked':
        if (typeof e.user_hash !== 'string') throw new Error('a revocation names no user')
        this.#mark(e, told(e, now))
        break
      case 'app.revoked':
        this.#mark({ ...e, user_hash: undefined }, told(e, now))
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
    this.#sessions.delete(sid) // so that the order stays that of hearing
    this.#sessions.set(sid, { at: Math.max(held?.at ?? at, at), heard: now })
  }

  /**
   * A watermark: from is when the revocation was asked for, at when the log took it.
   * No JWT minted after until is of a session that it took. While the sessions'
   * region is cut off, JWTs of theirs go on to be minted there: at is then later than
   * from, and of one that was recorded elsewhere meanwhile there is no until.
   */
  #mark ({ stream, user_hash: user, revoked_at: asked, except_session_ids: except = [] }, { at, until, revision, now }) {
    const from = seconds(asked)
    if (!Number.isInteger(stream) || [from, at, until].some(Number.isNaN)) throw new Error('a revocation names no stream or no time')
    const key = `${stream}:${user ?? ''}`
    const mark = { from, at, until: Math.max(until, from + MARGIN), revision, except: new Set(except), good: new Set(), heard: now }
    // Told again, or said by one that spares nobody.
    const others = (this.#marks.get(key) ?? []).filter((m) => {
      if (m.from === from && String([...m.except]) === String([...mark.except])) {
        if (m.revision === revision) mark.good = m.good // otherwise it may be of another stream, with more to take
        mark.until = Math.max(mark.until, m.until)
        return false
      }
      return mark.except.size > 0 || m.from > mark.from || m.until > mark.until
    })
    this.#marks.delete(key) // so that the order stays that of hearing
    this.#marks.set(key, [...others, mark])
  }

  /** Forgets what no JWT can need any more. */
  forget (now) {
    for (const kept of [this.#sessions, this.#marks]) {
      for (const [key, one] of kept) {
        const last = Array.isArray(one) ? one.at(-1) : one
        if (now - last.heard < (this.life + SLACK) * 1000) break
        kept.delete(key)
        for (const { at } of [one].flat()) this.over = Math.max(this.over, at + this.life + MARGIN)
      }
    }
  }
}

const seconds = (text) => Date.parse(text) / 1000

function told ({ at, revision, region }, now) {
  const logged = seconds(at)
  return { at: logged, until: revision.split(':')[0] === region ? logged + MARGIN : Infinity, revision, now }
}
