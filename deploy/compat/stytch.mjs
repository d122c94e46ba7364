// Runs every session call of the npm package "stytch" against a node.
//
// Standard input: {env, direct, alg, short, project, secret, ttl, other,
// otherSecret, quick, quickSecret, quickTTL}: three projects, of which the last
// has JWTs that expire soon; direct is the node itself.
// Standard output: a JSON array of {row, name, ok, detail}: row is that of the
// table of capabilities, "" for none.
//
// env is a proxy that counts: GET /-/count answers with a JSON object, from
// "METHOD /path" to how often it was asked for.
import { text } from 'node:stream/consumers'
import { isDeepStrictEqual } from 'node:util'
import * as jose from 'jose'
import stytch from 'stytch'

const conf = JSON.parse(await text(process.stdin))
console.warn = () => {} // it warns of every env that is not Stytch's own
const results = []

function check (row, name, ok, detail) {
  results.push({ row, name, ok: Boolean(ok), detail: ok ? '' : JSON.stringify(detail) ?? String(detail) })
}

function same (row, name, got, want) {
  check(row, name, isDeepStrictEqual(got, want), { got, want })
}

// fails runs a call that must fail, as the client says it does.
async function fails (row, name, want, call) {
  try {
    const got = await call()
    check(row, name, false, { got, want })
  } catch (e) {
    const got = { status_code: e.status_code, error_type: e.error_type, code: e.code }
    const ok = e.code !== undefined
      ? e.code === want.code
      : e.status_code === want.status_code && e.error_type === want.error_type &&
        e.request_id && e.error_message && e.error_url
    check(row, name, ok, { got, want, message: e.message })
  }
}

async function api (method, path, body, key = conf.secret) {
  const r = await fetch(new URL(path, conf.direct), {
    method,
    headers: { Authorization: 'Bearer ' + key, 'Content-Type': 'application/json' },
    body: body && JSON.stringify(body)
  })
  const answer = await r.json()
  if (!r.ok) throw new Error(`${method} ${path}: ${JSON.stringify(answer)}`)
  return answer
}

const create = (fields, key) => api('POST', '/v1/sessions', { user_id: 'ada', ...fields }, key)
const counts = async () => (await fetch(new URL('/-/count', conf.env))).json()
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

// asked returns what was asked for while the call ran, without what was not.
async function asked (call) {
  const before = await counts()
  const result = await call()
  const after = await counts()
  const more = {}
  for (const [what, n] of Object.entries(after)) {
    if (n !== (before[what] ?? 0)) more[what] = n - (before[what] ?? 0)
  }
  return { more, result }
}

const client = new stytch.Client({ project_id: conf.project, secret: conf.secret, env: conf.env })
const other = new stytch.Client({ project_id: conf.other, secret: conf.otherSecret, env: conf.env })
const AUTHENTICATE = 'POST /v1/sessions/authenticate'
const NOT_FOUND = { status_code: 404, error_type: 'session_not_found' }
const claim = jwt => jose.decodeJwt(jwt)

