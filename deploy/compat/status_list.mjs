// What a verifier without an SDK does: jose verifies JWTs and the Token Status List
// that they name, @sd-jwt/jwt-status-list reads what the list says of each. It is asked
// again, as its ttl allows, until it says something of `until`, for at most 20 s.
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { getListFromStatusListJWT, getStatusListFromJWT } from '@sd-jwt/jwt-status-list'
import { text } from 'node:stream/consumers'

const { jwks, issuer, audience, typ, jwts, until } = JSON.parse(await text(process.stdin))
const keys = createRemoteJWKSet(new URL(jwks))

async function statusOf (jwt) {
  await jwtVerify(jwt, keys, { issuer, audience, typ })
  const { idx, uri } = getStatusListFromJWT(jwt)
  const answer = await fetch(uri, { headers: { accept: 'application/statuslist+jwt' } })
  const list = await answer.text()
  if (answer.status !== 200 || answer.headers.get('content-type') !== 'application/statuslist+jwt') throw new Error(`${answer.status} ${list}`)
  const { payload } = await jwtVerify(list, keys, { issuer, subject: uri, typ: 'statuslist+jwt', requiredClaims: ['iat', 'exp', 'ttl', 'status_list'] })
  return { status: getListFromStatusListJWT(list).getStatus(idx), ttl: payload.ttl, life: payload.exp - payload.iat, uri, idx, size: list.length }
}

let left = 40
while (until !== undefined && (await statusOf(jwts[until])).status === 0 && left-- > 0) await new Promise(resolve => setTimeout(resolve, 500))
console.log(JSON.stringify(await Promise.all(jwts.map(statusOf))))
