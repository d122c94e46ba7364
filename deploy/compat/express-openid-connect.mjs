// express-openid-connect as a relying party: it finds the node by discovery, the node
// tells it of log-outs, and it judges the logout tokens by itself. Log-in is not
// Revocast's: a route puts a JWT with the party's audience where its ID token is.
import { once } from 'node:events'
import { createRequire } from 'node:module'
import express from 'express'
import session from 'express-session'
import { api, apps, check, done, equal, served } from './oauth.mjs'

const require = createRequire(import.meta.url)
const { auth } = require('express-openid-connect')
const onLogIn = require('express-openid-connect/lib/hooks/backchannelLogout/onLogIn')
const client = 'shop'

// party is a relying party that notes what it was told, oldest first.
function party (app, base, backchannel) {
  const site = express()
  site.told = []
  site.use((req, res, next) => {
    if (req.path === '/backchannel-logout') {
      res.on('finish', () => {
        site.told.push({ token: req.body?.logout_token, type: req.headers['content-type'], status: res.statusCode })
        site.emit('told')
      })
    }
    next()
  })
  const params = {
    authRequired: false,
    issuerBaseURL: app.issuer,
    baseURL: base,
    clientID: client,
    secret: 'a secret of this party that is long enough',
    idTokenSigningAlg: app.alg,
    backchannelLogout: { store: new session.MemoryStore(), ...backchannel }
  }
  site.use(auth(params))
  site.config = require('express-openid-connect/lib/config').get(params)
  site.get('/enter', (req, res) => {
    req.appSession.id_token = req.headers['x-id-token']
    res.sendStatus(204)
  })
  site.get('/me', (req, res) => res.json({ user: req.oidc.isAuthenticated() ? req.oidc.user.sub : null }))
  return site
}

// heard waits until the party was told n times, and returns the last of them.
async function heard (site, n) {
  const signal = AbortSignal.timeout(20_000)
  while (site.told.length < n) await once(site, 'told', { signal })
  return site.told[n - 1]
}

const claims = (jwt) => JSON.parse(Buffer.from(jwt.split('.')[1], 'base64url'))

// browser is somebody who is logged in at both: with a session of the node, and with
// the cookie of the party.
async function browser (app, base, user) {
  const made = (await api(app, 'POST', '/v1/sessions', { user_id: user })).json
  const sid = made.session.session_id
  const idToken = (await api(app, 'POST', `/v1/sessions/${sid}/tokens`, { template: client })).json.session_jwt
  const entered = await fetch(base + '/enter', { headers: { 'x-id-token': idToken } })
  const cookie = entered.headers.getSetCookie().map((c) => c.split(';')[0]).join('; ')
  const who = async () => (await (await fetch(base + '/me', { headers: { cookie } })).json()).user
  equal(await who(), user, 'the user after log-in')
  return { sid, idToken, token: made.session_token, who }
}

const register = async (app, id, uri, more) =>
  equal((await api(app, 'PUT', `/v1/apps/${app.app}/logout-clients/${id}`, { backchannel_logout_uri: uri, ...more })).status, 200, 'registering ' + id)
const revoke = async (app, what) => equal((await api(app, 'POST', '/v1/sessions/revoke', what)).status, 200, 'revoke')

// show gives a party a logout token, as anybody can.
async function show (base, token) {
  const r = await fetch(base + '/backchannel-logout', { method: 'POST', body: new URLSearchParams(token === undefined ? {} : { logout_token: token }) })
  return { status: r.status, text: await r.text() }
}

// withParty runs fn with a party that listens and is registered.
async function withParty (app, backchannel, more, fn) {
  let site
  await served((req, res) => site(req, res), async (base) => {
    site = party(app, base, backchannel)
    equal((await api(app, 'PUT', `/v1/apps/${app.app}/templates/${client}`, { audience: client })).status, 200, 'making the template')
    await register(app, client, base + '/backchannel-logout', more)
    await fn(site, base)
    equal((await api(app, 'DELETE', `/v1/apps/${app.app}/logout-clients/${client}`)).status, 200, 'removing the party')
  })
}

// ends shows that log-outs end sessions of the party as it is by default: it takes
// sid and sub for "this session" and "this user", so that every session of the user ends.
async function ends (app) {
  await withParty(app, {}, {}, async (site, base) => {
    const ada = await browser(app, base, 'ada')
    const bob = await browser(app, base, 'bob')
    await revoke(app, { session_id: ada.sid })
    const told = await heard(site, 1)
    equal([told.status, told.type, await ada.who(), await bob.who()], [204, 'application/x-www-form-urlencoded', null, 'bob'], 'after a revocation')
    const c = claims(told.token)
    equal([c.iss, c.aud, c.sub, c.sid], [app.issuer, client, 'ada', ada.sid], 'the logout token')
    const again = await show(base, told.token)
    equal(again.status, 204, 'a repeated jti, which this library does not judge')
    await revoke(app, { user_id: 'bob' })
    equal([(await heard(site, 3)).status, await bob.who()], [204, null], 'after a log-out everywhere')
  })
}

