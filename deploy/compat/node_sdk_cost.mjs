// What a verify costs: by the Node.js SDK, by plain jose, and by asking a node.
//
//   node --import ./node_sdk_resolve.mjs node_sdk_cost.mjs URL APP API_KEY [SESSIONS]
//
// APP must have native JWTs, and the node must be its own issuer, as one is that was
// started without --public-url. One verify at a time, each of another session.
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { createClient } from '../../node/client/js/index.js'

const [url, app, apiKey, count = '2000'] = process.argv.slice(2)
if (apiKey === undefined) {
  console.error('usage: node --import ./node_sdk_resolve.mjs node_sdk_cost.mjs URL APP API_KEY [SESSIONS]')
  process.exit(2)
}
const n = Number(count)
const client = createClient({ baseUrl: url, app, apiKey })
await client.start()

const sessions = []
const make = async () => { while (sessions.length < n) sessions.push(await client.create({ user_id: 'ada' })) }
await Promise.all(Array.from({ length: 8 }, make))

/** Runs what for each session, and prints what one costs. */
async function row (name, what, times = sessions) {
  const took = []
  for (const s of times) {
    const begun = performance.now()
    await what(s)
    took.push((performance.now() - begun) * 1000)
  }
  const mean = took.reduce((a, b) => a + b) / took.length
  took.sort((a, b) => a - b)
  const at = (part) => took[Math.floor((took.length - 1) * part)].toFixed(1).padStart(10)
  console.log(`${name.padEnd(52)}${at(0.5)}${at(0.99)}${mean.toFixed(1).padStart(10)}`)
}

const local = async (s) => { if ((await client.verify(s.session_jwt)).source !== 'local') throw new Error('not verified here') }
const keys = createRemoteJWKSet(new URL(`${url}/v1/apps/${app}/jwks`))
const jose = (s) => jwtVerify(s.session_jwt, keys, { issuer: `${url}/v1/apps/${app}`, audience: app, typ: 'at+jwt', algorithms: ['ES256', 'RS256', 'EdDSA'] })
const ask = async (s) => {
  const res = await fetch(`${url}/v1/verify`, { headers: { authorization: `Bearer ${s.session_jwt}` } })
  await res.arrayBuffer()
  if (res.status !== 204) throw new Error(`verify answers ${res.status}`)
}

await Promise.all([jose(sessions[0]), ask(sessions[0])]) // keys and connections are there before anything is measured
const warm = createClient({ baseUrl: url, app, apiKey, cacheSize: 0 })
await warm.start()
for (const s of sessions.slice(0, 200)) { await warm.verify(s.session_jwt); await jose(s) }
await warm.stop()
await client.verify(sessions.shift().session_jwt)

const { alg } = JSON.parse(Buffer.from(sessions[0].session_jwt.split('.')[0], 'base64url'))
console.log(`${`${alg}, ${sessions.length} sessions, µs`.padEnd(52)}${'median'.padStart(10)}${'p99'.padStart(10)}${'mean'.padStart(10)}`)
await row('jose, signature and claims; not revocable', jose)
await row('SDK, a JWT not seen before; revocable', local)
await row('SDK, a JWT seen before; revocable', local)
await row('GET /v1/verify on this machine', ask)
await row('POST /v1/sessions/authenticate, with a token', (s) => client.verify(s.session_token))
await client.stop()
