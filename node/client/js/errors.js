/**
 * The one error of this package. code says what to do:
 *
 *   missing      no credential was shown                       401
 *   revoked      the session was revoked                       401
 *   expired      the JWT or the session is over                401
 *   invalid      nothing that this app issued, or not yet, or without its proof  401
 *   suspended    the app is suspended or deleted               403
 *   refused      the API refused the call; see type            its status
 *   stale        not known to be good now, and not to be asked 503
 *   unavailable  nobody who could tell has answered            503
 *
 * Only revoked, expired and invalid say that somebody is logged out. stale and
 * unavailable say "not now": never delete a cookie because of them.
 *
 * status, statusCode and headers are what Express, Fastify and others make an
 * answer of. No credential is ever in a message.
 */
export class RevocastError extends Error {
  constructor (code, message, { status, type = code, reason, details, requestId, headers, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause })
    this.name = 'RevocastError'
    this.code = code
    this.type = type
    this.status = this.statusCode = status ?? STATUS[code]
    if (reason !== undefined) this.reason = reason
    if (details !== undefined) this.details = details
    if (requestId !== undefined) this.requestId = requestId
    this.headers = headers ?? defaults(code, this.status)
  }
}

const STATUS = { missing: 401, revoked: 401, expired: 401, invalid: 401, suspended: 403, refused: 400, stale: 503, unavailable: 503 }

function defaults (code, status) {
  if (code === 'missing') return { 'www-authenticate': 'Bearer' } // RFC 6750 section 3.1: no error code when nothing was shown
  if (status === 401) return { 'www-authenticate': 'Bearer error="invalid_token"' }
  if (status === 503) return { 'retry-after': '1' }
  return {}
}
