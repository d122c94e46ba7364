// Verifies JWTs with jose. Standard input: a JSON array of jobs
// {name, jwks, jwt, issuer, audience, typ, alg, now}, now in Unix seconds.
// Standard output: a JSON array of {name, ok, code, message, payload, header}
// in the same order.
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { text } from 'node:stream/consumers'

const sets = new Map()

// One key set per address, as a service would have.
function keySet (url) {
  if (!sets.has(url)) {
    sets.set(url, createRemoteJWKSet(new URL(url)))
  }
  return sets.get(url)
}

async function judge (job) {
  try {
    const { payload, protectedHeader } = await jwtVerify(job.jwt, keySet(job.jwks), {
      issuer: job.issuer,
      audience: job.audience,
      typ: job.typ,
      algorithms: [job.alg],
      requiredClaims: ['iss', 'sub', 'aud', 'exp', 'iat', 'nbf'],
      currentDate: new Date(job.now * 1000)
    })
    return { name: job.name, ok: true, payload, header: protectedHeader }
  } catch (e) {
    return { name: job.name, ok: false, code: e.code ?? e.name, message: e.message }
  }
}

const results = []
for (const job of JSON.parse(await text(process.stdin))) {
  results.push(await judge(job))
}
console.log(JSON.stringify(results))
