// Runs the session calls of Clerk's library for Node.js against a node. Standard
// input: {base, secretKey, pem, user, cookie: {base, secretKey, publishableKey,
// origin}, slow}. Standard output: a JSON array of {name, trouble}, trouble ""
// where all is as it must be.
import { createClerkClient, verifyToken } from '@clerk/backend'
import { createHash } from 'node:crypto'
import { text } from 'node:stream/consumers'
import { isDeepStrictEqual } from 'node:util'

const job = JSON.parse(await text(process.stdin))
const results = []

// Each check returns what is wrong, or nothing.
async function check (name, run) {
  let trouble
  try {
    trouble = (await run()) ?? ''
  } catch (e) {
    trouble = `${e.name}: ${e.message} ${JSON.stringify(e.errors ?? e.reason ?? '')}`
  }
  results.push({ name, trouble })
}

function same (got, want, what = '') {
  return isDeepStrictEqual(got, want) ? '' : `${what} is ${JSON.stringify(got)}, want ${JSON.stringify(want)}`
}

// refused returns what is wrong unless the call fails with that status and code.
async function refused (promise, status, code) {
  try {
    return `not refused: ${JSON.stringify(await promise)}`
  } catch (e) {
    const got = [e.status, e.errors?.[0]?.code, typeof e.clerkTraceId === 'string' && e.clerkTraceId !== '']
    return same(got, [status, code, true], e.message)
  }
}

function first (...troubles) {
  return troubles.find(t => t) ?? ''
}

// call makes native calls, to prepare what Clerk's API has no word for.
async function call (method, path, body, { base, secretKey } = job) {
  const r = await fetch(base + path, {
    method, body: JSON.stringify(body), headers: { authorization: `Bearer ${secretKey}`, 'content-type': 'application/json' }
  })
  if (!r.ok) throw new Error(`${method} ${path}: ${r.status} ${await r.text()}`)
  return r.json()
}

const clientOf = ({ base, secretKey, publishableKey }, more = {}) =>
  createClerkClient({ secretKey, publishableKey, apiUrl: `${base}/clerk`, telemetry: { disabled: true }, ...more })

const clerk = clientOf(job)
const { sessions } = clerk
const apiUrl = `${job.base}/clerk`
const networkless = token => verifyToken(token, { jwtKey: job.pem })

let session, jwt, token

await check('createSession', async () => {
  session = await sessions.createSession({ userId: job.user })
  return first(
    same([session.constructor.name.endsWith('Session'), session.userId, session.status], [true, job.user, 'active'], 'session'),
    typeof session.id === 'string' && session.id ? '' : 'no id',
    Math.abs(session.createdAt - Date.now()) < 60000 ? '' : `createdAt ${session.createdAt}`,
    session.expireAt > Date.now() && session.abandonAt > Date.now() ? '' : `expireAt ${session.expireAt}`)
})

await check('getSession', async () => same(await sessions.getSession(session.id), session, 'session'))

await check('getSession: latestActivity', async () => {
  const s = await call('POST', '/v1/sessions', {
    user_id: job.user, attributes: { ip_address: '192.0.2.1', user_agent: 'Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0' }
  })
  const { latestActivity: a } = await sessions.getSession(s.session.session_id)
  return same([a.deviceType, a.isMobile, a.browserName, a.browserVersion, a.ipAddress], ['Linux', false, 'Firefox', '127.0', '192.0.2.1'], 'activity')
})

await check('getSession: nobody knows it', () => refused(sessions.getSession('sess_24tZ6tlJ7CxlTwB6Zoj6SHQ9vU3'), 404, 'resource_not_found'))

await check('getSessionList', async () => {
  for (let i = 0; i < 3; i++) await sessions.createSession({ userId: `${job.user}-list` })
  const userId = `${job.user}-list`
  const all = await sessions.getSessionList({ userId })
  const page = await sessions.getSessionList({ userId, limit: 2, offset: 2 })
  const ofClient = await sessions.getSessionList({ clientId: session.clientId })
  const active = await sessions.getSessionList({ userId, status: 'active' })
  const revoked = await sessions.getSessionList({ userId, status: 'revoked' })
  return first(
    same([all.totalCount, all.data.length, all.data[0].constructor.name.endsWith('Session')], [3, 3, true], 'all'),
    same([page.totalCount, page.data.map(s => s.id)], [3, [all.data[2].id]], 'page'),
    same(ofClient.data.map(s => s.id), [session.id], 'of a client'),
    same([active.totalCount, revoked.totalCount], [3, 0], 'by status'))
})

await check('getToken', async () => {
  const answer = await sessions.getToken(session.id)
  jwt = answer.jwt
  return first(same(answer.constructor.name.endsWith('Token'), true, 'deserialised'), same(jwt.split('.').length, 3, 'parts'))
})

await check('getToken: expiresInSeconds', async () => {
  const claims = await networkless((await sessions.getToken(session.id, undefined, 30)).jwt)
  return same(claims.exp - claims.iat, 30, 'life')
})