// precise is what a party does that ends only the session of a token with a sid.
const precise = () => {
  const over = new Set()
  return {
    onLogoutToken: (t) => { over.add(t.sid ?? t.sub) },
    isLoggedOut: (req) => over.has(req.oidc.idTokenClaims.sid) || over.has(req.oidc.idTokenClaims.sub)
  }
}

// spares shows that such a party keeps the user's other session, also when the node
// revokes all but that one, and that each token names its session when it has to.
async function spares (app) {
  await withParty(app, precise(), { backchannel_logout_session_required: true }, async (site, base) => {
    const [one, two, three] = [await browser(app, base, 'ada'), await browser(app, base, 'ada'), await browser(app, base, 'ada')]
    await revoke(app, { session_id: one.sid })
    await heard(site, 1)
    equal([await one.who(), await two.who(), await three.who()], [null, 'ada', 'ada'], 'after the first')
    await revoke(app, { user_id: 'ada', except_session_id: three.sid })
    await heard(site, 2)
    equal([await two.who(), await three.who()], [null, 'ada'], 'after all but the last')
    await revoke(app, { user_id: 'ada' })
    for (let n = site.told.length; await three.who() !== null; n++) await heard(site, n + 1)
    equal(site.told.filter((t) => t.status !== 204 || !claims(t.token).sid), [], 'tokens refused, or without sid')
  })
}

// remembers shows that a log-out everywhere holds when the user logs in again, if each
// token has to name a session: of one that names only the user the library then forgets.
async function remembers (app) {
  await withParty(app, {}, { backchannel_logout_session_required: true }, async (site, base) => {
    const [one, two] = [await browser(app, base, 'ada'), await browser(app, base, 'ada')]
    await revoke(app, { user_id: 'ada' })
    await heard(site, 2)
    const made = (await api(app, 'POST', '/v1/sessions', { user_id: 'ada' })).json.session
    await onLogIn({ oidc: { idTokenClaims: { sub: 'ada', sid: made.session_id } } }, site.config)
    equal([await one.who(), await two.who()], [null, null], 'those from before')
  })
}

// genuine is a logout token of the app for the client id, caught on its way.
async function genuine (app, id, user) {
  let got
  const catcher = express().use(express.urlencoded({ extended: false })).post('/', (req, res) => {
    got.resolve(req.body.logout_token)
    res.sendStatus(200)
  })
  return await served(catcher, async (base) => {
    got = deferred()
    await register(app, id, base + '/')
    const made = (await api(app, 'POST', '/v1/sessions', { user_id: user })).json
    await revoke(app, { session_id: made.session.session_id })
    const token = await got.promise
    equal((await api(app, 'DELETE', `/v1/apps/${app.app}/logout-clients/${id}`)).status, 200, 'removing ' + id)
    return token
  })
}

// deferred is Promise.withResolvers, which Node.js 20 lacks.
function deferred () {
  const d = {}
  d.promise = new Promise((resolve, reject) => Object.assign(d, { resolve, reject }))
  return d
}

// refuses shows what the party must not take for a logout token of its own.
async function refuses (app) {
  const good = await genuine(app, client, 'ada')
  const wrongAudience = await genuine(app, 'another-shop', 'ada')
  const wrongApp = await genuine({ ...app, app: app.other.app, key: app.other.key }, client, 'ada')
  await withParty(app, {}, {}, async (site, base) => {
    const ada = await browser(app, base, 'ada')
    const [head, body, signature] = good.split('.')
    const later = Buffer.from(JSON.stringify({ ...claims(good), exp: claims(good).exp + 3600 })).toString('base64url')
    const cases = [
      ['a wrong audience', wrongAudience, 'aud'],
      ['another app\'s', wrongApp, ''], // its key is unknown here, or, of the same, its iss is wrong
      ['an ID token', ada.idToken, 'events'],
      ['a JWT for other audiences', (await api(app, 'POST', '/v1/sessions/authenticate', { session_token: ada.token })).json.session_jwt, 'aud'],
      ['changed claims', `${head}.${later}.${signature}`, 'signature'],
      ['no signature', `${head}.${body}.`, 'signature'],
      ['a session token', ada.token, ''],
      ['nothing', undefined, 'Missing logout_token']
    ]
    for (const [name, token, why] of cases) {
      await check(app, 'refuses ' + name, async () => {
        const r = await show(base, token)
        equal([r.status, r.text.includes(why)], [400, true], `the answer ${r.text}`)
        equal(await ada.who(), 'ada', 'the user')
        return r.text
      })
    }
    equal((await show(base, good)).status, 204, 'the good token')
    equal(await ada.who(), null, 'the user after the good token')
  })
}

// Most of it is waiting, so the apps go side by side.
await Promise.all(apps.map(async (app) => {
  await check(app, 'a revocation, and a log-out everywhere, end sessions', () => ends(app))
  await check(app, 'other sessions of the user are spared', () => spares(app))
  await check(app, 'a log-out everywhere outlasts the next log-in', () => remembers(app))
  await check(app, 'the good token is taken, others are not', () => refuses(app))
}))
done()
