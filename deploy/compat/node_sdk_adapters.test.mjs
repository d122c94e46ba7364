// The Node.js SDK in the real Express and the real Fastify; and its handlers for
// Next, which are functions from Request to Response, as such: TestNext runs them in
// Next itself.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { describe, test } from 'node:test'
import express from 'express'
import fastify from 'fastify'
import { expressAuth, fastifyAuth, nextMiddleware, nextRoute } from '../../node/client/js/index.js'
import { good, mint, newSID, refused, setup as begin } from './node_sdk_fake.mjs'

// A lease that none of these tests outlives, however busy the machine is.
const setup = (t) => begin(t, { leaseMs: 15_000 })

/** The real servers, each as url → answer. optional is at /maybe. at: gets the address of one of which every path is guarded. */
const servers = {
  async express (t, client, options, at) {
    const app = express()
    if (at) app.use(expressAuth(client, options))
    app.get('/me', expressAuth(client, options), (req, res) => res.json(req.auth))
    app.get('/maybe', expressAuth(client, { ...options, optional: true }), (req, res) => res.json({ user: req.auth?.userId ?? null }))
    const server = app.listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => { server.closeAllConnections(); server.close() })
    const base = `http://127.0.0.1:${server.address().port}`
    at?.(base)
    return (path, init) => fetch(base + path, init)
  },
  async fastify (t, client, options, at) {
    const app = fastify()
    if (at) await app.register(fastifyAuth(client, options))
    await app.register(async (scope) => {
      await scope.register(fastifyAuth(client, options))
      scope.get('/me', (request) => request.auth)
    })
    await app.register(async (scope) => {
      await scope.register(fastifyAuth(client, { ...options, optional: true }))
      scope.get('/maybe', (request) => ({ user: request.auth?.userId ?? null }))
    })
    app.get('/open', (request) => ({ auth: request.auth ?? null }))
    const base = await app.listen({ port: 0, host: '127.0.0.1' })
    t.after(() => app.close())
    at?.(base)
    if (!at) assert.deepEqual(await (await fetch(`${base}/open`)).json(), { auth: null }, 'another scope is not concerned')
    return (path, init) => fetch(base + path, init)
  },
  async next (t, client, options) {
    const routes = {
      '/me': nextRoute(client, (request, { auth, params }) => Response.json({ ...auth, params }), options),
      '/maybe': nextRoute(client, (request, { auth }) => Response.json({ user: auth?.userId ?? null }), { ...options, optional: true })
    }
    return (path, init) => routes[path.split('?')[0]](new Request(`http://app.example${path}`, init), { params: { id: '7' } })
  }
}