async function basics () {
  const made = await create({
    session_duration_minutes: 60,
    session_custom_claims: { plan: 'pro', nested: { a: 1, b: 2 } },
    attributes: { ip_address: '192.0.2.1', user_agent: 'test' },
    authentication_factors: [{ type: 'otp', delivery_method: 'sms', phone_number_factor: { phone_id: 'p', phone_number: '+1' } }]
  })
  const { session_token: token, session_jwt: jwt } = made
  same('Y3', 'the token has 44 characters', token.length, 44)
  check('Y9', 'token and JWT are small', token.length === 44 && jwt.length < 2048, jwt.length)
  const plain = Buffer.from(token, 'base64url').toString('latin1')
  check('Y10', 'the token says nothing', !plain.includes('ada') && !plain.includes(made.session.session_id) && !token.includes('.'), token)
  same('Y4', 'the header of the JWT', Object.keys(jose.decodeProtectedHeader(jwt)).sort().join() + jose.decodeProtectedHeader(jwt).typ + jose.decodeProtectedHeader(jwt).alg, 'alg,kid,typJWT' + conf.alg)
  const c = claim(jwt)
  same('Y11', 'the claims of the JWT', Object.keys(c).sort(), ['aud', 'exp', 'https://stytch.com/session', 'iat', 'iss', 'nbf', 'nested', 'plan', 'sub'])
  same('Y11', 'issuer, audience and times', [c.iss, c.aud, c.sub, c.iat - c.nbf, c.exp - c.iat], [conf.env.replace(/\/$/, ''), [conf.project], 'ada', 10, conf.ttl])
  same('Y11', 'the session in the JWT', Object.keys(c['https://stytch.com/session']).sort(), ['attributes', 'authentication_factors', 'expires_at', 'id', 'last_accessed_at', 'roles', 'started_at'])

  const keys = await client.sessions.getJWKS({ project_id: conf.project })
  check('Y13', 'getJWKS', keys.status_code === 200 && keys.request_id && keys.keys.length > 0 && keys.keys.every(k => !k.d && !k.p), keys)

  const local = await client.sessions.authenticateJwtLocal({ session_jwt: jwt })
  same('Y12', 'what the client reads locally', {
    id: local.session_id, user: local.user_id, attributes: local.attributes, factor: local.authentication_factors[0].phone_number_factor, roles: local.roles
  }, {
    id: made.session.session_id, user: 'ada', attributes: { ip_address: '192.0.2.1', user_agent: 'test' }, factor: { phone_id: 'p', phone_number: '+1' }, roles: []
  })
  same('Y12', 'nothing leaks into custom_claims', local.custom_claims, { plan: 'pro', nested: { a: 1, b: 2 } })
  const { more } = await asked(async () => {
    for (let i = 0; i < 1000; i++) await client.sessions.authenticateJwt({ session_jwt: jwt })
  })
  same('Y12', '1000 local checks ask for nothing', more, {})
  // Against a clock that is not ours.
  const at = seconds => client.sessions.authenticateJwtLocal({ session_jwt: jwt, current_date: new Date((c.iat + seconds) * 1000) })
  for (const s of [-10, -2, 2, conf.ttl - 1]) same('', `a client's clock at iat ${s} s`, (await at(s)).session_id, made.session.session_id)
  for (const s of [-11, conf.ttl]) await fails('', `a client's clock at iat ${s} s`, { code: 'jwt_invalid' }, () => at(s))

  const byToken = await client.sessions.authenticate({ session_token: token })
  const byJWT = await client.sessions.authenticate({ session_jwt: jwt })
  check('Y1', 'by token and by JWT', byToken.session.session_id === byJWT.session.session_id, [byToken, byJWT])
  for (const [name, r] of [['token', byToken], ['JWT', byJWT]]) {
    check('Y2', `token and JWT in the answer, by ${name}`, r.session_token === token && r.session_jwt.split('.').length === 3 && r.status_code === 200 && r.request_id && r.user.user_id === 'ada', r)
  }
  check('Y6', 'the session in the answer', byToken.session.user_id === 'ada' && byToken.session.started_at.endsWith('Z') && byToken.session.custom_claims.plan === 'pro' && byToken.session.attributes.user_agent === 'test', byToken.session)

  const longer = await client.sessions.authenticate({ session_jwt: jwt, session_duration_minutes: 600, session_custom_claims: { nested: { a: null, c: 3 }, plan: null, new: true } })
  check('Y5', 'extended by JWT', new Date(longer.session.expires_at) - Date.now() > 590 * 60000, longer.session)
  same('', 'claims are merged deeply', longer.session.custom_claims, { nested: { b: 2, c: 3 }, new: true })
  same('', 'merged claims in the next JWT', (await client.sessions.authenticateJwtLocal({ session_jwt: longer.session_jwt })).custom_claims, { nested: { b: 2, c: 3 }, new: true })
  const again = await client.sessions.authenticate({ session_token: token })
  same('Y5', 'the same for the token', again.session.expires_at, longer.session.expires_at)
  return { token, jwt }
}