await check('getToken: too long', () => refused(sessions.getToken(session.id, undefined, 86400), 400, 'form_param_value_invalid'))

await check('getToken: template', async () => {
  const claims = await networkless((await sessions.getToken(session.id, 'billing')).jwt)
  return same([claims.plan, claims.exp - claims.iat], ['pro', 600], 'claims')
})

await check('getToken: no such template', () => refused(sessions.getToken(session.id, 'nothing'), 404, 'resource_not_found'))

await check('verifyToken: networkless', async () => {
  const claims = await networkless(jwt)
  return first(
    same([claims.sid, claims.sub, claims.iss, claims.v, claims.sts, claims.fva], [session.id, job.user, job.base, 2, 'active', [0, -1]], 'claims'),
    same(claims.exp - claims.iat, 60, 'life'))
})

await check('verifyToken: from the JWKS', async () => same((await verifyToken(jwt, { secretKey: job.secretKey, apiUrl })).sid, session.id, 'sid'))

await check('verifyToken: audience', async () => {
  const good = await verifyToken(jwt, { jwtKey: job.pem, audience: job.app })
  try {
    await verifyToken(jwt, { jwtKey: job.pem, audience: 'somebody-else' })
    return 'another audience is accepted'
  } catch { return same(good.sid, session.id, 'sid') }
})

await check('verifyToken: changed', async () => {
  const [head, body, signature] = jwt.split('.')
  const other = body.slice(0, 20) + (body[20] === 'A' ? 'B' : 'A') + body.slice(21)
  for (const forged of [`${head}.${other}.${signature}`, `${head}.${body}.${signature.slice(0, -4)}AAAA`]) {
    try {
      await networkless(forged)
      return `accepted ${forged}`
    } catch {}
  }
})

await check('verifySession', async () => first(
  same((await sessions.verifySession(session.id, jwt)).id, session.id, 'id'),
  await refused(sessions.verifySession(session.id, jwt.slice(0, -4) + 'AAAA'), 404, 'resource_not_found'),
  await refused(sessions.verifySession((await sessions.createSession({ userId: job.user })).id, jwt), 404, 'resource_not_found')))

await check('refreshSession', async () => {
  const s = await call('POST', '/v1/sessions', { user_id: job.user })
  token = s.session_token
  const params = { expired_token: s.session_jwt, refresh_token: token, request_origin: 'https://shop.example', request_headers: { a: ['b'] } }
  const { sid } = await networkless((await sessions.refreshSession(s.session.session_id, params)).jwt)
  const cookies = (await sessions.refreshSession(s.session.session_id, { ...params, format: 'cookie' })).cookies
  return first(
    same(sid, s.session.session_id, 'sid'),
    same(cookies.length, 1, 'cookies'), cookies[0].startsWith('__session=ey') ? '' : `cookie ${cookies[0]}`,
    await refused(sessions.refreshSession(s.session.session_id, { ...params, refresh_token: 'x' }), 404, 'resource_not_found'),
    await refused(sessions.refreshSession(s.session.session_id, { ...params, refresh_token: '' }), 400, 'form_param_value_invalid'))
})

const request = headers => new Request('https://shop.example/', { headers })
const bearer = jwt => request({ authorization: `Bearer ${jwt}` })

await check('authenticateRequest: Bearer', async () => {
  const state = await clerk.authenticateRequest(bearer(jwt), { publishableKey: job.cookie.publishableKey })
  const auth = state.toAuth()
  return same([state.status, auth.userId, auth.sessionId, auth.orgId ?? null, auth.actor ?? null], ['signed-in', job.user, session.id, null, null], state.reason ?? 'state')
})

await check('authenticateRequest: forged', async () => {
  const state = await clerk.authenticateRequest(bearer(jwt.slice(0, -4) + 'AAAA'), { publishableKey: job.cookie.publishableKey })
  return same(state.isAuthenticated, false, 'isAuthenticated')
})

await check('has({ reverification })', async () => {
  const has = async factors => {
    const s = await call('POST', '/v1/sessions', { user_id: job.user, authentication_factors: factors })
    const state = await clerk.authenticateRequest(bearer(s.session_jwt), { publishableKey: job.cookie.publishableKey })
    const { has } = state.toAuth()
    return ['strict_mfa', 'strict', 'moderate', 'lax'].map(reverification => has({ reverification }))
  }
  const ago = minutes => new Date(Date.now() - minutes * 60000).toISOString()
  const begun = await has([{ type: 'password' }])
  const old = await has([{ type: 'password', last_authenticated_at: ago(30) }])
  const mfa = await has([{ type: 'password' }, { type: 'totp', last_authenticated_at: ago(0) }])
  const half = await has([{ type: 'password' }, { type: 'totp', last_authenticated_at: ago(30) }])
  return first(
    same(begun, [true, true, true, true], 'right after log-in'), same(old, [false, false, true, true], 'half an hour later'),
    same(mfa, [true, true, true, true], 'with two factors'), same(half, [false, false, true, true], 'with a second factor half an hour ago'))
})

