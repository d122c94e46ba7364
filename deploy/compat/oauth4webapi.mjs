// oauth4webapi: discovery, introspection, revocation, and the strictest check of
// RFC 9068 access tokens that was found, with DPoP.
import * as oauth from 'oauth4webapi'
import * as DPoP from 'dpop'
import { api, apps, bound, check, done, equal, refused } from './oauth.mjs'

const insecure = { [oauth.allowInsecureRequests]: true }

for (const app of apps) {
  const issuer = new URL(app.issuer)
  const client = { client_id: app.app }
  let as
  for (const algorithm of ['oidc', 'oauth2']) {
    await check(app, `discovery, ${algorithm}`, async () => {
      as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm, ...insecure }))
      equal(as.issuer, app.issuer, 'issuer')
      equal(as.introspection_endpoint, app.base + '/oauth2/introspect', 'introspection_endpoint')
    })
  }
  await refused(app, 'discovery of another issuer', async () =>
    oauth.processDiscoveryResponse(new URL(app.base), await oauth.discoveryRequest(issuer, { algorithm: 'oidc', ...insecure })))

  const introspect = async (token, auth = oauth.ClientSecretBasic(app.key)) =>
    oauth.processIntrospectionResponse(as, client, await oauth.introspectionRequest(as, client, auth, token, insecure))
  for (const [how, auth] of [['basic', oauth.ClientSecretBasic(app.key)], ['post', oauth.ClientSecretPost(app.key)]]) {
    for (const [what, token] of [['token', app.token], ['JWT', app.jwt]]) {
      await check(app, `introspection of a ${what}, client_secret_${how}`, async () => {
        const got = await introspect(token, auth)
        equal([got.active, got.sub, got.sid, got.client_id, got.aud, got.iss, got.token_type], [true, app.user, app.sid, app.app, app.app, app.issuer, 'Bearer'], 'the answer')
        if (got.exp > Date.now() / 1000 + 61) throw new Error(`exp ${got.exp} may be kept for too long`)
      })
    }
  }
  for (const bad of app.bad) {
    await check(app, `introspection: ${bad.name}`, async () => equal(await introspect(bad.token), { active: false }, 'the answer'))
  }
  await refused(app, 'introspection with a wrong secret', () => introspect(app.token, oauth.ClientSecretBasic('sk_wrong')), 'WWW_AUTHENTICATE_CHALLENGE')
  await refused(app, 'introspection with a wrong secret, post', () => introspect(app.token, oauth.ClientSecretPost('sk_wrong')), 'WWW_AUTHENTICATE_CHALLENGE')

  const validate = (headers, options = {}, url = 'http://rs.example/cart?a=b') =>
    oauth.validateJwtAccessToken(as, new Request(url, { headers }), app.app, { ...insecure, ...options })
  await check(app, 'RFC 9068', async () => {
    const got = await validate({ authorization: `Bearer ${app.jwt}` })
    equal([got.sub, got.sid, got.client_id], [app.user, app.sid, app.app], 'the claims')
  })
  for (const bad of app.forged) {
    await refused(app, `RFC 9068: ${bad.name}`, () => validate({ authorization: `Bearer ${bad.token}` }))
  }
  const b = await bound(app)
  const proof = (htm = 'GET', htu = 'http://rs.example/cart') => DPoP.generateProof(b.pair, htu, htm, undefined, b.jwt)
  await check(app, 'RFC 9068 with DPoP', async () => {
    const got = await validate({ authorization: `DPoP ${b.jwt}`, dpop: await proof() }, { requireDPoP: true })
    equal(got.cnf, { jkt: b.jkt }, 'cnf')
  })
  await refused(app, 'RFC 9068, bound, as Bearer', () => validate({ authorization: `Bearer ${b.jwt}` }))
  await refused(app, 'RFC 9068, bound, no proof', () => validate({ authorization: `DPoP ${b.jwt}` }))
  await refused(app, 'RFC 9068, bound, proof of a POST', async () => validate({ authorization: `DPoP ${b.jwt}`, dpop: await proof('POST') }))
  await refused(app, 'RFC 9068, bound, proof of another key', async () =>
    validate({ authorization: `DPoP ${b.jwt}`, dpop: await DPoP.generateProof(await DPoP.generateKeyPair('ES256'), 'http://rs.example/cart', 'GET', undefined, b.jwt) }))
  await refused(app, 'RFC 9068, not bound, with DPoP required', async () => validate({ authorization: `Bearer ${app.jwt}` }, { requireDPoP: true }))
  await check(app, 'introspection of a bound token', async () => {
    const got = await introspect(b.token)
    equal([got.active, got.token_type, got.cnf], [true, 'DPoP', { jkt: b.jkt }], 'the answer')
  })
  // Its DPoP handle as the client of a protected resource.
  await check(app, 'protectedResourceRequest with a DPoP handle', async () => {
    const handle = oauth.DPoP(client, b.pair)
    const r = await oauth.protectedResourceRequest(b.token, 'GET', new URL(app.base + '/v1/verify'), new Headers(), null, { ...insecure, DPoP: handle })
    equal([r.status, r.headers.get('x-session-user')], [204, encodeURIComponent(app.user).replace('%40', '@')], 'the verify')
  })
  await check(app, 'protectedResourceRequest with a DPoP handle, nonce demanded', async () => {
    equal((await api(app, 'PATCH', `/v1/apps/${app.app}`, { dpop_nonce: true })).status, 200, 'status of the change')
    const handle = oauth.DPoP(client, b.pair)
    const ask = () => oauth.protectedResourceRequest(b.token, 'GET', new URL(app.base + '/v1/verify'), new Headers(), null, { ...insecure, DPoP: handle })
    let first
    try {
      await ask()
    } catch (e) {
      first = e
    }
    if (!first || !oauth.isDPoPNonceError(first)) throw new Error(`want a demand for a nonce, got ${first}`)
    equal((await ask()).status, 204, 'the verify with the nonce')
  })

  for (const what of ['token', 'jwt']) {
    await check(app, `revocation by ${what}`, async () => {
      const s = (await api(app, 'POST', '/v1/sessions', { user_id: app.user })).json
      const revoke = async () => oauth.processRevocationResponse(await oauth.revocationRequest(as, client, oauth.ClientSecretBasic(app.key), s[`session_${what}`], insecure))
      await revoke()
      await revoke()
      equal(await introspect(s.session_token), { active: false }, 'after it')
    })
  }
  for (const bad of app.bad) {
    await check(app, `revocation: ${bad.name}`, async () =>
      oauth.processRevocationResponse(await oauth.revocationRequest(as, client, oauth.ClientSecretPost(app.key), bad.token, insecure)))
  }
  await refused(app, 'revocation with a wrong secret', async () =>
    oauth.processRevocationResponse(await oauth.revocationRequest(as, client, oauth.ClientSecretBasic('sk_wrong'), app.token, insecure)), 'WWW_AUTHENTICATE_CHALLENGE')
}
done()
