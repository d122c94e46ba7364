// Drives the real express-session with its sessions in Revocast: what its own
// suite demands of a store, and what only a store with revocation can do.
// REVOCAST_TEST_URL and REVOCAST_TEST_KEY name a running node and an API key.
import assert from 'node:assert/strict'
import http from 'node:http'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { after, describe, test } from 'node:test'
import session from 'express-session'
import { revocastStore, RevocastError } from '../../node/client/express-session/index.js'

const url = process.env.REVOCAST_TEST_URL
const key = process.env.REVOCAST_TEST_KEY
const store = (options) => revocastStore(session, { url, key, ...options })

let serial = 0
const newID = () => `sid-${process.pid}-${Date.now()}-${++serial}`
const cookie = (maxAge = 60_000) => ({ originalMaxAge: maxAge, expires: new Date(Date.now() + maxAge), httpOnly: true, path: '/' })

/** Calls a method of a store as express-session does. */
const call = (s, method, ...args) => new Promise((resolve, reject) => {
  s[method](...args, (err, value) => { if (err) reject(err); else resolve(value) })
})
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

async function revoke (body) {
  const answer = await fetch(`${url}/v1/sessions/revoke`, {
    method: 'POST', headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' }, body: JSON.stringify(body)
  })
  assert.equal(answer.status, 200, await answer.text())
}

