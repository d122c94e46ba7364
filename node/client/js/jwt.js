import { createHash } from 'node:crypto'
import { compactVerify } from 'jose'
import { RevocastError } from './errors.js'

/** The only algorithms that a node signs with. */
export const ALGS = ['ES256', 'RS256', 'EdDSA']

const MAX_JWT = 8192 // characters; a node mints none that is longer
const STYTCH = 'https://stytch.com/session'
const STREAMBIRD = 'https://streambird.io/jwt/session'

const bad = (reason, why) => new RevocastError('invalid', `the JWT is not one of this app: ${why}`, { reason })

/** Whether the credential is to be read as a JWT, by the rule that nodes have. No token of ours has a dot. */
export const looksLikeJWT = (text) => /^ey[^.]*\.[^.]*\.[^.]*$/.test(text)

/**
 * Splits a JWT and reads its header, by rules that are stricter than those of
 * jose: exactly alg, kid and typ, so that nothing in it brings a key, a URL, an
 * extension or another way to read it; exact base64url; no member twice.
 */
export function readHeader (jwt) {
  if (jwt.length > MAX_JWT) throw bad('malformed', `over ${MAX_JWT} characters`)
  const parts = jwt.split('.')
  if (parts.length !== 3) throw bad('malformed', 'not three parts')
  const [header, payload] = parts.map(exactBytes)
  const h = exactObject(header, 'header')
  if (Object.keys(h).sort().join() !== 'alg,kid,typ') throw bad('malformed', 'the header has not exactly alg, kid and typ')
  if (!ALGS.includes(h.alg)) throw bad('bad_signature', 'alg')
  if (h.typ !== 'at+jwt' && h.typ !== 'JWT') throw bad('wrong_type', 'typ')
  if (typeof h.kid !== 'string' || !/^[\w-]{1,64}$/.test(h.kid)) throw bad('unknown_key', 'kid')
  return { header: h, payload }
}

function exactBytes (part) {
  const bytes = Buffer.from(part, 'base64url')
  // Decoding forgives other characters and unused bits: two texts would be one JWT.
  if (part === '' || bytes.toString('base64url') !== part) throw bad('malformed', 'base64url')
  return bytes
}

function exactObject (bytes, what) {
  let text, value
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    value = JSON.parse(text)
  } catch { throw bad('malformed', `the ${what} is no JSON`) }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad('malformed', `the ${what} is no object`)
  // In valid JSON a string before a colon is the name of a member. JSON.parse
  // keeps one of two that have the same name: then it has fewer.
  const written = [...text.matchAll(/"(?:[^"\\]|\\.)*"\s*(:?)/g)].filter((m) => m[1]).length
  if (written !== members(value, 1)) throw bad('malformed', `the ${what} has a member twice`)
  return value
}

function members (value, depth) {
  if (typeof value !== 'object' || value === null) return 0
  if (depth > 8) throw bad('malformed', 'nested too deep')
  let n = Array.isArray(value) ? 0 : Object.keys(value).length
  for (const inner of Object.values(value)) n += members(inner, depth + 1)
  return n
}

/**
 * What a JWT says, after its signature was checked with the key. Times are not
 * judged here: a JWT is read once and judged at every request.
 */
export async function readJWT (jwt, { header, payload }, key, { app, issuer, audience }) {
  try {
    await compactVerify(jwt, key, { algorithms: [header.alg] })
  } catch (err) {
    throw bad('bad_signature', err.code ?? 'signature')
  }
  const c = exactObject(payload, 'payload')
  for (const name of ['iat', 'nbf', 'exp']) {
    if (!Number.isInteger(c[name]) || c[name] < 0 || c[name] >= 1e12) throw bad('bad_claims', name)
  }
  if (c.exp <= c.iat) throw bad('bad_claims', 'exp')
  const native = header.typ === 'at+jwt'
  if (c.iss !== (native ? `${issuer}/v1/apps/${app}` : issuer)) throw bad('wrong_issuer', 'iss')
  const aud = Array.isArray(c.aud) && c.aud.length === 1 ? c.aud[0] : c.aud
  if (aud !== audience) throw bad('wrong_audience', 'aud')
  if (typeof c.sub !== 'string' || c.sub === '') throw bad('bad_claims', 'sub')
  const { profile, sid, expires } = native ? { profile: 'native', sid: c.sid, expires: c.sxp } : vendor(c)
  const stream = streamOf(sid)
  if (stream === undefined) throw bad('bad_claims', 'session id')
  return {
    profile, sid, stream, kid: header.kid, iat: c.iat, nbf: c.nbf, exp: c.exp, user: c.sub, userHash: userHash(app, c.sub),
    bound: c.cnf !== undefined,
    session: deepFreeze({
      sessionId: sid, userId: c.sub, appId: app, profile, source: 'local', issuedAt: new Date(c.iat * 1000), jwtExpiresAt: new Date(c.exp * 1000),
      ...(expires !== undefined && { expiresAt: expires }), claims: c
    }, expires)
  }
}

function vendor (c) {
  if (c[STYTCH] !== undefined) return { profile: 'stytch', sid: c[STYTCH]?.id }
  if (c[STREAMBIRD] !== undefined) return { profile: 'streambird', sid: c[STREAMBIRD]?.id }
  if (c.sid !== undefined && c.v === 2) return { profile: 'clerk', sid: c.sid }
  throw bad('bad_claims', 'of no known profile')
}

/** The number of the stream that is the session's home: byte 0 of its id. undefined: not the id of a session. */
export function streamOf (sid) {
  if (typeof sid !== 'string' || sid.length !== 22) return undefined
  const bytes = Buffer.from(sid, 'base64url')
  return bytes.length === 16 && bytes.toString('base64url') === sid ? bytes[0] : undefined
}

/** The base URL in the issuer of the app, or of all apps: JWTs of vendors' shapes have the latter. */
export function baseOf (issuer, app) {
  const base = String(issuer).replace(/\/+$/, '')
  if (!/^https?:\/\/[^/]/.test(base)) throw new TypeError('the issuer is no URL')
  return base.endsWith(`/v1/apps/${app}`) ? base.slice(0, -`/v1/apps/${app}`.length) : base
}

/** How events name a user: 22 characters that say nothing about the id. */
export const userHash = (app, user) => createHash('sha256').update(`${app}\0${user}`).digest('base64url').slice(0, 22)

// One session object answers all requests with the same JWT: whoever could change
// it would change what others are permitted.
export function deepFreeze (value) {
  if (typeof value === 'object' && value !== null && !(value instanceof Date) && !Object.isFrozen(value)) {
    Object.freeze(value)
    for (const inner of Object.values(value)) deepFreeze(inner)
  }
  return value
}