for (const [name, serve] of Object.entries(servers)) {
  describe(name, () => {
    test('the session of a Bearer JWT, of a cookie, of a token', async (t) => {
      const { fake, key, client } = await setup(t)
      await client.start()
      const get = await serve(t, client)
      const sid = newSID()
      const jwt = await mint(fake, key, { sid })
      fake.answer = () => good(sid)
      for (const [headers, source] of [
        [{ authorization: `Bearer ${jwt}` }, 'local'], [{ authorization: `bearer  ${jwt}` }, 'local'], [{ cookie: `a=b; __Host-session=${jwt}; session=bad` }, 'local'],
        [{ cookie: `session="${jwt}"` }, 'local'], [{ authorization: 'Bearer token' }, 'api'], [{ cookie: 'session=token' }, 'api']
      ]) {
        const res = await get('/me', { headers })
        const body = await res.json()
        assert.deepEqual([res.status, body.sessionId, body.userId, body.source], [200, sid, 'ada', source], JSON.stringify(headers))
      }
    })

    test('who is nobody gets 401, what is not known now 503, and the headers that go with them', async (t) => {
      const { fake, key, client } = await setup(t)
      await client.start()
      const get = await serve(t, client)
      const jwt = await mint(fake, key)
      const invalid = 'Bearer error="invalid_token"'
      for (const [headers, answer, status, challenge, retry] of [
        [{}, null, 401, 'Bearer', null],
        [{ authorization: 'Basic eDp5' }, null, 401, 'Bearer', null],
        [{ authorization: 'Basic eDp5', cookie: `session=${jwt}` }, null, 401, 'Bearer', null],
        [{ cookie: `session=${jwt}; session=${jwt}` }, null, 401, invalid, null],
        [{ authorization: `Bearer ${jwt}x` }, null, 401, invalid, null],
        [{ authorization: 'Bearer token' }, refused(404, 'session_not_found', 'revoked'), 401, invalid, null],
        [{ authorization: 'Bearer token' }, refused(403, 'app_suspended'), 403, null, null],
        [{ authorization: 'Bearer token' }, refused(503, 'node_stale'), 503, null, '1'],
        [{ authorization: 'Bearer token' }, refused(401, 'unauthorized_credentials'), 503, null, '1'],
        [{ authorization: 'Bearer token' }, [401, { error: 'of some proxy' }], 503, null, '1']
      ]) {
        fake.answer = () => answer
        const res = await get('/me', { headers })
        const text = await res.text()
        assert.deepEqual([res.status, res.headers.get('www-authenticate'), res.headers.get('retry-after')], [status, challenge, retry], `${JSON.stringify(headers)} ${text}`)
        assert.ok(!text.includes(jwt))
        const maybe = await get('/maybe', { headers })
        assert.equal(maybe.status, status === 401 ? 200 : status, `optional: ${JSON.stringify(headers)}`)
      }
    })

    test('a proof of possession is handed on, for the request as it came', async (t) => {
      const { fake, key, client } = await setup(t)
      await client.start()
      const get = await serve(t, client)
      const sid = newSID()
      const jwt = await mint(fake, key, { sid, claims: { cnf: { jkt: 'x' } } })
      fake.answer = () => good(sid)
      assert.equal((await get('/me?a=b', { headers: { authorization: `DPoP ${jwt}`, dpop: 'proof' } })).status, 200)
      const { proof, htm, htu } = fake.asked[0].dpop
      assert.deepEqual([proof, htm], ['proof', 'GET'])
      assert.match(htu, /^http:\/\/(127\.0\.0\.1:\d+|app\.example)\/me$/)
      const behind = await serve(t, client, { origin: 'https://shop.example' })
      await behind('/me?a=b', { headers: { authorization: `DPoP ${jwt}`, dpop: 'proof' } })
      assert.equal(fake.asked[1].dpop.htu, 'https://shop.example/me')
      const res = await get('/me', { headers: { authorization: `Bearer ${jwt}` } })
      assert.deepEqual([res.status, res.headers.get('www-authenticate')], [401, 'DPoP error="invalid_dpop_proof"'])
    })

    test('a new JWT is handed to the application', async (t) => {
      const { fake, key, client } = await setup(t)
      await client.start()
      const got = []
      const get = await serve(t, client, { onRefresh: (auth, request, response) => got.push([auth.jwt, typeof request, typeof response]) })
      const sid = newSID()
      fake.answer = () => good(sid)
      const old = await mint(fake, key, { sid, iat: Math.floor(Date.now() / 1000) - 400 })
      assert.equal((await get('/me', { headers: { authorization: `Bearer ${old}` } })).status, 200)
      assert.equal(got.length, 1)
      assert.deepEqual(got[0].slice(1), ['object', 'object'])
    })

    test('options are checked', async (t) => {
      const { client } = await setup(t)
      const make = { express: expressAuth, fastify: fastifyAuth, next: (c, o) => nextRoute(c, () => {}, o) }[name]
      for (const bad of [{ option: 1 }, { login: '/login' }, { cookies: 'session' }, { origin: 'shop.example' }, { origin: 'https://shop.example/path' }]) {
        assert.throws(() => make(client, bad), TypeError, JSON.stringify(bad))
      }
      assert.throws(() => make({}), TypeError)
    })
  })
}