describe('the contract of a Store', () => {
  test('is a Store and an EventEmitter of this express-session', () => {
    const s = store()
    assert.ok(s instanceof session.Store)
    assert.equal(typeof s.on, 'function')
    for (const name of ['get', 'set', 'destroy', 'touch', 'all', 'length', 'clear', 'regenerate', 'load', 'createSession']) {
      assert.equal(typeof s[name], 'function', name)
    }
  })

  test('get of what is not there: no error, no session', async () => {
    assert.equal(await call(store(), 'get', newID()), null)
  })

  test('set, get, set again', async () => {
    const s = store()
    const sid = newID()
    await call(s, 'set', sid, { cookie: cookie(), name: 'tobi', nested: { a: [1, null, 'ü'] } })
    let got = await call(s, 'get', sid)
    assert.equal(got.name, 'tobi')
    assert.deepEqual(got.nested, { a: [1, null, 'ü'] })
    assert.equal(got.cookie.originalMaxAge, 60_000)
    await call(s, 'set', sid, { cookie: cookie(), name: 'loki' })
    got = await call(s, 'get', sid)
    assert.equal(got.name, 'loki')
    assert.equal(got.nested, undefined)
  })

  test('calls back later, never while it is called', async () => {
    const s = store()
    for (const [method, ...args] of [['get', newID()], ['set', newID(), { cookie: cookie() }], ['destroy', newID()]]) {
      let returned = false
      await new Promise((resolve, reject) => {
        s[method](...args, (err) => { if (err) reject(err); else if (!returned) reject(new Error(`${method} called back at once`)); else resolve() })
        returned = true
      })
    }
  })

  test('an error thrown by a callback is the application\'s, and no second call', async () => {
    const s = store()
    let calls = 0
    const listeners = process.listeners('uncaughtException')
    process.removeAllListeners('uncaughtException')
    const seen = new Promise((resolve) => process.once('uncaughtException', resolve))
    s.get(newID(), () => { calls++; throw new Error('from the callback') })
    assert.equal((await seen).message, 'from the callback')
    for (const l of listeners) process.on('uncaughtException', l)
    await sleep(20)
    assert.equal(calls, 1)
  })

  test('works without a callback', async () => {
    const s = store()
    const sid = newID()
    s.set(sid, { cookie: cookie(), n: 1 })
    for (let i = 0; i < 100 && await call(s, 'get', sid) === null; i++) await sleep(10)
    s.destroy(sid)
    for (let i = 0; i < 100 && await call(s, 'get', sid) !== null; i++) await sleep(10)
    assert.equal(await call(s, 'get', sid), null)
  })

  test('ends when the cookie does', async () => {
    const s = store()
    const sid = newID()
    await call(s, 'set', sid, { cookie: cookie(400), n: 1 })
    assert.equal((await call(s, 'get', sid)).n, 1)
    await sleep(450)
    assert.equal(await call(s, 'get', sid), null)
  })

  test('expires as text, as after JSON', async () => {
    const s = store()
    const sid = newID()
    await call(s, 'set', sid, JSON.parse(JSON.stringify({ cookie: cookie(400), n: 1 })))
    assert.equal((await call(s, 'get', sid)).n, 1)
    await sleep(450)
    assert.equal(await call(s, 'get', sid), null)
  })

  test('a cookie without maxAge: the ttl', async () => {
    const s = store({ ttl: 0.4 })
    const sid = newID()
    await call(s, 'set', sid, { cookie: { originalMaxAge: null, path: '/' }, n: 1 })
    assert.equal((await call(s, 'get', sid)).n, 1)
    await sleep(450)
    assert.equal(await call(s, 'get', sid), null)
  })

  test('a cookie that has expired already', async () => {
    const s = store()
    const sid = newID()
    await call(s, 'set', sid, { cookie: cookie(-1000), n: 1 })
    assert.equal(await call(s, 'get', sid), null)
  })

  test('touch moves the end and leaves the data', async () => {
    const s = store()
    const sid = newID()
    await call(s, 'set', sid, { cookie: cookie(500), n: 1 })
    await call(s, 'touch', sid, { cookie: cookie(60_000), n: 2 })
    await sleep(550)
    assert.equal((await call(s, 'get', sid)).n, 1)
  })

  test('touch of what is not there is no error, and makes nothing', async () => {
    const s = store()
    const sid = newID()
    await call(s, 'touch', sid, { cookie: cookie(), n: 2 })
    assert.equal(await call(s, 'get', sid), null)
  })

  test('touchAfter: a touch that moves little is not written', async () => {
    let writes = 0
    const s = store({ touchAfter: 30, fetch: (...args) => { if (/touch$/.test(args[0])) writes++; return fetch(...args) } })
    const sid = newID()
    await call(s, 'set', sid, { cookie: cookie(60_000) })
    await call(s, 'touch', sid, { cookie: cookie(61_000) })
    await call(s, 'touch', sid, { cookie: cookie(80_000) })
    assert.equal(writes, 0)
    await call(s, 'touch', sid, { cookie: cookie(100_000) })
    assert.equal(writes, 1)
    await call(s, 'touch', sid, { cookie: cookie(101_000) })
    assert.equal(writes, 1)
  })

  test('destroy, also of what is not there', async () => {
    const s = store()
    const sid = newID()
    await call(s, 'set', sid, { cookie: cookie(), n: 1 })
    await call(s, 'destroy', sid)
    assert.equal(await call(s, 'get', sid), null)
    await call(s, 'destroy', sid)
    await call(s, 'destroy', newID())
  })

  test('what was destroyed is not brought back by a request that was still running', async () => {
    const s = store()
    const sid = newID()
    const ended = []
    s.on('ended', (id) => ended.push(id))
    await call(s, 'set', sid, { cookie: cookie(), n: 1 })
    await call(s, 'destroy', sid)
    await call(s, 'set', sid, { cookie: cookie(), n: 2 })
    await call(s, 'touch', sid, { cookie: cookie(), n: 2 })
    assert.equal(await call(s, 'get', sid), null)
    assert.deepEqual(ended, [sid, sid])
  })

  test('all, length, clear', async () => {
    const s = store()
    await call(s, 'clear')
    assert.deepEqual(await call(s, 'all'), {})
    assert.equal(await call(s, 'length'), 0)
    const ids = [newID(), newID(), newID()]
    for (const [i, sid] of ids.entries()) await call(s, 'set', sid, { cookie: cookie(), n: i, userId: i === 2 ? 'ada' : undefined })
    const all = await call(s, 'all')
    assert.deepEqual(Object.keys(all).sort(), [...ids].sort())
    assert.equal(all[ids[1]].n, 1)
    assert.equal(await call(s, 'length'), 3)
    await call(s, 'clear')
    assert.equal(await call(s, 'length'), 0)
    for (const sid of ids) assert.equal(await call(s, 'get', sid), null)
  })

  test('ids of any form', async () => {
    const s = store()
    for (const sid of ['a', 'with spaces & ?=/#', 'ü€\u{1f600}', 'x'.repeat(128), '../../v1/apps']) {
      const own = `${sid}${newID()}`
      await call(s, 'set', own, { cookie: cookie(), sid })
      assert.equal((await call(s, 'get', own)).sid, sid)
    }
  })

  test('too much data is an error that says so', async () => {
    await assert.rejects(call(store(), 'set', newID(), { cookie: cookie(), big: 'x'.repeat(6000) }),
      (err) => err instanceof RevocastError && err.status === 413 && err.type === 'claims_too_large')
  })

  test('options are checked', () => {
    for (const bad of [{ url: undefined }, { url: 'localhost' }, { key: '' }, { ttl: 0 }, { ttl: 'x' }, { user: 5 }, { touchafter: 1 }, { consistency: 'weak' }]) {
      assert.throws(() => store(bad), TypeError, JSON.stringify(bad))
    }
    assert.throws(() => revocastStore({ url, key }), TypeError)
  })

  test('CommonJS has the same', () => {
    const cjs = createRequire(import.meta.url)('../../node/client/express-session/index.js')
    assert.equal(cjs.revocastStore, revocastStore)
  })
})

