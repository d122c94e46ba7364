import { importJWK } from 'jose'
import { ALGS, baseOf } from './jwt.js'
import { elapsed } from './clock.js'

const COOLDOWN = 10_000 // ms between two fetches that unknown kids cause
const MIN_AGE = 60_000
const MAX_AGE = 3_600_000

/**
 * The app's public keys, and the issuer of its JWTs. A fetch that succeeds replaces them; one that fails
 * leaves them as they are, so that JWTs go on being verified while no node can be
 * reached. A compromised key never comes back, whatever a node that lags lists.
 */
export class Keys {
  #api
  #clock
  #onProblem
  #keys = new Map() // kid → {alg, key}
  #compromised = new Set()
  #asked // when the last fetch began
  #fetched // when the last one that succeeded began
  #maxAge = 300_000
  #fetching

  constructor (api, clock, onProblem, issuer) {
    /** Public base URL of the nodes; undefined until it was asked for. */
    this.issuer = issuer
    this.#api = api
    this.#clock = clock
    this.#onProblem = onProblem
  }

  /** The key, or undefined. */
  get (kid) { return this.#keys.get(kid) }

  /** Fetches a set that is over its age again, without waiting for it. */
  renew (now) {
    if (this.#older(this.#fetched, this.#maxAge, now) && this.#older(this.#asked, COOLDOWN, now)) this.#fetch().catch(this.#onProblem)
  }

  compromised (kid) { return this.#compromised.has(kid) }

  /**
   * The key, also if it has to be fetched. null: a set fetched just now lacks it.
   * undefined: nobody could be asked, or it was not asked for again so soon; that
   * says nothing about the JWT.
   */
  async find (kid) {
    if (this.#compromised.has(kid)) return null
    const entry = this.get(kid)
    if (entry !== undefined) return entry
    if (this.#fetching === undefined && !this.#older(this.#asked, COOLDOWN, this.#clock.now())) return undefined
    try { await this.#fetch() } catch (err) {
      this.#onProblem(err)
      return undefined
    }
    return this.#keys.get(kid) ?? null
  }

  /** Drops keys for good and asks for their successors, which sign at once. */
  compromise (kids) {
    const listed = kids.filter((kid) => !this.#compromised.has(kid))
    for (const kid of listed) {
      this.#compromised.add(kid)
      this.#keys.delete(kid)
    }
    if (listed.length > 0 && this.#fetched !== undefined) this.#fetch().catch(this.#onProblem)
  }

  #older (then, ms, now) { return then === undefined || elapsed(then, now) >= ms }

  /** One fetch at a time serves all who wait. */
  #fetch () {
    this.#fetching ??= this.#load().finally(() => { this.#fetching = undefined })
    return this.#fetching
  }

  async #load () {
    const began = this.#asked = this.#clock.now()
    const path = `/v1/apps/${this.#api.app}`
    if (this.issuer === undefined) {
      const { body } = await this.#api.call('GET', `${path}/.well-known/openid-configuration`)
      this.issuer = baseOf(body.issuer, this.#api.app)
    }
    const { body, headers } = await this.#api.call('GET', `${path}/jwks`)
    if (!Array.isArray(body.keys)) throw new Error('the key set of the app has no keys')
    // Who shows a private key has lost it, and with it all that the set says.
    if (body.keys.some((k) => k?.d !== undefined || k?.kty === 'oct')) throw new Error('the key set of the app shows a private key: it is not used')
    const keys = new Map()
    for (const jwk of body.keys) {
      if (typeof jwk?.kid !== 'string' || !ALGS.includes(jwk.alg) || (jwk.use !== undefined && jwk.use !== 'sig')) continue
      keys.set(jwk.kid, { alg: jwk.alg, key: await importJWK(jwk, jwk.alg) })
    }
    for (const kid of this.#compromised) keys.delete(kid)
    this.#keys = keys
    this.#fetched = began
    const age = /(?:^|[\s,])max-age=(\d+)/.exec(headers.get('cache-control') ?? '')
    if (age) this.#maxAge = Math.min(Math.max(age[1] * 1000, MIN_AGE), MAX_AGE)
  }
}
