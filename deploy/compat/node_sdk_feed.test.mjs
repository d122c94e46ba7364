// The Node.js SDK's feed: leases, and everything that may go wrong with them.
// Against a small node of the test itself.
import assert from 'node:assert/strict'
import net from 'node:net'
import { once } from 'node:events'
import { describe, test } from 'node:test'
import { createClient } from '../../node/client/js/index.js'
import { elapsed, systemClock } from '../../node/client/js/clock.js'
import { joined } from '../../node/client/js/feed.js'
import { EventStream } from '../../node/client/js/sse.js'
import { APP, STREAM, mint, newClock, newSID, outcome, setup, sleep, until, userHash } from './node_sdk_fake.mjs'

describe('the stream of events', () => {
  const read = (pieces) => {
    const got = []
    const stream = new EventStream((e) => got.push(e))
    for (const piece of pieces) stream.push(piece)
    return got
  }
  const text = '\ufeff: comment\nevent: a\nid: 1\ndata: {"x":\ndata:"ü€\u{1f600}"}\nnonsense\n\nretry: 5\ndata\n\nevent: empty\nid: 9\n\ndata:  two\r\n\r\nid: bad\0\nevent: c\rdata: y\r\revent: d\r\ndata: z\r\n\r\n'
  const want = [{ type: 'a', data: '{"x":\n"ü€\u{1f600}"}', id: '1' }, { type: 'message', data: '', id: undefined },
    { type: 'message', data: ' two', id: undefined }, { type: 'c', data: 'y', id: undefined }, { type: 'd', data: 'z', id: undefined }]

  test('is read the same however it is cut', () => {
    const bytes = Buffer.from(text)
    assert.deepEqual(read([bytes]), want)
    assert.deepEqual(read([...bytes].map((b) => Buffer.from([b]))), want, 'byte by byte')
    for (let i = 0; i <= bytes.length; i++) assert.deepEqual(read([bytes.subarray(0, i), bytes.subarray(i)]), want, `cut at ${i}`)
  })

  test('what is not complete is no event; what has no end, or is no UTF-8, is an error', () => {
    assert.deepEqual(read([Buffer.from('data: x\n')]), [])
    assert.throws(() => read(Array(20).fill(Buffer.alloc(1 << 16, 'x'))), /too long/)
    assert.throws(() => read(Array(40).fill(Buffer.from(`data: ${'x'.repeat(1 << 16)}\n`))), /too long/)
    assert.throws(() => read([Buffer.from([0xff, 0xff])]))
  })
})