describe('a proof of possession is for this server, whatever host the path or the request line names', () => {
  for (const name of ['express', 'fastify']) {
    test(name, async (t) => {
      const { fake, key, client } = await setup(t)
      await client.start()
      const sid = newSID()
      const jwt = await mint(fake, key, { sid, claims: { cnf: { jkt: 'x' } } })
      fake.answer = () => good(sid)
      let base
      await servers[name](t, client, { origin: 'https://shop.example/' }, (at) => { base = at })
      const { hostname, port } = new URL(base)
      for (const [target, host, htu] of [
        ['/me?a=b', 'shop.example', 'https://shop.example/me'],
        ['//evil.example/me', 'shop.example', 'https://shop.example//evil.example/me'],
        ['http://evil.example/me', 'shop.example', 'https://shop.example/me'],
        ['/me', '[', 'https://shop.example/me']
      ]) {
        fake.asked = []
        const socket = net.connect(port, hostname)
        socket.write(`GET ${target} HTTP/1.1\r\nHost: ${host}\r\nAuthorization: DPoP ${jwt}\r\nDPoP: p\r\nConnection: close\r\n\r\n`)
        const [answer] = await once(socket, 'data')
        assert.match(String(answer), /^HTTP\/1.1 (200|404) /)
        assert.equal(fake.asked[0]?.dpop.htu, htu, `${target} at ${host}`)
        socket.destroy()
      }
    })
  }
})

test('fastify: a scope has its own options within one that has others', async (t) => {
  const { client } = await setup(t)
  const app = fastify()
  t.after(() => app.close())
  await app.register(fastifyAuth(client, { optional: true }))
  app.get('/maybe', (request) => ({ auth: request.auth }))
  await app.register(async (scope) => {
    await scope.register(fastifyAuth(client))
    scope.get('/me', (request) => request.auth)
  })
  assert.deepEqual((await app.inject('/maybe')).json(), { auth: null })
  assert.equal((await app.inject('/me')).statusCode, 401)
})

describe('next', () => {
  test('keeps what a handler is given, and its answer', async (t) => {
    const { fake, key, client } = await setup(t)
    await client.start()
    const route = nextRoute(client, (request, { auth, params }) => Response.json({ user: auth.userId, params }, { status: 201 }))
    const res = await route(new Request('http://x/', { headers: { authorization: `Bearer ${await mint(fake, key)}` } }), { params: { id: '7' } })
    assert.deepEqual([res.status, await res.json()], [201, { user: 'ada', params: { id: '7' } }])
  })

  test('an error of the handler is the application\'s', async (t) => {
    const { fake, key, client } = await setup(t)
    await client.start()
    const route = nextRoute(client, () => { throw new Error('from the handler') })
    await assert.rejects(route(new Request('http://x/', { headers: { authorization: `Bearer ${await mint(fake, key)}` } })), /from the handler/)
  })

  test('middleware: on, to the log-in, or 503', async (t) => {
    const { fake, key, client } = await setup(t)
    await client.start()
    const request = (authorization) => new Request('http://app.example/cart?x=1', { headers: authorization ? { authorization } : {} })
    const guard = nextMiddleware(client, { login: '/login' })
    assert.equal(await guard(request(`Bearer ${await mint(fake, key)}`)), undefined)
    const res = await guard(request())
    assert.deepEqual([res.status, res.headers.get('location')], [303, 'http://app.example/login'])
    fake.answer = () => refused(503, 'node_stale')
    assert.equal((await guard(request('Bearer token'))).status, 503)
    assert.equal((await nextMiddleware(client)(request())).status, 401)
    assert.throws(() => nextMiddleware(client, { onRefresh () {} }), TypeError, 'there is no answer to put a new JWT into')
  })
})