async function errors () {
  const { session_token: token, session_jwt: jwt } = await create({})
  await fails('', 'token and JWT at once', { status_code: 400, error_type: 'too_many_session_arguments' }, () => client.sessions.authenticate({ session_token: token, session_jwt: jwt }))
  await fails('', 'a token nobody made', NOT_FOUND, () => client.sessions.authenticate({ session_token: 'x'.repeat(44) }))
  await fails('', 'a JWT with another signature', NOT_FOUND, () => client.sessions.authenticate({ session_jwt: jwt.slice(0, -8) + 'AAAAAAAA' }))
  await fails('', 'claims of 4 KiB', { status_code: 413, error_type: 'claims_too_large' }, () => client.sessions.authenticate({ session_token: token, session_custom_claims: { a: 'x'.repeat(4096) } }))
  await fails('', 'a reserved claim', { status_code: 400, error_type: 'invalid_argument' }, () => client.sessions.authenticate({ session_token: token, session_custom_claims: { sub: 'eve' } }))
  const stranger = new stytch.Client({ project_id: conf.project, secret: 'sk_wrong', env: conf.env })
  await fails('', 'a wrong secret', { status_code: 401, error_type: 'unauthorized_credentials' }, () => stranger.sessions.authenticate({ session_token: token }))
  const mixed = new stytch.Client({ project_id: conf.other, secret: conf.secret, env: conf.env })
  await fails('', 'the secret of another project', { status_code: 401, error_type: 'unauthorized_credentials' }, () => mixed.sessions.authenticate({ session_token: token }))
  await fails('Y13', 'the JWT of another project, locally', { code: 'jwt_invalid' }, () => other.sessions.authenticateJwtLocal({ session_jwt: jwt }))
  await fails('Y13', 'the JWT of another project', NOT_FOUND, () => other.sessions.authenticateJwt({ session_jwt: jwt }))
  await fails('', 'the token of another project', NOT_FOUND, () => other.sessions.authenticate({ session_token: token }))
}

async function revocation () {
  for (const by of ['session_id', 'session_token', 'session_jwt']) {
    const made = await create({ user_id: 'rev-' + by })
    const { session_token: token, session_jwt: jwt } = made
    const list = await client.sessions.get({ user_id: 'rev-' + by })
    same('', `get, before revoke by ${by}`, list.sessions.map(s => s.session_id), [made.session.session_id])
    const r = await client.sessions.revoke({ [by]: { session_id: made.session.session_id, session_token: token, session_jwt: jwt }[by] })
    check('Y5', `revoke by ${by}`, r.status_code === 200 && r.request_id, r)
    await fails('Y7', `the token after revoke by ${by}`, NOT_FOUND, () => client.sessions.authenticate({ session_token: token }))
    await fails('Y8', `the JWT after revoke by ${by}`, NOT_FOUND, () => client.sessions.authenticate({ session_jwt: jwt }))
    same('', `get, after revoke by ${by}`, (await client.sessions.get({ user_id: 'rev-' + by })).sessions, [])
    // What Stytch says of its JWTs: locally good until exp, unless the caller asks for younger ones.
    check('Y15', `locally good until exp, after revoke by ${by}`, (await client.sessions.authenticateJwtLocal({ session_jwt: jwt })).session_id, jwt)
    await fails('Y15', `max_token_age_seconds 0, after revoke by ${by}`, NOT_FOUND, () => client.sessions.authenticateJwt({ session_jwt: jwt, max_token_age_seconds: 0 }))
  }
  await fails('', 'revoke by nothing', { status_code: 400, error_type: 'invalid_argument' }, () => client.sessions.revoke({}))
  await fails('', 'revoke by two', { status_code: 400, error_type: 'too_many_session_arguments' }, () => client.sessions.revoke({ session_id: 'x', session_token: 'y' }))
}