describe('the lease', () => {
  test('the clocks of this machine run', async () => {
    const from = systemClock.now()
    await sleep(60)
    const to = systemClock.now()
    const passed = elapsed(from, to)
    assert.ok(passed >= 59 && passed < 5000, `${passed}`)
    if (process.platform === 'linux') assert.ok(to[1] > from[1], 'CLOCK_BOOTTIME')
  })

  test('ends when any clock says so, whatever the others say', async (t) => {
    for (const [name, change, want] of [
      ['nothing', () => {}, 'good local'],
      ['just inside', (c) => c.pass(14_999), 'good local'],
      ['steady', (c) => c.pass(15_000, [0]), 'stale'],
      ['suspended, with a wall clock that goes on', (c) => c.pass(15_000, [1, 2]), 'stale'],
      ['suspended, with the wall clock set back', (c) => { c.pass(15_000, [1]); c.pass(-8000, [2]) }, 'stale'],
      ['no clock of the boot, suspended', (c) => c.pass(15_000, [2]), 'stale'],
      ['wall clock set back', (c) => c.pass(-5000, [2]), 'good local']
    ]) {
      const clock = newClock()
      const { fake, key, client } = await setup(t, { clock, leaseMs: 15_000, whenStale: 'refuse' })
      const iat = Math.floor(clock.wall() / 1000)
      await client.start()
      const jwt = await mint(fake, key, { iat })
      assert.equal(await outcome(client, jwt), 'good local')
      fake.mute = true
      change(clock)
      assert.equal(await outcome(client, jwt), want, name)
      await client.stop()
    }
  })

  test('runs from when the ping was sent, less what the node lags, not from when it was answered', async (t) => {
    const clock = newClock()
    const { fake, key, client } = await setup(t, { clock, leaseMs: 15_000, whenStale: 'refuse' })
    fake.mute = true
    fake.streams[1].staleness_ms = 2000
    const started = client.start()
    const feed = await until(() => fake.feeds.find((f) => f.held.length > 0))
    clock.pass(10_000)
    fake.heartbeat(feed, 'another')
    fake.heartbeat(feed)
    fake.heartbeat(feed, feed.held[0])
    await started
    const jwt = await mint(fake, key)
    clock.pass(2999, [0])
    assert.equal(await outcome(client, jwt), 'good local')
    clock.pass(1, [0])
    assert.equal(await outcome(client, jwt), 'stale')
  })

  test('is of the stream named, and there is none of one that is stale', async (t) => {
    const { fake, key, client } = await setup(t, { whenStale: 'refuse' })
    fake.snapshot.revision = '_config:0:1,eu:0:10,us:0:3'
    fake.streams.push({ region: 'us', stream: 3, staleness_ms: 0, stale: 'silent' })
    await client.start()
    assert.equal(await outcome(client, await mint(fake, key, { sid: newSID(STREAM) })), 'good local')
    assert.equal(await outcome(client, await mint(fake, key, { sid: newSID(3) })), 'stale')
    assert.equal(await outcome(client, await mint(fake, key, { sid: newSID(7) })), 'stale')
    assert.deepEqual(client.status().streams.map((s) => [s.region, s.leaseMs > 0]), [['_config', true], ['eu', true], ['us', false]])
  })

  test('is of JWTs no longer than what was caught up with: of others, revocations are read again first', async (t) => {
    const clock = newClock()
    const { fake, key, client } = await setup(t, { clock, leaseMs: 15_000, whenStale: 'refuse' })
    await client.start()
    const sid = newSID()
    fake.snapshot = { ...fake.snapshot, jwt_life_seconds: 3600, sessions: [sid] } // and its revocation is not told
    const before = fake.snapshots
    clock.pass(600_000) // the connection is silent
    const [other, gone] = await Promise.all([undefined, sid].map((sid) => mint(fake, key, { sid, life: 3600, iat: Math.floor(clock.wall() / 1000) })))
    await until(async () => await outcome(client, other) === 'good local')
    assert.match(await outcome(client, gone), /^revoked/)
    assert.equal(fake.snapshots, before + 1)
  })

  test('of a stream that is new, only after its revocations were read', async (t) => {
    const { fake, key, client } = await setup(t, { whenStale: 'refuse' })
    await client.start()
    const sid = newSID(3)
    const jwt = await mint(fake, key, { sid: newSID(3) })
    const before = fake.snapshots
    fake.streams = [...fake.streams, { region: 'us', stream: 3, staleness_ms: 0 }]
    fake.snapshot = { ...fake.snapshot, revision: `${fake.cursor()},us:0:5`, sessions: [sid] }
    await until(async () => await outcome(client, jwt) === 'good local')
    assert.ok(fake.snapshots > before)
    assert.equal(await outcome(client, await mint(fake, key, { sid })), 'revoked')
  })

  test('is void once the client is stopped', async (t) => {
    const { fake, key, client } = await setup(t, { whenStale: 'refuse' })
    await client.start()
    const jwt = await mint(fake, key)
    assert.equal(await outcome(client, jwt), 'good local')
    await client.stop()
    assert.equal(await outcome(client, jwt), 'stale')
    await client.start()
    assert.equal(await outcome(client, jwt), 'good local')
  })

  test('is void when the client is stopped while it begins, and comes with the next start', async (t) => {
    const { fake, key, client } = await setup(t, { whenStale: 'refuse' })
    const jwt = await mint(fake, key)
    const started = client.start()
    const stopped = client.stop() // while /v1/revocations is asked for
    const again = client.start()
    await assert.rejects(started, (err) => err.type === 'stopped')
    await stopped
    await again
    assert.equal(await outcome(client, jwt), 'good local')
    await client.stop()
    assert.equal(await outcome(client, jwt), 'stale')
    assert.equal(fake.opened.length, 1)
  })
})

