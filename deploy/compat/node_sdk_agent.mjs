// A process with a client of the Node.js SDK that does what a test in Go tells it:
// one JSON object a line comes in, {id, op, …}, and one goes out for each, {id, …}.
//
//   create   {options}          makes the client, and starts it
//   verify   {jwt}              {outcome, us}: as "good local", "revoked", "stale"; us it took
//   watch    {jwts: {sid: jwt}} from now on a line {event, outcome, at} for each revocation of one
//                               of them: what verify says as soon as it was heard; at in µs since 1970
//   until    {jwt, outcome, ms} {outcome, ms}: waits for it
//   status   {}
//   stop     {}
import { createInterface } from 'node:readline'
import { createClient } from '../../node/client/js/index.js'

let client
let watched = {}
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)
const outcomeOf = (jwt) => client.verify(jwt).then((s) => `good ${s.source}`, (err) => err.code ?? String(err.stack))

const ops = {
  async create ({ options }) {
    client = createClient({
      ...options,
      onProblem: (err) => process.stderr.write(`${new Date().toISOString()} ${err.message}\n`),
      async onEvent (e) {
        const jwt = watched[e.session_id]
        if (e.type !== 'session.revoked' || jwt === undefined) return
        const outcome = await outcomeOf(jwt)
        say({ event: e.session_id, outcome, at: Math.round((performance.timeOrigin + performance.now()) * 1000) })
      }
    })
    await client.start()
  },
  async verify ({ jwt }) {
    const begun = performance.now()
    const outcome = await outcomeOf(jwt)
    return { outcome, us: (performance.now() - begun) * 1000 }
  },
  watch ({ jwts }) { watched = jwts },
  async until ({ jwt, outcome, ms }) {
    const begun = performance.now()
    for (let got; ;) {
      got = await outcomeOf(jwt)
      const took = performance.now() - begun
      if (got === outcome || took > ms) return { outcome: got, ms: took }
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
  },
  status: () => ({ status: client.status() }),
  stop: () => client.stop()
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, op, ...given } = JSON.parse(line)
  // One does not wait for another: a verify that hangs must not hide the rest.
  Promise.resolve().then(() => ops[op](given)).then((got) => say({ id, ...got }), (err) => say({ id, error: String(err.stack) }))
}
