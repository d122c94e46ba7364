// dpop makes proofs; the node must take them, each once, and no others.
import * as DPoP from 'dpop'
import { api, apps, bound, check, done, equal } from './oauth.mjs'

const app = apps[0]
for (const alg of ['ES256', 'Ed25519', 'RS256']) {
  const with_ = { ...app, alg }
  const b = await bound(app, alg)
  const verify = async (shown, proof, headers = {}) =>
    fetch(app.base + '/v1/verify?a=b', { headers: { authorization: `DPoP ${shown}`, ...(proof && { dpop: proof }), ...headers } })
  for (const [what, shown] of [['token', b.token], ['JWT', b.jwt]]) {
    const proof = (nonce, htu = app.base + '/v1/verify', htm = 'GET') => DPoP.generateProof(b.pair, htu, htm, nonce, shown)
    await check(with_, `${what}, proved, once`, async () => {
      const one = await proof()
      equal((await verify(shown, one)).status, 204, 'the first time')
      const again = await verify(shown, one)
      equal([again.status, again.headers.get('x-session-reason')], [401, 'dpop_proof'], 'the second time')
    })
    for (const [name, make] of [
      ['no proof', () => undefined], ['another URL', () => proof(undefined, app.base + '/v1/other')], ['another method', () => proof(undefined, undefined, 'POST')],
      ['another token', () => DPoP.generateProof(b.pair, app.base + '/v1/verify', 'GET', undefined, 'x')],
      ['another key', async () => DPoP.generateProof(await DPoP.generateKeyPair('ES256'), app.base + '/v1/verify', 'GET', undefined, shown)],
      ['no token', () => DPoP.generateProof(b.pair, app.base + '/v1/verify', 'GET')]
    ]) {
      await check(with_, `${what}, ${name}`, async () => {
        const r = await verify(shown, await make())
        equal([r.status, r.headers.get('www-authenticate').split(',')[0]], [401, 'DPoP error="invalid_dpop_proof"'], 'the answer')
      })
    }
    await check(with_, `${what}, as Bearer`, async () => equal((await verify(shown, await proof(), { authorization: `Bearer ${shown}` })).status, 401, 'status'))
    await check(with_, `${what}, behind a proxy`, async () => {
      const forwarded = { 'x-forwarded-method': 'DELETE', 'x-forwarded-proto': 'https', 'x-forwarded-host': 'shop.example', 'x-forwarded-uri': '/cart/1?a=b' }
      equal((await verify(shown, await proof(undefined, 'https://shop.example/cart/1', 'DELETE'), forwarded)).status, 204, 'status')
      equal((await verify(shown, await proof(), forwarded)).status, 401, 'status of a proof of the verify itself')
    })
    await check(with_, `${what}, through a backend`, async () => {
      const body = { [what === 'JWT' ? 'session_jwt' : 'session_token']: shown, dpop: { proof: await proof(undefined, 'https://shop.example/cart', 'PUT'), htm: 'PUT', htu: 'https://shop.example/cart' } }
      const r = await api(app, 'POST', '/v1/sessions/authenticate', body)
      equal([r.status, r.json.session?.bind], [200, { dpop_jkt: b.jkt }], `the answer ${JSON.stringify(r.json)}`)
      equal((await api(app, 'POST', '/v1/sessions/authenticate', body)).json.error_type, 'invalid_dpop_proof', 'the second time')
    })
  }
  await check(with_, 'bound by the header', async () => {
    const pair = await DPoP.generateKeyPair(alg)
    const r = await api(app, 'POST', '/v1/sessions', { user_id: 'ada' }, { dpop: await DPoP.generateProof(pair, app.base + '/v1/sessions', 'POST') })
    equal([r.status, r.json.session?.bind?.dpop_jkt], [201, await DPoP.calculateThumbprint(pair.publicKey)], `the answer ${JSON.stringify(r.json)}`)
  })
  await check(with_, 'nonce', async () => {
    await api(app, 'PATCH', `/v1/apps/${app.app}`, { dpop_nonce: true })
    const first = await verify(b.token, await DPoP.generateProof(b.pair, app.base + '/v1/verify', 'GET', undefined, b.token))
    equal([first.status, first.headers.get('www-authenticate').split(',')[0]], [401, 'DPoP error="use_dpop_nonce"'], 'without one')
    const nonce = first.headers.get('dpop-nonce')
    equal((await verify(b.token, await DPoP.generateProof(b.pair, app.base + '/v1/verify', 'GET', nonce, b.token))).status, 204, 'with it')
    await api(app, 'PATCH', `/v1/apps/${app.app}`, { dpop_nonce: false })
  })
}
await check({ alg: 'PS256' }, 'an algorithm that is not taken', async () => {
  const b = await bound(app, 'PS256')
  const r = await fetch(app.base + '/v1/verify', { headers: { authorization: `DPoP ${b.token}`, dpop: await DPoP.generateProof(b.pair, app.base + '/v1/verify', 'GET', undefined, b.token) } })
  equal(r.status, 401, 'status')
})
done()