await check('has({ role }), has({ permission }): nothing that was not granted', async () => {
  const s = await call('POST', '/v1/sessions', { user_id: job.user, session_custom_claims: { roles: ['admin'] } })
  const { has } = (await clerk.authenticateRequest(bearer(s.session_jwt), { publishableKey: job.cookie.publishableKey })).toAuth()
  return same([has({ role: 'admin' }), has({ permission: 'org:x:read' }), has({ feature: 'x' }), has({ plan: 'x' })], [false, false, false, false], 'has')
})

await check('has({ role }), has({ permission }) in an organization', async () => {
  await call('PUT', '/v1/rbac/policy', {
    resources: [{ resource_id: 'invoices', actions: ['read', 'create', 'delete'] }, { resource_id: 'teams', actions: ['read', 'manage'] }],
    roles: [
      { role_id: 'org:admin', permissions: [{ resource_id: 'teams', actions: ['manage'] }, { resource_id: 'invoices', actions: ['read', 'create'] }] },
      { role_id: 'org:owner', permissions: [{ resource_id: 'invoices', actions: ['*'] }] }
    ]
  })
  const s = await call('POST', '/v1/sessions', { user_id: job.user, organization_id: 'org_1', organization_slug: 'acme', roles: ['org:admin'] })
  const auth = (await clerk.authenticateRequest(bearer(s.session_jwt), { publishableKey: job.cookie.publishableKey })).toAuth()
  const { has } = auth
  const asked = ['org:invoices:read', 'org:invoices:create', 'org:teams:manage', 'org:invoices:delete', 'org:teams:read', 'org:invoices:manage']
  return first(
    same([auth.orgId, auth.orgSlug, auth.orgRole], ['org_1', 'acme', 'org:admin'], 'organization'),
    same([has({ role: 'org:admin' }), has({ role: 'org:owner' })], [true, false], 'has role'),
    same(asked.map(permission => has({ permission })), [true, true, true, false, false, false], 'has permission'))
})

await check('actor', async () => {
  const s = await call('POST', `/v1/sessions/impersonate?app=${job.app}`, { user_id: job.user, actor: { sub: 'support' } }, { base: job.base, secretKey: job.adminKey })
  const auth = (await clerk.authenticateRequest(bearer(s.session_jwt), { publishableKey: job.cookie.publishableKey })).toAuth()
  return first(same(auth.actor, { sub: 'support' }, 'actor'), same((await sessions.getSession(s.session.session_id)).actor, { sub: 'support' }, 'of the session'))
})

await check('revokeSession', async () => {
  const revoked = await sessions.revokeSession(session.id)
  return first(
    same([revoked.id, revoked.status, revoked.userId], [session.id, 'revoked', job.user], 'session'),
    same((await sessions.getSession(session.id)).status, 'revoked', 'status'),
    same((await sessions.revokeSession(session.id)).status, 'revoked', 'once more'),
    await refused(sessions.getToken(session.id), 404, 'resource_not_found'),
    await refused(sessions.verifySession(session.id, jwt), 404, 'resource_not_found'),
    await refused(sessions.revokeSession('sess_24tZ6tlJ7CxlTwB6Zoj6SHQ9vU3'), 404, 'resource_not_found'))
})

await check('a wrong key', () => refused(clientOf({ ...job, secretKey: 'sk_wrong' }).sessions.getSession(session.id), 401, 'authentication_invalid'))

// Cookie mode: the issuer's host must be the one in the publishable key.
const shop = clientOf(job.cookie)
const page = cookies => new Request('https://shop.example/', {
  headers: { cookie: Object.entries(cookies).map(([k, v]) => `${k}=${v}`).join('; '), 'sec-fetch-dest': 'document' }
})

await check('authenticateRequest: cookies', async () => {
  const s = await call('POST', '/v1/sessions', { user_id: job.user }, job.cookie)
  const uat = Math.floor(Date.now() / 1000) - 30
  const good = await shop.authenticateRequest(page({ __session: s.session_jwt, __client_uat: uat }))
  const none = await shop.authenticateRequest(page({}))
  return first(same([good.status, good.toAuth()?.userId], ['signed-in', job.user], good.reason ?? 'with a session'), same(none.status, 'signed-out', 'without'))
})

if (job.slow) {
  await check('authenticateRequest: an expired JWT is refreshed', async () => {
    const s = await call('POST', '/v1/sessions', { user_id: job.user }, job.cookie)
    await new Promise(resolve => setTimeout(resolve, 37000)) // life 30 s, 5 s of skew
    const uat = Math.floor(Date.now() / 1000) - 60
    const suffix = createHash('sha1').update(job.cookie.publishableKey).digest('base64url').slice(0, 8)
    const state = await shop.authenticateRequest(page({ __session: s.session_jwt, __client_uat: uat, [`__refresh_${suffix}`]: s.session_token }))
    return same([state.status, state.toAuth()?.sessionId, state.headers.get('set-cookie')?.startsWith('__session=ey')],
      ['signed-in', s.session.session_id, true], state.reason ?? state.message ?? 'state')
  })
}

console.log(JSON.stringify(results))
