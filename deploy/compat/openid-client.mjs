// openid-client: discovery at both places, introspection, revocation.
import * as client from 'openid-client'
import { api, apps, check, done, equal, refused } from './oauth.mjs'

for (const app of apps) {
  const find = (algorithm, auth, key = app.key) =>
    client.discovery(new URL(app.issuer), app.app, key, auth?.(key), { algorithm, execute: [client.allowInsecureRequests] })
  for (const algorithm of ['oidc', 'oauth2']) {
    for (const [how, auth] of [['default', undefined], ['client_secret_post', client.ClientSecretPost], ['client_secret_basic', client.ClientSecretBasic]]) {
      await check(app, `${algorithm}, ${how}`, async () => {
        const config = await find(algorithm, auth)
        equal(config.serverMetadata().issuer, app.issuer, 'issuer')
        const s = (await api(app, 'POST', '/v1/sessions', { user_id: app.user })).json
        for (const shown of [s.session_token, s.session_jwt]) {
          const got = await client.tokenIntrospection(config, shown, { token_type_hint: 'access_token' })
          equal([got.active, got.sub, got.sid], [true, app.user, s.session.session_id], 'before')
        }
        await client.tokenRevocation(config, s.session_jwt)
        for (const shown of [s.session_token, s.session_jwt]) {
          equal(await client.tokenIntrospection(config, shown), { active: false }, 'after the revocation')
        }
      })
    }
  }
  const config = await find('oidc')
  for (const bad of app.bad) {
    await check(app, `introspection: ${bad.name}`, async () => equal(await client.tokenIntrospection(config, bad.token), { active: false }, 'the answer'))
    await check(app, `revocation: ${bad.name}`, () => client.tokenRevocation(config, bad.token))
  }
  const wrong = await find('oidc', client.ClientSecretPost, 'sk_wrong')
  await refused(app, 'introspection with a wrong secret', () => client.tokenIntrospection(wrong, app.token), 'WWW_AUTHENTICATE_CHALLENGE')
  await refused(app, 'revocation with a wrong secret', () => client.tokenRevocation(wrong, app.token), 'WWW_AUTHENTICATE_CHALLENGE')
  await refused(app, 'discovery of no app', () =>
    client.discovery(new URL(app.base + '/v1/apps/none'), 'none', 'x', undefined, { execute: [client.allowInsecureRequests] }))
  await check(app, 'still good', async () => equal((await client.tokenIntrospection(config, app.token)).active, true, 'active'))
}
done()