describe('a feed that', () => {
  test('is black-holed, while its connection stays: the lease ends in time, and a new connection is made', async (t) => {
    // A proxy that stops passing bytes on, as a network does, without a word to either side.
    const { fake, key, client: direct } = await setup(t)
    const sockets = new Set()
    let hole = false
    const proxy = net.createServer((down) => {
      const up = net.connect(new URL(fake.url).port, '127.0.0.1')
      for (const [from, to] of [[down, up], [up, down]]) {
        sockets.add(from)
        from.on('data', (b) => { if (!hole) to.write(b) })
        from.on('close', () => { sockets.delete(from); if (!hole) to.destroy() })
        from.on('error', () => {})
      }
    }).listen(0, '127.0.0.1')
    await once(proxy, 'listening')
    const client = createClient({ baseUrl: `http://127.0.0.1:${proxy.address().port}`, issuer: fake.url, app: APP, apiKey: 'sk_test', leaseMs: 1000, timeoutMs: 400, whenStale: 'refuse' })
    t.after(async () => {
      await client.stop()
      await direct.stop()
      for (const s of sockets) s.destroy()
      proxy.close()
    })
    await client.start()
    const sid = newSID()
    const jwt = await mint(fake, key, { sid })
    assert.equal(await outcome(client, jwt), 'good local')
    hole = true
    const cut = performance.now()
    fake.event('session.revoked', { session_id: sid }) // nobody hears it
    await until(async () => await outcome(client, jwt) !== 'good local')
    const took = performance.now() - cut
    assert.equal(await outcome(client, jwt), 'stale')
    assert.ok(took <= 1500, `refused after ${took} ms; the lease is 1000`)
    hole = false
    fake.snapshot.sessions = [sid] // what a node would say by now
    for (const s of sockets) s.destroy()
    await until(async () => await outcome(client, await mint(fake, key)) === 'good local')
  })

  test('ends or is refused: the client comes back behind what it heard, and misses nothing', async (t) => {
    const { fake, key, client, problems } = await setup(t)
    await client.start()
    const [first, second] = [newSID(), newSID()]
    fake.event('session.revoked', { session_id: first })
    await until(() => client.status().revocations === 1)
    const heard = fake.cursor()
    fake.refuse = [503, { error_type: 'node_stale', error_message: 'x' }]
    fake.feeds[0].res.destroy()
    await until(() => fake.opened.length >= 3)
    fake.refuse = null
    await until(() => client.status().connected)
    fake.event('session.revoked', { session_id: second })
    await until(async () => await outcome(client, await mint(fake, key, { sid: second })) === 'revoked')
    assert.equal(fake.snapshots, 1)
    assert.equal(fake.opened.at(-1).get('since'), heard)
    assert.match(fake.opened[0].get('types'), /^session\.revoked,user\.revoked,app\.revoked,/)
    assert.ok(problems.every((err) => err.code === 'unavailable'), `${problems}`)
  })

  test('is told that its cursor is gone, or to resync: everything is read again, and nothing heard is lost', async (t) => {
    for (const how of ['410', 'rewound', 'gone', 'slow']) {
      const { fake, key, client } = await setup(t)
      await client.start()
      const sid = newSID()
      fake.event('session.revoked', { session_id: sid })
      await until(() => client.status().revocations === 1)
      const jwt = await mint(fake, key, { sid })
      if (how === '410') {
        fake.refuse = [410, { error_type: 'cursor_gone', error_message: 'x' }]
        fake.feeds[0].res.destroy()
        await until(() => fake.opened.length >= 2)
        fake.refuse = null
      } else {
        const feed = fake.feeds[0]
        // In one piece with a heartbeat that is no longer to be believed.
        feed.res.write(`event: resync\ndata: {"reason":"${how}"}\n\nevent: heartbeat\nid: ${fake.cursor()}9\ndata: {"revision":"x","streams":[]}\n\n`)
        feed.res.end()
      }
      await until(() => fake.feeds.length === 1 && client.status().connected && fake.opened.length >= 2)
      assert.equal(fake.snapshots > 1, how !== 'slow', how)
      assert.equal(await outcome(client, jwt), 'revoked', how)
      await until(async () => await outcome(client, await mint(fake, key)) === 'good local')
      await client.stop()
    }
  })

  test('was rewound: what still comes on it gives no lease', async (t) => {
    const { fake, key, client } = await setup(t, { whenStale: 'refuse', leaseMs: 3000 })
    await client.start()
    const jwt = await mint(fake, key)
    assert.equal(await outcome(client, jwt), 'good local')
    fake.refuse = [503, { error_type: 'node_stale', error_message: 'x' }]
    fake.mute = true
    const feed = fake.feeds[0]
    await until(() => feed.held.length > 0, 10_000)
    const data = JSON.stringify({ revision: fake.cursor(), streams: fake.streams, nonce: feed.held.at(-1) })
    feed.res.write(`event: resync\ndata: {"reason":"rewound"}\n\nevent: heartbeat\nid: ${fake.cursor()}\ndata: ${data}\n\n`)
    await until(() => fake.opened.length > 1)
    assert.equal(await outcome(client, jwt), 'stale')
  })

  test('has a region again that was out of reach for long: what its home was not told of is read first', async (t) => {
    const clock = newClock()
    const { fake, key, client } = await setup(t, { clock })
    const us = { region: 'us', stream: 3, staleness_ms: 0 }
    fake.streams = [...fake.streams, us]
    fake.snapshot.revision += ',us:0:3'
    await client.start()
    const [sid, other] = [newSID(3), newSID(3)]
    const back = async () => {
      delete us.stale
      await until(() => client.status().streams.find((s) => s.region === 'us').leaseMs > 0)
    }
    us.stale = 'silent'
    clock.pass(30_000)
    await back()
    assert.equal(fake.snapshots, 1)
    us.stale = 'silent'
    clock.pass(100_000)
    fake.snapshot.sessions = [sid] // revoked elsewhere, heard, and forgotten since
    await back()
    assert.equal(fake.snapshots, 2)
    assert.equal(await outcome(client, await mint(fake, key, { sid })), 'revoked')
    assert.equal(await outcome(client, await mint(fake, key, { sid: other })), 'good local')
  })

  test('says what cannot be read: no lease comes of it', async (t) => {
    for (const data of ['{', '{"type":"session.revoked","app_id":"shop"}', '{"type":"user.revoked","app_id":"shop","user_hash":"x"}', 'null']) {
      const { fake, client, problems } = await setup(t)
      await client.start()
      const opened = fake.opened.length
      fake.write(fake.feeds[0], JSON.parse(data.startsWith('{"') ? data : '{"type":"session.revoked"}').type, data, fake.cursor())
      await until(() => fake.opened.length > opened)
      assert.ok(problems.length > 0)
      await client.stop()
    }
  })

  test('is of several apps: only our own counts', async (t) => {
    const { fake, key, client } = await setup(t)
    await client.start()
    const sid = newSID()
    fake.event('session.revoked', { session_id: sid, app_id: 'other' })
    fake.event('app.suspended', { app_id: 'other' })
    fake.event('session.revoked', { session_id: newSID() })
    await until(() => client.status().revocations === 1)
    assert.equal(await outcome(client, await mint(fake, key, { sid })), 'good local')
  })

  test('repeats what was heard, or comes from a node that is behind: the state of the app does not go back', async (t) => {
    const { fake, key, client } = await setup(t)
    const jwt = await mint(fake, key)
    const restart = async (revision) => {
      const { length } = fake.opened
      fake.snapshot = { ...fake.snapshot, revision, app_state: 'active' }
      fake.write(fake.feeds[0], 'resync', { reason: 'gone' })
      await until(() => fake.opened.length > length && client.status().streams[1]?.leaseMs > 0)
      assert.equal(fake.opened.at(-1).get('since'), revision)
    }
    await client.start()
    fake.event('app.suspended', { revision: '_config:0:9' })
    await until(async () => await outcome(client, jwt) === 'suspended')
    fake.event('app.resumed', { revision: '_config:0:5' })
    fake.event('session.revoked', { session_id: newSID() })
    await until(() => client.status().revocations === 1)
    assert.equal(await outcome(client, jwt), 'suspended')
    await restart('_config:0:6,eu:0:10')
    assert.equal(await outcome(client, jwt), 'suspended')
    fake.event('app.resumed', { revision: '_config:0:10' })
    await until(async () => await outcome(client, jwt) === 'good local')
    fake.event('app.suspended', { revision: '_config:1:3' }) // the log is another one
    await until(async () => await outcome(client, jwt) === 'suspended')
    await restart('_config:1:4,eu:0:10')
    assert.equal(await outcome(client, jwt), 'good local')
  })

  test('is told to the application, whose errors are its own', async (t) => {
    const got = []
    const { fake, client, problems } = await setup(t, { onEvent: (e) => { got.push(e.type); throw new Error('from the application') } })
    await client.start()
    fake.event('user.revoked', { user_hash: userHash(APP, 'ada') })
    await until(() => got.length === 1 && problems.length === 1)
    assert.equal(problems[0].message, 'from the application')
    assert.ok(client.status().connected)
  })

  test('is told to an application that fails later', async (t) => {
    const { fake, client, problems } = await setup(t, { onEvent: async () => { throw new Error('from the application') } })
    await client.start()
    fake.event('session.revoked', { session_id: newSID() })
    await until(() => problems.length === 1)
    assert.equal(problems[0].message, 'from the application')
    assert.ok(client.status().connected)
  })

  test('is lost again and again: nothing is left behind', async (t) => {
    const warnings = []
    const note = (warning) => warnings.push(warning.message)
    process.on('warning', note)
    t.after(() => process.off('warning', note))
    const { fake, client } = await setup(t)
    await client.start()
    for (let i = 0; i < 12; i++) {
      const opened = fake.opened.length
      fake.feeds[0].res.destroy()
      await until(() => fake.opened.length > opened && fake.feeds.length === 1 && client.status().connected && client.status().streams[1].leaseMs > 0)
      await until(() => fake.pings > opened) // so that the next attempt is made at once
    }
    assert.deepEqual(warnings, [])
  })

  test('is refused for good: start says so', async (t) => {
    const { fake, client } = await setup(t, { apiKey: 'sk_wrong' })
    await assert.rejects(client.start(), (err) => err.code === 'refused' && err.status === 401)
    assert.equal(fake.opened.length, 0)
  })

  test('is not there yet: start waits for it', async (t) => {
    const { fake, client } = await setup(t)
    fake.refuse = [503, { error_type: 'node_stale', error_message: 'x' }]
    const started = client.start()
    await until(() => fake.opened.length >= 2)
    fake.refuse = null
    await started
  })

  test('comes from a node that is fenced: another one is asked', async (t) => {
    const { fake: fenced } = await setup(t)
    fenced.streams = fenced.streams.map((s) => ({ ...s, stale: 'silent' }))
    const { fake, key } = await setup(t)
    const client = createClient({ baseUrl: [fenced.url, fake.url], issuer: fake.url, app: APP, apiKey: 'sk_test', leaseMs: 1000 })
    t.after(() => client.stop())
    await client.start()
    assert.ok(fenced.opened.length > 0)
    assert.equal(await outcome(client, await mint(fake, key)), 'good local')
  })
})

test('a question names the furthest of all that was heard', () => {
  for (const [a, b, want] of [
    [undefined, undefined, undefined],
    ['eu:0:5', undefined, 'eu:0:5'],
    [undefined, 'eu:0:5', 'eu:0:5'],
    ['eu:0:5', 'us:0:7', 'eu:0:5,us:0:7'],
    ['eu:0:5', 'eu:0:7', 'eu:0:7'],
    ['eu:0:9', 'eu:0:7', 'eu:0:9'],
    ['eu:10:1', 'eu:9:70', 'eu:10:1'],
    ['eu:0:5,us:1:2', '_config:0:3,eu:1:1,us:0:9', '_config:0:3,eu:1:1,us:1:2']
  ]) assert.equal(joined(a, b), want)
})
