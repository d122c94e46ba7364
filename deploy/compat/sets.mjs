// Verifies security event tokens with jose. Standard input: a JSON array of jobs
// {name, jwks, set, issuer, audience}. Standard output: a JSON array of {name, ok,
// code, message, payload, header} in the same order.
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { text } from 'node:stream/consumers'

const sets = new Map()

function keySet (url) {
  if (!sets.has(url)) {
    sets.set(url, createRemoteJWKSet(new URL(url)))
  }
  return sets.get(url)
}

const results = []
for (const job of JSON.parse(await text(process.stdin))) {
  try {
    const { payload, protectedHeader } = await jwtVerify(job.set, keySet(job.jwks), {
      issuer: job.issuer,
      audience: job.audience,
      typ: 'secevent+jwt',
      algorithms: ['RS256'],
      requiredClaims: ['iss', 'aud', 'iat', 'jti', 'events', 'sub_id']
    })
    results.push({ name: job.name, ok: true, payload, header: protectedHeader })
  } catch (e) {
    results.push({ name: job.name, ok: false, code: e.code ?? e.name, message: e.message })
  }
}
console.log(JSON.stringify(results))
