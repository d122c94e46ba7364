// express-jwt with jwks-rsa, which are built on jsonwebtoken: ES256 and RS256. Of
// EdDSA they know nothing, and so must refuse it.
import express from 'express'
import { expressjwt } from 'express-jwt'
import jwks from 'jwks-rsa'
import { apps, check, done, equal } from './oauth.mjs'

for (const app of apps) {
  const server = express()
  server.get('/cart', expressjwt({
    secret: jwks.expressJwtSecret({ jwksUri: app.jwks, cache: true }), algorithms: ['ES256', 'RS256'], audience: app.app, issuer: app.issuer
  }), (req, res) => res.json(req.auth))
  server.use((err, req, res, next) => res.status(err.status ?? 500).json({ message: err.message }))
  const listening = await new Promise((resolve) => { const l = server.listen(0, '127.0.0.1', () => resolve(l)) })
  const ask = async (headers) => {
    const r = await fetch(`http://127.0.0.1:${listening.address().port}/cart`, { headers })
    return { status: r.status, json: await r.json() }
  }
  await check(app, 'as minted', async () => {
    const r = await ask({ authorization: `Bearer ${app.jwt}` })
    if (app.alg === 'EdDSA') {
      if (r.status < 400) throw new Error('accepted what it cannot read')
      return `refused: ${r.json.message}`
    }
    equal([r.status, r.json.sub, r.json.sid], [200, app.user, app.sid], `the answer ${JSON.stringify(r.json)}`)
    return 'accepted'
  })
  for (const bad of [{ name: 'nothing' }, ...app.forged]) {
    await check(app, bad.name, async () => {
      const r = await ask(bad.token ? { authorization: `Bearer ${bad.token}` } : {})
      if (r.status < 400) throw new Error(`accepted: ${JSON.stringify(r.json)}`)
      return `refused: ${r.json.message.slice(0, 60)}`
    })
  }
  listening.closeAllConnections()
  listening.close()
}
done()
