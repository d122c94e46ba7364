// Verifies JWTs as Streambird's library for Node.js does: jose, the key set of
// "default" with the API key in the query, signature and exp alone. Standard
// input: {jwks, jwt, other, times}. Standard output: {fetches, session, refused}.
import { createRemoteJWKSet, customFetch, jwtVerify } from 'jose'
import { text } from 'node:stream/consumers'

const { jwks, jwt, other, times } = JSON.parse(await text(process.stdin))
let fetches = 0
const keys = createRemoteJWKSet(new URL(jwks), {
  [customFetch]: (...args) => {
    fetches++
    return fetch(...args)
  }
})
let session
for (let i = 0; i < times; i++) {
  session = (await jwtVerify(jwt, keys, {})).payload['https://streambird.io/jwt/session']
}
const code = jwt => jwtVerify(jwt, keys, {}).then(() => 'accepted', e => e.code)
const refused = { other: await code(other), changed: await code(jwt.slice(0, -4) + 'AAAA') }
console.log(JSON.stringify({ fetches, session, refused }))