describe('users', () => {
  test('logged out everywhere: gone from the store at once', async () => {
    const s = store()
    const user = `user-${newID()}`
    const [a, b, c] = [newID(), newID(), newID()]
    await call(s, 'set', a, { cookie: cookie(), userId: user })
    await call(s, 'set', b, { cookie: cookie(), userId: user })
    await call(s, 'set', c, { cookie: cookie(), userId: 'somebody else' })
    await revoke({ user_id: user })
    assert.equal(await call(s, 'get', a), null)
    assert.equal(await call(s, 'get', b), null)
    assert.equal((await call(s, 'get', c)).userId, 'somebody else')
  })

  test('where the user stands: a path, a function, a number', async () => {
    for (const [option, sess] of [['passport.user', { passport: { user: 42 } }], [(x) => x.login?.id, { login: { id: '42' } }], ['userId', { userId: 42n }]]) {
      const s = store({ user: option })
      const sid = newID()
      const plain = JSON.parse(JSON.stringify(sess, (_, v) => typeof v === 'bigint' ? Number(v) : v))
      await call(s, 'set', sid, { cookie: cookie(), ...plain })
      await revoke({ user_id: '42' })
      assert.equal(await call(s, 'get', sid), null)
    }
    await assert.rejects(call(store(), 'set', newID(), { cookie: cookie(), userId: { id: 1 } }), TypeError)
  })

  test('a session that becomes a user\'s without a new id is refused', async () => {
    const s = store()
    const sid = newID()
    await call(s, 'set', sid, { cookie: cookie(), cart: 1 })
    await assert.rejects(call(s, 'set', sid, { cookie: cookie(), cart: 1, userId: 'ada' }),
      (err) => err instanceof RevocastError && err.status === 409 && /new session id at log-in/.test(err.message))
    assert.equal((await call(s, 'get', sid)).userId, undefined)
  })
})

describe('trouble', () => {
  test('no node: an error, never "no session"', async () => {
    const dead = store({ url: 'http://127.0.0.1:1', timeout: 500 })
    for (const [method, ...args] of [['get', newID()], ['set', newID(), { cookie: cookie() }], ['touch', newID(), { cookie: cookie() }], ['destroy', newID()], ['all'], ['length'], ['clear']]) {
      await assert.rejects(call(dead, method, ...args), (err) => err instanceof RevocastError && err.status === 0, method)
    }
  })

  test('a node that may be behind: an error, never "no session"; the next node is asked', async () => {
    const stale = http.createServer((_, res) => {
      res.writeHead(503, { 'content-type': 'application/json' }).end(JSON.stringify({ status_code: 503, error_type: 'node_stale', error_message: 'x' }))
    }).listen(0, '127.0.0.1')
    await once(stale, 'listening')
    const at = `http://127.0.0.1:${stale.address().port}`
    const sid = newID()
    await assert.rejects(call(store({ url: at }), 'get', sid), (err) => err.status === 503 && err.type === 'node_stale')
    const s = store({ url: [at, url] })
    await call(s, 'set', sid, { cookie: cookie(), n: 1 })
    assert.equal((await call(s, 'get', sid)).n, 1)
    stale.close()
  })

  test('a wrong key, a proxy\'s page, a redirect: errors', async () => {
    await assert.rejects(call(store({ key: 'sk_wrong' }), 'get', newID()), (err) => err.status === 401)
    const odd = http.createServer((req, res) => {
      if (req.headers.authorization === 'Bearer page') res.writeHead(404, { 'content-type': 'text/html' }).end('<h1>not found</h1>')
      else if (req.headers.authorization === 'Bearer route') res.writeHead(404).end(JSON.stringify({ error_type: 'not_found', error_message: 'no such route' }))
      else res.writeHead(307, { location: `${url}/v1/store` }).end()
    }).listen(0, '127.0.0.1')
    await once(odd, 'listening')
    for (const k of ['page', 'route', 'redirect']) {
      await assert.rejects(call(store({ url: `http://127.0.0.1:${odd.address().port}`, key: k }), 'get', newID()), RevocastError, k)
    }
    odd.close()
  })
})