async function rbac () {
  const empty = await client.rbac.policy()
  same('', 'an app without a policy', empty.policy, { roles: [], resources: [], scopes: [] })
  const nothing = await create({})
  await fails('', 'a check without a policy', { status_code: 403, error_type: 'session_authorization_error' }, () => client.sessions.authenticate({ session_token: nothing.session_token, authorization_check: { resource_id: 'documents', action: 'read' } }))
  const role = (id, ...permissions) => ({ role_id: id, description: '', permissions: permissions.map(([resource_id, ...actions]) => ({ resource_id, actions })) })
  await api('PUT', '/v1/rbac/policy', {
    policy: {
      resources: [{ resource_id: 'documents', description: '', actions: ['read', 'write', 'delete'] }, { resource_id: 'images', description: '', actions: ['read'] }],
      roles: [role('stytch_user', ['images', 'read']), role('editor', ['documents', 'read', 'write']), role('owner', ['documents', '*'], ['images', '*']), role('idle')],
      scopes: []
    }
  })
  // A client that has not read the policy that is no more.
  const fresh = new stytch.Client({ project_id: conf.project, secret: conf.secret, env: conf.env })
  const policy = (await fresh.rbac.policy()).policy
  let granted = 0; let denied = 0
  for (const roles of [[], ['editor'], ['owner'], ['editor', 'owner'], ['idle'], ['unheard of'], ['Editor']]) {
    const s = await create({ roles })
    const jwt = s.session_jwt
    for (const check_ of [['documents', 'read'], ['documents', 'write'], ['documents', 'delete'], ['documents', 'print'], ['documents', '*'], ['images', 'read'], ['images', 'write'], ['videos', 'read'], ['Documents', 'read']]) {
      const authorization_check = { resource_id: check_[0], action: check_[1] }
      const name = `${JSON.stringify(roles)} ${check_.join(':')}`
      let local = true
      try { await fresh.sessions.authenticateJwtLocal({ session_jwt: jwt, authorization_check }) } catch (e) { local = e.code === 'invalid_permissions' ? false : e }
      let remote = true; let verdict
      try { verdict = (await fresh.sessions.authenticate({ session_token: s.session_token, authorization_check })).verdict } catch (e) { remote = e.error_type === 'session_authorization_error' && e.status_code === 403 ? false : e }
      same('', `${name}: locally and here`, local, remote)
      if (remote === true) {
        granted++
        const mine = [...roles, 'stytch_user']
        same('', `${name}: verdict`, verdict, {
          authorized: true,
          granting_roles: policy.roles.filter(r => mine.includes(r.role_id) && r.permissions.some(p => p.resource_id === check_[0] && (p.actions.includes(check_[1]) || p.actions.includes('*')))).map(r => r.role_id)
        })
        continue
      }
      denied++
      // Denied locally, the client asks here, and takes what it is told.
      const { more } = await asked(() => fails('', `${name}: the fallback`, { status_code: 403, error_type: 'session_authorization_error' }, () => fresh.sessions.authenticateJwt({ session_jwt: jwt, authorization_check })))
      same('', `${name}: the fallback asks once`, more, { [AUTHENTICATE]: 1 })
    }
  }
  check('', 'both were met', granted > 15 && denied > 15, { granted, denied })
}

async function otherLogins () {
  const { publicKey, privateKey } = await jose.generateKeyPair('ES256')
  const jwk = { ...await jose.exportJWK(publicKey), kid: 'k1', alg: 'ES256', use: 'sig' }
  await api('PUT', `/v1/apps/${conf.project}/issuers/profile-1`, { issuer: 'https://idp.example', audience: 'shop', jwks: { keys: [jwk] }, claims: { team: 'team' } })
  const sign = (claims, key = privateKey) => new jose.SignJWT({ sub: 'bob', team: 'blue', ...claims }).setProtectedHeader({ alg: 'ES256', kid: 'k1' })
    .setIssuer('https://idp.example').setAudience('shop').setIssuedAt().setExpirationTime('5m').sign(key)
  const token = await sign()
  const r = await client.sessions.attest({ profile_id: 'profile-1', token, session_duration_minutes: 30, session_custom_claims: { a: 1 }, telemetry_id: 't' })
  check('', 'attest', r.status_code === 200 && r.user_id === 'bob' && r.session_token.length === 44 && r.session_jwt && r.session.authentication_factors[0].type === 'trusted_auth_token', r)
  same('', 'attest: custom claims', r.session.custom_claims, { a: 1, team: 'blue' })
  const more = await client.sessions.attest({ profile_id: 'profile-1', token, session_jwt: r.session_jwt, session_duration_minutes: 60 })
  same('', 'attest: to a session', more.session.session_id, r.session.session_id)
  const stranger = await jose.generateKeyPair('ES256')
  await fails('', 'attest: a forged token', { status_code: 401, error_type: 'attestation_failed' }, async () => client.sessions.attest({ profile_id: 'profile-1', token: await sign({}, stranger.privateKey), session_duration_minutes: 30 }))
  await fails('', 'attest: no such profile', { status_code: 404, error_type: 'not_found' }, () => client.sessions.attest({ profile_id: 'profile-2', token }))
  const x = await client.sessions.exchangeAccessToken({ access_token: token, session_duration_minutes: 30, telemetry_id: 't' })
  check('', 'exchangeAccessToken', x.status_code === 200 && x.user_id === 'bob' && x.session_token && x.session_jwt, x)
  await fails('', 'exchangeAccessToken: not an access token', { status_code: 401, error_type: 'attestation_failed' }, () => client.sessions.exchangeAccessToken({ access_token: 'x' }))
  const known = await create({})
  const m = await client.sessions.migrate({ session_token: known.session_token, session_duration_minutes: 30, telemetry_id: 't' })
  check('', 'migrate', m.status_code === 200 && m.user_id === 'ada' && m.session.session_id === known.session.session_id && m.session_token && m.session_jwt, m)
  await fails('', 'migrate: a token nobody knows', NOT_FOUND, () => client.sessions.migrate({ session_token: 'of another system' }))

  const key = (await api('POST', `/v1/apps/${conf.project}/api-keys`, { scopes: ['impersonate'] })).api_key
  const { impersonation_token } = await api('POST', '/v1/impersonation/tokens', { user_id: 'ada', impersonator_id: 'sue', impersonator_email_address: 'sue@example.com' }, key)
  const first = await client.impersonation.authenticate({ impersonation_token })
  same('', 'impersonation', [first.status_code, first.user_id, first.session.authentication_factors[0].type, first.session.authentication_factors[0].impersonated_factor],
    [200, 'ada', 'impersonated', { impersonator_id: 'sue', impersonator_email_address: 'sue@example.com' }])
  const second = await client.impersonation.authenticate({ impersonation_token })
  same('', 'impersonation: one session', second.session.session_id, first.session.session_id)
  const local = await client.sessions.authenticateJwtLocal({ session_jwt: first.session_jwt })
  same('', 'impersonation: nothing leaks into custom_claims', local.custom_claims, {})
  await fails('', 'impersonation: not a token', { status_code: 401, error_type: 'impersonation_failed' }, () => client.impersonation.authenticate({ impersonation_token: first.session_jwt }))
}

