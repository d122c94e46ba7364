import { RevocastError } from './errors.js'

// Where a browser has its session. __Host-session can be set by the host alone.
const COOKIES = ['__Host-session', 'session']

/**
 * What a request shows: the header Authorization (Bearer, or DPoP with a proof),
 * else a cookie. A header that is there and is not understood is no credential,
 * and no cookie counts in its place.
 */
function shown (header, cookies, method, url) {
  const authorization = header('authorization')
  if (authorization !== undefined) {
    const [, scheme, text] = /^(Bearer|DPoP) +([\x21-\x7e]+) *$/i.exec(authorization) ?? []
    if (scheme === undefined) throw new RevocastError('missing', 'the header Authorization is neither Bearer nor DPoP')
    if (scheme.toLowerCase() === 'bearer') return { credential: text }
    return { credential: text, dpop: { proof: header('dpop') ?? '', htm: method, htu: url() } }
  }
  const sent = header('cookie') ?? ''
  for (const name of cookies) {
    const found = sent.split(';').map((c) => c.trim()).filter((c) => c.startsWith(`${name}=`))
    if (found.length > 1) throw new RevocastError('invalid', `the cookie ${name} was sent twice`, { reason: 'malformed' })
    if (found.length === 1) return { credential: found[0].slice(name.length + 1).replace(/^"(.*)"$/, '$1') }
  }
  return {}
}

/**
 * The session of a request; null where none is needed and none that is good was shown.
 * target: path or URL that was requested. host: scheme and host, as far as the request says.
 */
async function sessionOf (client, { cookies = COOKIES, optional = false, origin }, header, method, target, host) {
  try {
    // What a proof is about is the request as the client made it, not as a proxy handed it on.
    const seen = () => `${origin ?? host()}${pathOf(target)}`
    const { credential, dpop } = shown(header, cookies, method, seen)
    return await client.verify(credential, { dpop })
  } catch (err) {
    // "Not now" is no "nobody": who may be logged in must not be taken for a guest.
    if (optional && ['missing', 'revoked', 'expired', 'invalid'].includes(err.code)) return null
    throw err
  }
}

/**
 * The path of what was requested, character by character: it is never read as a URL of
 * its own. The host that "//host/path", or "http://host/path" in a request line, names is
 * for who asks to choose, and a proof made for another server would be good there.
 */
const pathOf = (target) => target.replace(/^[a-z][a-z\d+.-]*:\/\/[^/?#]*/i, '').split(/[?#]/)[0] || '/'

function checked (client, options = {}, more = 'onRefresh') {
  const known = ['cookies', 'optional', 'origin', more]
  if (typeof client?.verify !== 'function') throw new TypeError('the first argument is a client')
  for (const name of Object.keys(options)) {
    if (!known.includes(name)) throw new TypeError(`unknown option ${name}; there are ${known.join(', ')}`)
  }
  const { cookies, origin } = options
  if (cookies !== undefined && !Array.isArray(cookies)) throw new TypeError('option cookies: a list of names')
  if (origin !== undefined && !/^https?:\/\/[^/?#]+\/?$/.test(origin)) throw new TypeError('option origin: scheme and host, such as https://shop.example')
  return { ...options, ...(origin !== undefined && { origin: new URL(origin).origin }) }
}

const one = (value) => Array.isArray(value) ? value.join(', ') : value

/**
 * Middleware for Express (and anything that calls (req, res, next)): req.auth is
 * the session. Otherwise next(err), with the status and the headers to answer.
 */
export function expressAuth (client, options) {
  const o = checked(client, options)
  return async (req, res, next) => {
    try {
      req.auth = await sessionOf(client, o, (name) => one(req.headers[name]), req.method, req.originalUrl, () => `${req.protocol}://${req.get('host')}`)
      if (req.auth?.jwt !== undefined) await o.onRefresh?.(req.auth, req, res)
    } catch (err) {
      return next(err)
    }
    next()
  }
}

/** Plugin for Fastify: request.auth is the session, in the scope in which it is registered. */
export function fastifyAuth (client, options) {
  const o = checked(client, options)
  const plugin = async (fastify) => {
    if (!fastify.hasRequestDecorator('auth')) fastify.decorateRequest('auth', null) // a scope around this one may have its own options
    fastify.addHook('onRequest', async (request, reply) => {
      request.auth = await sessionOf(client, o, (name) => one(request.headers[name]), request.method, request.originalUrl ?? request.url,
        () => `${request.protocol}://${request.host}`)
      if (request.auth?.jwt !== undefined) await o.onRefresh?.(request.auth, request, reply)
    })
  }
  plugin[Symbol.for('skip-override')] = true // the hook is the scope's own, as with fastify-plugin
  plugin[Symbol.for('fastify.display-name')] = 'revocast'
  return plugin
}

const requestOf = (client, o, request) =>
  sessionOf(client, o, (name) => request.headers.get(name) ?? undefined, request.method, request.url, () => new URL(request.url).origin)

/**
 * Wraps a route handler of Next's app router, or any Request → Response: it gets
 * the session as auth in its context. Otherwise the answer is an error.
 */
export function nextRoute (client, handler, options) {
  const o = checked(client, options)
  return async (request, context) => {
    let auth
    try {
      auth = await requestOf(client, o, request)
    } catch (err) {
      return errorResponse(err)
    }
    const response = await handler(request, { ...context, auth })
    if (auth?.jwt !== undefined) await o.onRefresh?.(auth, request, response)
    return response
  }
}

/**
 * For Next's middleware (called proxy since version 16) on the Node.js runtime:
 * nothing where the request may go on; else a redirect to login, an address of
 * this host, if there is one and somebody has to log in; else an error.
 */
export function nextMiddleware (client, options) {
  const o = checked(client, options, 'login')
  return async (request) => {
    try {
      await requestOf(client, o, request)
      return undefined
    } catch (err) {
      if (o.login !== undefined && err.status === 401) return Response.redirect(new URL(o.login, request.url), 303)
      return errorResponse(err)
    }
  }
}

function errorResponse (err) {
  // Not by instanceof: Next loads this module more than once, and the client may be of another load of it.
  if (err?.name !== 'RevocastError') throw err
  return Response.json({ error: err.code }, { status: err.status, headers: { ...err.headers, 'cache-control': 'no-store' } })
}