describe('express-session itself', () => {
  /** An application of plain http, as express would be one. */
  async function app (options, routes, s = store()) {
    const middleware = session({ secret: 'keyboard cat', resave: false, saveUninitialized: false, store: s, ...options })
    const server = http.createServer((req, res) => {
      middleware(req, res, (err) => {
        if (err) return res.writeHead(500).end(err.message)
        const path = new URL(req.url, 'http://x').pathname
        routes[path](req, res)
      })
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    after(() => { server.closeAllConnections(); server.close() })
    const base = `http://127.0.0.1:${server.address().port}`
    /** A browser: it keeps the one cookie. */
    return () => {
      const browser = { cookie: undefined, set: undefined }
      browser.get = async (path) => {
        const answer = await fetch(base + path, { headers: browser.cookie ? { cookie: browser.cookie } : {} })
        browser.set = answer.headers.get('set-cookie')
        if (browser.set) browser.cookie = browser.set.split(';')[0]
        return { status: answer.status, text: await answer.text() }
      }
      return browser
    }
  }

  const routes = {
    '/': (req, res) => { req.session.views = (req.session.views ?? 0) + 1; res.end(String(req.session.views)) },
    '/peek': (req, res) => res.end(JSON.stringify({ id: req.sessionID, views: req.session.views, user: req.session.userId })),
    '/login': (req, res) => req.session.regenerate((err) => {
      if (err) return res.writeHead(500).end(err.message)
      req.session.userId = new URL(req.url, 'http://x').searchParams.get('user')
      req.session.save((err) => res.writeHead(err ? 500 : 200).end(err ? err.message : 'in'))
    }),
    '/bad-login': (req, res) => { req.session.userId = 'ada'; req.session.save((err) => res.writeHead(err ? 500 : 200).end(err ? err.message : 'in')) },
    '/logout': (req, res) => req.session.destroy((err) => res.writeHead(err ? 500 : 200).end('out')),
    '/reload': (req, res) => { req.session.views = -1; req.session.reload((err) => res.end(err ? err.message : String(req.session.views))) },
    '/slow': (req, res) => setTimeout(() => { req.session.slow = true; res.end('slow') }, 300)
  }

  test('save and load, two browsers', async () => {
    const open = await app({}, routes)
    const [a, b] = [open(), open()]
    assert.equal((await a.get('/')).text, '1')
    assert.equal((await a.get('/')).text, '2')
    assert.equal((await b.get('/')).text, '1')
    assert.equal((await a.get('/')).text, '3')
    assert.equal((await a.get('/reload')).text, '3')
  })

  test('a second process, and a restart of the application', async () => {
    const first = await app({}, routes)
    const browser = first()
    await browser.get('/')
    const second = (await app({}, routes))()
    second.cookie = browser.cookie
    assert.equal((await second.get('/')).text, '2')
  })

  test('regenerate at log-in: a new id, the old one is dead', async () => {
    const open = await app({}, routes)
    const [victim, thief] = [open(), open()]
    await victim.get('/')
    thief.cookie = victim.cookie
    assert.equal((await victim.get('/login?user=ada')).text, 'in')
    assert.notEqual(victim.cookie, thief.cookie)
    assert.equal(JSON.parse((await victim.get('/peek')).text).user, 'ada')
    assert.equal(JSON.parse((await thief.get('/peek')).text).user, undefined)
  })

  test('a log-in without regenerate is refused', async () => {
    const browser = (await app({}, routes))()
    await browser.get('/')
    const answer = await browser.get('/bad-login')
    assert.equal(answer.status, 500)
    assert.match(answer.text, /foreign_session_conflict/)
  })

  test('destroy', async () => {
    const browser = (await app({}, routes))()
    await browser.get('/login?user=ada')
    const cookie = browser.cookie
    assert.equal((await browser.get('/logout')).text, 'out')
    browser.cookie = cookie
    assert.equal(JSON.parse((await browser.get('/peek')).text).user, undefined)
    assert.equal((await browser.get('/')).text, '1')
    assert.notEqual(browser.cookie, cookie)
  })

  test('a request that runs while the user logs out brings nothing back', async () => {
    const browser = (await app({}, routes))()
    await browser.get('/login?user=ada')
    const cookie = browser.cookie
    const slow = browser.get('/slow')
    await sleep(100)
    const other = (await app({}, routes))()
    other.cookie = cookie
    await other.get('/logout')
    assert.equal((await slow).text, 'slow') // answered, and nothing stored
    other.cookie = cookie
    assert.equal(JSON.parse((await other.get('/peek')).text).user, undefined)
  })

  test('logged out everywhere: the next request of the browser is nobody\'s', async () => {
    const user = `user-${newID()}`
    const open = await app({}, routes)
    const [phone, laptop] = [open(), open()]
    await phone.get(`/login?user=${user}`)
    await laptop.get(`/login?user=${user}`)
    await revoke({ user_id: user })
    for (const browser of [phone, laptop]) assert.equal(JSON.parse((await browser.get('/peek')).text).user, undefined)
  })

  test('concurrent requests of one browser', async () => {
    const browser = (await app({}, routes))()
    await browser.get('/')
    const all = await Promise.all(Array.from({ length: 20 }, () => browser.get('/')))
    for (const answer of all) assert.equal(answer.status, 200, answer.text)
    assert.ok(Number((await browser.get('/')).text) >= 3)
  })

  test('maxAge: the session ends; rolling: it goes on while it is used', async () => {
    const fixed = (await app({ cookie: { maxAge: 700 } }, routes))()
    const rolling = (await app({ cookie: { maxAge: 700 }, rolling: true }, routes))()
    await fixed.get('/')
    await rolling.get('/')
    const [was, rolled] = [fixed.cookie, rolling.cookie]
    for (let i = 0; i < 4; i++) {
      await sleep(250)
      assert.equal(JSON.parse((await rolling.get('/peek')).text).views, 1, `after ${i + 1} quarters`)
      assert.ok(rolling.set, 'rolling sets the cookie again')
      assert.equal(rolling.cookie, rolled)
    }
    fixed.cookie = was
    assert.equal(JSON.parse((await fixed.get('/peek')).text).views, undefined)
  })

  test('resave false: what did not change is touched, not written', async () => {
    const seen = []
    const s = store({ fetch: (...args) => { seen.push(args[1].method + (/touch$/.test(args[0]) ? ' touch' : '')); return fetch(...args) } })
    const browser = (await app({ cookie: { maxAge: 60_000 } }, routes, s))()
    await browser.get('/')
    seen.length = 0
    await browser.get('/peek')
    assert.deepEqual(seen, ['GET', 'POST touch'])
  })

  test('saveUninitialized: the session is there before anybody put anything into it', async () => {
    const browser = (await app({ saveUninitialized: true }, routes))()
    const id = JSON.parse((await browser.get('/peek')).text).id
    assert.equal(JSON.parse((await browser.get('/peek')).text).id, id)
  })

  test('a cookie of nobody, and one with a wrong signature', async () => {
    const open = await app({}, routes)
    const browser = open()
    browser.cookie = 'connect.sid=s%3Anosuchsession.AAAA'
    assert.equal((await browser.get('/')).text, '1')
    const forged = open()
    forged.cookie = browser.cookie.slice(0, -4) + 'AAAA'
    assert.equal((await forged.get('/')).text, '1')
  })

  test('unset: destroy', async () => {
    const browser = (await app({ unset: 'destroy' }, { ...routes, '/unset': (req, res) => { req.session = null; res.end('gone') } }))()
    await browser.get('/')
    const cookie = browser.cookie
    await browser.get('/unset')
    browser.cookie = cookie
    assert.equal(JSON.parse((await browser.get('/peek')).text).views, undefined)
  })

  test('the store out of reach: 500, and the browser keeps its session', async () => {
    const good = (await app({}, routes))()
    await good.get('/')
    const cookie = good.cookie
    const cut = (await app({}, routes, store({ url: 'http://127.0.0.1:1' })))()
    cut.cookie = cookie
    const answer = await cut.get('/')
    assert.equal(answer.status, 500)
    assert.equal(cut.set, null)
    assert.equal((await good.get('/')).text, '2')
  })
})