// refreshing lets JWTs grow old.
async function refreshing () {
  const client = new stytch.Client({ project_id: conf.quick, secret: conf.quickSecret, env: conf.env })
  const { session_token: token, session_jwt: jwt } = await create({}, conf.quickSecret)
  const ended = await create({ session_duration_minutes: 60 }, conf.quickSecret)
  await client.sessions.authenticateJwtLocal({ session_jwt: jwt }) // it has the keys
  await sleep(conf.quickTTL * 1000 / 10 + 1000)
  const aged = await asked(() => client.sessions.authenticateJwt({ session_jwt: jwt, max_token_age_seconds: 1 }))
  same('Y15', 'too old for max_token_age_seconds: one question', aged.more, { [AUTHENTICATE]: 1 })
  check('Y15', 'too old for max_token_age_seconds: a younger JWT', aged.result.session_jwt !== jwt && claim(aged.result.session_jwt).iat > claim(jwt).iat, aged.result)
  await fails('Y15', 'authenticateJwtLocal: too old', { code: 'jwt_too_old' }, () => client.sessions.authenticateJwtLocal({ session_jwt: jwt, max_token_age_seconds: 1 }))
  await sleep(conf.quickTTL * 1000 - (Date.now() - claim(jwt).iat * 1000) + 1000)
  await fails('Y17', 'authenticateJwtLocal: expired', { code: 'jwt_invalid' }, () => client.sessions.authenticateJwtLocal({ session_jwt: jwt }))
  const late = await asked(() => client.sessions.authenticateJwt({ session_jwt: jwt }))
  same('Y17', 'an expired JWT: exactly one question', late.more, { [AUTHENTICATE]: 1 })
  const fresh = late.result.session_jwt
  check('Y14', 'an expired JWT: a new one, and the token', fresh !== jwt && claim(fresh).exp > Date.now() / 1000 && late.result.session_token === token, late.result)
  const next = await asked(() => client.sessions.authenticateJwt({ session_jwt: fresh }))
  same('Y17', 'the new one is good locally', next.more, {})
  await api('POST', '/v1/sessions/revoke', { session_token: ended.session_token }, conf.quickSecret)
  await fails('Y14', 'an expired JWT of an ended session', NOT_FOUND, () => client.sessions.authenticateJwt({ session_jwt: ended.session_jwt }))
}

await basics()
await errors()
await revocation()
await rbac()
await otherLogins()
if (!conf.short) await refreshing()
console.log(JSON.stringify(results))
