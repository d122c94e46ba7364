// express-oauth2-jwt-bearer: a resource server that finds the keys by discovery and
// takes RFC 9068 access tokens only (strict), bound ones with a DPoP proof.
import express from 'express'
import { auth, requiredScopes } from 'express-oauth2-jwt-bearer'
import * as DPoP from 'dpop'
import { api, apps, bound, check, done, equal } from './oauth.mjs'

for (const app of apps) {
  const server = express()
  const strict = auth({ issuerBaseURL: app.issuer, audience: app.app, strict: true })
  server.get('/cart', strict, (req, res) => res.json(req.auth.payload))
  server.get('/write', strict, requiredScopes('write'), (req, res) => res.json(req.auth.payload))
  server.get('/dpop', auth({ issuerBaseURL: app.issuer, audience: app.app, strict: true, dpop: { enabled: true, required: true } }), (req, res) => res.json(req.auth.payload))
  server.use((err, req, res, next) => res.status(err.status ?? 500).set(err.headers ?? {}).json({ error: err.code, message: err.message }))
  const listening = await new Promise((resolve) => { const l = server.listen(0, '127.0.0.1', () => resolve(l)) })
  const base = `http://127.0.0.1:${listening.address().port}`
  const ask = async (path, headers) => {
    const r = await fetch(base + path, { headers })
    return { status: r.status, json: await r.json(), challenge: r.headers.get('www-authenticate') }
  }
  const expect = (name, status, path, headers) => check(app, name, async () => {
    const r = await ask(path, typeof headers === 'function' ? await headers() : headers)
    equal(r.status, status, `status (${JSON.stringify(r.json)})`)
    return status === 200 ? 'accepted' : `refused: ${r.json.error ?? r.json.message}`
  })
  await check(app, 'as minted', async () => {
    const r = await ask('/cart', { authorization: `Bearer ${app.jwt}` })
    equal([r.status, r.json.sub, r.json.sid], [200, app.user, app.sid], `the answer ${JSON.stringify(r.json)}`)
  })
  await expect('nothing', 401, '/cart', {})
  for (const bad of app.forged) {
    await expect(bad.name, 401, '/cart', { authorization: `Bearer ${bad.token}` })
  }
  const scoped = async (scope) => (await api(app, 'POST', '/v1/sessions', { user_id: app.user, session_custom_claims: { scope } })).json.session_jwt
  await expect('the scope it has', 200, '/write', async () => ({ authorization: `Bearer ${await scoped('read write')}` }))
  await expect('a scope it lacks', 403, '/write', async () => ({ authorization: `Bearer ${await scoped('read')}` }))

  const b = await bound(app)
  const shown = async (htm, path, pair = b.pair, jwt = b.jwt) => ({ authorization: `DPoP ${jwt}`, dpop: await DPoP.generateProof(pair, base + path, htm, undefined, jwt) })
  await expect('bound, with a proof', 200, '/cart', () => shown('GET', '/cart'))
  await expect('bound, with a proof, where one is required', 200, '/dpop', () => shown('GET', '/dpop'))
  await expect('bound, as Bearer', 401, '/cart', { authorization: `Bearer ${b.jwt}` })
  await expect('bound, a proof of another URL', 400, '/cart', () => shown('GET', '/other'))
  await expect('bound, a proof of another key', 401, '/cart', async () => shown('GET', '/cart', await DPoP.generateKeyPair('ES256')))
  await expect('not bound, where a proof is required', 400, '/dpop', { authorization: `Bearer ${app.jwt}` })
  listening.closeAllConnections()
  listening.close()
}
done()
