// What the scripts of the OAuth clients have in common. Standard input: a JSON
// array of apps, see oauthApp in oauth_apps_test.go. Standard output: a JSON array
// of findings {alg, case, ok, detail}.
import { text } from 'node:stream/consumers'
import { createServer } from 'node:http'
import * as DPoP from 'dpop'

export const apps = JSON.parse(await text(process.stdin))
const findings = []

// check notes whether fn, which may return what it found, throws.
export async function check (app, name, fn) {
  try {
    findings.push({ alg: app.alg, case: name, ok: true, detail: String((await fn()) ?? 'ok') })
  } catch (e) {
    findings.push({ alg: app.alg, case: name, ok: false, detail: `${e.name}: ${e.message} ${e.code ?? ''} ${e.cause ? JSON.stringify(e.cause) : ''}` })
  }
}

// refused notes whether fn throws, and how, if it must be a certain error.
export async function refused (app, name, fn, want) {
  await check(app, name, async () => {
    let got
    try {
      got = await fn()
    } catch (e) {
      const how = `${e.name} ${e.code ?? ''} ${e.error ?? ''} ${e.message} ${JSON.stringify(e.cause ?? '')}`
      if (want && !how.includes(want)) throw new Error(`want ${want}, got ${how}`)
      return `refused: ${(e.error ?? e.code ?? e.message).slice(0, 60)}`
    }
    throw new Error(`accepted: ${JSON.stringify(got)}`)
  })
}

export function equal (got, want, what) {
  if (JSON.stringify(got) !== JSON.stringify(want)) {
    throw new Error(`${what} is ${JSON.stringify(got)}, want ${JSON.stringify(want)}`)
  }
}

// api calls the node with the app's API key.
export async function api (app, method, path, body, headers = {}) {
  const r = await fetch(app.base + path, {
    method,
    headers: { authorization: `Bearer ${app.key}`, 'content-type': 'application/json', ...headers },
    body: body && JSON.stringify(body)
  })
  const raw = await r.text()
  return { status: r.status, headers: r.headers, json: raw ? JSON.parse(raw) : null }
}

// bound creates a session that is bound to a fresh key.
export async function bound (app, alg = 'ES256') {
  const pair = await DPoP.generateKeyPair(alg)
  const r = await api(app, 'POST', '/v1/sessions', { user_id: app.user, bind: { dpop_jkt: await DPoP.calculateThumbprint(pair.publicKey) } })
  equal(r.status, 201, 'status of the create')
  return { pair, token: r.json.session_token, jwt: r.json.session_jwt, jkt: r.json.session.bind.dpop_jkt }
}

// served runs fn with the address of an HTTP server of the handler.
export async function served (handler, fn) {
  const server = createServer(handler)
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  try {
    return await fn(`http://127.0.0.1:${server.address().port}`)
  } finally {
    server.closeAllConnections()
    server.close()
  }
}

export function done () {
  console.log(JSON.stringify(findings))
}
