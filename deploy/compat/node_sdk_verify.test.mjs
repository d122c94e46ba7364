// The Node.js SDK's verification: what a JWT must be, keys, what is asked of the
// API, and what is heard of revocations. Against a small node of the test itself.
import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { describe, test } from 'node:test'
import { exportJWK } from 'jose'
import { createClient, RevocastError } from '../../node/client/js/index.js'
import { Revoked } from '../../node/client/js/revoked.js'
import { APP, STREAM, good, mint, newClock, newKey, newSID, outcome, refused, setup, sign, until, userHash } from './node_sdk_fake.mjs'

const b64 = (text) => Buffer.from(text).toString('base64url')

describe('a JWT', () => {
  for (const alg of ['ES256', 'RS256', 'EdDSA']) {
    for (const profile of ['native', 'stytch', 'streambird', 'clerk']) {
      test(`${alg}, ${profile}: good, here`, async (t) => {
        const { fake, client } = await setup(t)
        const key = await newKey(alg)
        fake.keys.push(key)
        await client.start()
        const sid = newSID()
        const jwt = await mint(fake, key, { profile, sid, claims: { plan: { name: 'pro' } } })
        for (let i = 0; i < 2; i++) {
          const s = await client.verify(jwt)
          assert.deepEqual([s.sessionId, s.userId, s.appId, s.profile, s.source, s.claims.plan.name], [sid, 'ada', APP, profile, 'local', 'pro'])
          assert.throws(() => { s.claims.plan.name = 'gold' }, TypeError)
        }
        assert.equal(fake.asked.length, 0)
      })
    }
  }

  test('what is not exactly a JWT of the app is refused here, by its form', async (t) => {
    const { fake, key, client } = await setup(t, { whenStale: 'refuse' })
    const other = await newKey()
    const ed = await newKey('EdDSA')
    fake.keys.push(ed)
    await client.start()
    const jwt = await mint(fake, key)
    const [h, p, s] = jwt.split('.')
    const head = (fields) => `${b64(JSON.stringify({ alg: 'ES256', kid: key.kid, typ: 'at+jwt', ...fields }))}.${p}.${s}`
    const claims = (fields, profile) => mint(fake, key, { claims: fields, profile })
    const text = Buffer.from(p, 'base64url').toString()
    const whole = { alg: 'ES256', kid: key.kid, typ: 'at+jwt' }
    const now = Math.floor(Date.now() / 1000)
    const lastBit = (x) => { const a = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'; return x.slice(0, -1) + a[a.indexOf(x.at(-1)) ^ 1] }
    const cases = {
      'a key that is not the app\'s, by its own kid': [await mint(fake, other), 'unknown_key'], // the first: the keys are fetched
      'alg none': [head({ alg: 'none' }), 'bad_signature'],
      'alg nOnE': [head({ alg: 'nOnE' }), 'bad_signature'],
      'no signature': [`${h}.${p}.`, 'malformed'],
      'HMAC with the public key': [(() => { const x = `${b64(JSON.stringify({ ...whole, alg: 'HS256' }))}.${p}`; return `${x}.${createHmac('sha256', JSON.stringify(key.jwk)).update(x).digest('base64url')}` })(), 'bad_signature'],
      'the alg of another kind of key': [await mint(fake, ed, { header: { alg: 'EdDSA', kid: key.kid } }), 'bad_signature'],
      'a key that is not the app\'s, by our kid': [await mint(fake, { ...other, kid: key.kid }), 'bad_signature'],
      'kid ../../etc/passwd': [head({ kid: '../../etc/passwd' }), 'unknown_key'],
      'kid of 65': [head({ kid: 'k'.repeat(65) }), 'unknown_key'],
      jku: [head({ jku: 'http://127.0.0.1:1/' }), 'malformed'],
      jwk: [head({ jwk: other.jwk }), 'malformed'],
      x5u: [head({ x5u: 'http://127.0.0.1:1/' }), 'malformed'],
      crit: [head({ crit: ['exp'] }), 'malformed'],
      b64: [head({ b64: false }), 'malformed'],
      zip: [head({ zip: 'DEF' }), 'malformed'],
      'no typ': [head({ typ: undefined }), 'malformed'],
      'typ of a SET': [await mint(fake, key, { header: { typ: 'secevent+jwt' } }), 'wrong_type'],
      'typ of a logout token': [await mint(fake, key, { header: { typ: 'logout+jwt' } }), 'wrong_type'],
      'typ of another profile': [await mint(fake, key, { header: { typ: 'JWT' } }), 'wrong_issuer'],
      'kid twice': [`${b64(`{"alg":"ES256","kid":"${key.kid}","kid":"${key.kid}","typ":"at+jwt"}`)}.${p}.${s}`, 'malformed'],
      'exp twice, signed': [await sign(key, whole, text.replace('{', `{"exp":${now + 9e6},`)), 'malformed'],
      'sid twice below, signed': [await sign(key, whole, text.replace('{', '{"x":{"a":1,"a":2},')), 'malformed'],
      'nested too deep, signed': [await sign(key, whole, text.replace('{', `{"x":${'['.repeat(9)}${']'.repeat(9)},`)), 'malformed'],
      'no UTF-8, signed': [null, 'malformed'],
      'other bits at the end of the signature': [`${h}.${p}.${lastBit(s)}`, 'malformed'],
      'another signature': [`${h}.${p}.${s[0] === 'A' ? 'B' : 'A'}${s.slice(1)}`, 'bad_signature'],
      'another payload': [`${h}.${b64(text.replace('ada', 'eve'))}.${s}`, 'bad_signature'],
      'iss of another app': [await claims({ iss: `${fake.url}/v1/apps/other` }), 'wrong_issuer'],
      'iss without the app': [await claims({ iss: fake.url }), 'wrong_issuer'],
      'iss with a slash': [await claims({ iss: `${fake.url}/v1/apps/${APP}/` }), 'wrong_issuer'],
      'aud of another app': [await claims({ aud: ['other'] }), 'wrong_audience'],
      'aud of two': [await claims({ aud: [APP, 'other'] }), 'wrong_audience'],
      'no aud': [await claims({ aud: undefined }), 'wrong_audience'],
      'no exp': [await claims({ exp: undefined }), 'bad_claims'],
      'exp as text': [await claims({ exp: `${now + 300}` }), 'bad_claims'],
      'exp with a fraction': [await claims({ exp: now + 300.5 }), 'bad_claims'],
      'exp 1e300': [await claims({ exp: 1e300 }), 'bad_claims'],
      'exp before iat': [await claims({ exp: now - 1, iat: now }), 'bad_claims'],
      'no iat': [await claims({ iat: undefined }), 'bad_claims'],
      'no nbf': [await claims({ nbf: undefined }), 'bad_claims'],
      'no sub': [await claims({ sub: undefined }), 'bad_claims'],
      'no sid': [await claims({ sid: undefined }), 'bad_claims'],
      'sid of 15 bytes': [await claims({ sid: newSID().slice(0, 20) }), 'bad_claims'],
      'a profile nobody has': [await mint(fake, key, { profile: 'clerk', claims: { v: 1 } }), 'bad_claims'],
      'cnf without a proof': [await claims({ cnf: { jkt: 'x' } }), 'dpop_proof'],
      'over 8 KiB': [await claims({ x: 'x'.repeat(8000) }), 'malformed'],
      'a line break': [`${h}.${p}\n.${s}`, 'malformed'],
      'not a string': [{ toString: () => jwt }, 'malformed']
    }
    cases['no UTF-8, signed'][0] = await (async () => {
      const { CompactSign } = await import('jose')
      return new CompactSign(Buffer.concat([Buffer.from('{"x":"'), Buffer.from([0xff]), Buffer.from(text.replace('{', '",'))])).setProtectedHeader(whole).sign(key.privateKey)
    })()
    for (const [name, [bad, reason]] of Object.entries(cases)) assert.equal(await outcome(client, bad), `invalid ${reason}`, name)
    // This is about clocks: with whenExpired api the node's decides.
    const early = await claims({ nbf: now + 30 })
    fake.answer = () => refused(401, 'jwt_not_yet_valid')
    assert.equal(await outcome(client, early), 'invalid not_yet_valid')
    assert.equal(fake.asked.length, 1)
    assert.equal(await outcome(client, ''), 'missing')
    assert.equal(await outcome(client, undefined), 'missing')
    assert.equal(await outcome(client, jwt), 'good local')
    assert.equal(fake.asked.length, 1)
  })

  test('from nbf to exp, give or take the leeway', async (t) => {
    const clock = newClock()
    const { fake, key, client } = await setup(t, { clock, whenExpired: 'refuse', leaseMs: 15_000 })
    await client.start()
    const iat = Math.floor(clock.wall() / 1000)
    const jwt = await mint(fake, key, { iat })
    const at = (seconds) => { clock.pass(seconds * 1000 - clock.wall(), [2]); return outcome(client, jwt) }
    // The lease ends when the wall clock is set forward, so the API is asked: it is known that it was not the time.
    fake.answer = () => good(newSID())
    assert.equal(await at(iat - 16), 'invalid not_yet_valid')
    assert.equal(await at(iat - 15), 'good local')
    assert.equal(await at(iat + 304), 'good api')
    assert.equal(await at(iat + 305), 'expired')
  })

  test('the cache holds so many, and forgets the one that was not used for longest', async (t) => {
    const { fake, key, client } = await setup(t, { cacheSize: 2 })
    await client.start()
    for (let i = 0; i < 20; i++) assert.equal(await outcome(client, await mint(fake, key)), 'good local')
  })
})

describe('keys', () => {
  test('the issuer is what the node says, or what the application says', async (t) => {
    for (const profile of ['native', 'stytch']) {
      const { fake, key, client } = await setup(t)
      fake.issuer = 'https://id.example'
      await client.start()
      assert.equal(await outcome(client, await mint(fake, key, { profile })), 'good local')
      assert.equal(await outcome(client, await mint({ url: fake.url }, key, { profile })), 'invalid wrong_issuer')
      for (const issuer of ['https://id.example/', `https://id.example/v1/apps/${APP}`]) {
        const told = createClient({ baseUrl: fake.url, issuer, app: APP, apiKey: 'sk_test', leaseMs: 1000 })
        t.after(() => told.stop())
        await told.start()
        assert.equal(await outcome(told, await mint(fake, key, { profile })), 'good local')
      }
    }
  })

  test('a new key is fetched once for all who wait; a flood of unknown ones is not', async (t) => {
    const { fake, key, client } = await setup(t)
    await client.start()
    await client.verify(await mint(fake, key))
    const next = await newKey()
    fake.keys.push(next)
    const before = fake.jwksFetches
    fake.answer = () => refused(404, 'session_not_found', 'unknown')
    const unknown = await newKey()
    const bad = await Promise.all(Array.from({ length: 20 }, () => mint(fake, unknown)))
    for (const jwt of bad) assert.equal(await outcome(client, jwt), 'invalid unknown')
    assert.ok(fake.jwksFetches <= before + 1, `${fake.jwksFetches - before} fetches`)
    // Within the cooldown the API tells, as it does of all that cannot be told here.
    assert.equal(fake.asked.length, 20)
  })

  test('rotation: the first JWT of a new key is good, and those of the old one', async (t) => {
    const clock = newClock()
    const { fake, key, client } = await setup(t, { clock, leaseMs: 15_000 })
    await client.start()
    const old = await mint(fake, key)
    await client.verify(old)
    const next = await newKey()
    fake.keys.push(next)
    clock.pass(10_000)
    const fresh = await Promise.all(Array.from({ length: 10 }, () => mint(fake, next)))
    const before = fake.jwksFetches
    assert.deepEqual(new Set(await Promise.all(fresh.map((jwt) => outcome(client, jwt)))), new Set(['good local']))
    assert.equal(fake.jwksFetches, before + 1)
    assert.equal(await outcome(client, old), 'good local')
  })

  test('outage of the key set: the keys stay', async (t) => {
    const clock = newClock()
    const { fake, key, client, problems } = await setup(t, { clock, leaseMs: 15_000 })
    await client.start()
    await client.verify(await mint(fake, key))
    fake.jwksStatus = 503
    clock.pass(301_000, [0, 1])
    await client.stop()
    await client.start() // a lease at the new time
    const iat = Math.floor(clock.wall() / 1000)
    for (let i = 0; i < 3; i++) assert.equal(await outcome(client, await mint(fake, key, { iat })), 'good local')
    await until(() => problems.some((err) => err.message.includes('jwks')))
  })

  test('compromised: its JWTs are refused at once, cached or not, and it never comes back', async (t) => {
    const clock = newClock()
    const { fake, key, client } = await setup(t, { clock, leaseMs: 15_000 })
    await client.start()
    const jwt = await mint(fake, key)
    assert.equal(await outcome(client, jwt), 'good local')
    const next = await newKey()
    fake.keys.push(next) // a node that lags still lists the old one
    const before = fake.jwksFetches
    fake.event('key.compromised', { kid: key.kid, region: '_config', stream: 1 })
    await until(async () => await outcome(client, jwt) === 'invalid unknown_key')
    await until(() => fake.jwksFetches > before)
    assert.equal(await outcome(client, await mint(fake, next)), 'good local')
    clock.pass(14_000)
    assert.equal(await outcome(client, await mint(fake, key)), 'invalid unknown_key')
    assert.equal(fake.asked.length, 0)
  })

  test('compromised before the client began', async (t) => {
    const { fake, key, client } = await setup(t)
    fake.snapshot.compromised_keys = [key.kid]
    await client.start()
    assert.equal(await outcome(client, await mint(fake, key)), 'invalid unknown_key')
  })

  test('a set that shows a private key is not used', async (t) => {
    const { fake, key, client } = await setup(t, { whenStale: 'refuse' })
    fake.keys = [key, { ...await exportJWK((await newKey()).privateKey), kid: 'x', alg: 'ES256' }]
    await client.start()
    assert.equal(await outcome(client, await mint(fake, key)), 'unavailable')
  })
})

describe('what the API is asked', () => {
  test('tokens, always', async (t) => {
    const { fake, client } = await setup(t, { whenStale: 'refuse' })
    await client.start()
    const sid = newSID()
    const token = Buffer.concat([Buffer.from([STREAM]), Buffer.alloc(32)]).toString('base64url')
    fake.answer = () => good(sid)
    const s = await client.verify(token)
    assert.deepEqual([s.sessionId, s.userId, s.source, s.claims.sid, s.session.status], [sid, 'ada', 'api', sid, 'active'])
    assert.deepEqual(fake.asked, [{ session_token: token, consistency: { at_least: 'eu:0:10' } }])
  })

  test('an expired JWT, with its new one; by its signature it must be one of ours', async (t) => {
    const { fake, key, client } = await setup(t)
    await client.start()
    const sid = newSID()
    fake.answer = () => good(sid)
    const old = await mint(fake, key, { sid, iat: Math.floor(Date.now() / 1000) - 400 })
    assert.equal((await client.verify(old)).source, 'api')
    assert.equal(await outcome(client, `${old.slice(0, -8)}AAAAAAAA`), 'invalid bad_signature')
    assert.equal(fake.asked.length, 1)
  })

  test('a JWT that lives longer than any should', async (t) => {
    const { fake, key, client } = await setup(t)
    await client.start()
    const sid = newSID()
    fake.answer = () => good(sid)
    assert.equal(await outcome(client, await mint(fake, key, { sid, life: 301 })), 'good api')
  })

  test('nothing about a JWT of another audience: it would say that there is no such session', async (t) => {
    const { fake, key, client } = await setup(t, { audience: 'partner' })
    const of = (fields) => mint(fake, key, { claims: { aud: ['partner'] }, ...fields })
    assert.equal(await outcome(client, await of()), 'stale')
    await client.start()
    assert.equal(await outcome(client, await of()), 'good local')
    assert.equal(await outcome(client, await mint(fake, key)), 'invalid wrong_audience')
    assert.equal(await outcome(client, await of({ iat: Math.floor(Date.now() / 1000) - 400 })), 'expired')
    assert.equal(await outcome(client, await of({ life: 301 })), 'unavailable')
    assert.equal(fake.asked.length, 0)
  })

  test('a bound JWT, with its proof', async (t) => {
    const { fake, key, client } = await setup(t)
    await client.start()
    const sid = newSID()
    fake.answer = () => good(sid)
    const jwt = await mint(fake, key, { sid, claims: { cnf: { jkt: 'x' } } })
    const dpop = { proof: 'p', htm: 'GET', htu: 'https://x/' }
    assert.equal(await outcome(client, jwt, { dpop }), 'good api')
    assert.deepEqual(fake.asked[0].dpop, dpop)
    assert.equal(await outcome(client, jwt), 'invalid dpop_proof')
  })

  test('before start, everything; with whenStale refuse, no JWT', async (t) => {
    const { fake, key, client } = await setup(t)
    const sid = newSID()
    fake.answer = () => good(sid)
    assert.equal(await outcome(client, await mint(fake, key, { sid })), 'good api')
    const { fake: fake2, key: key2, client: strict } = await setup(t, { whenStale: 'refuse' })
    assert.equal(await outcome(strict, await mint(fake2, key2)), 'stale')
  })

  test('what its answers mean: only what is about the session logs anybody out', async (t) => {
    const { fake, client } = await setup(t)
    for (const [answer, want, status] of [
      [refused(404, 'session_not_found', 'unknown'), 'invalid unknown', 401], [refused(404, 'session_not_found', 'expired'), 'expired expired', 401],
      [refused(404, 'session_not_found', 'idle'), 'expired idle', 401], [refused(404, 'session_not_found', 'revoked'), 'revoked revoked', 401],
      [refused(409, 'token_reuse_detected'), 'revoked', 401], [refused(401, 'jwt_not_yet_valid'), 'invalid not_yet_valid', 401],
      [refused(401, 'invalid_dpop_proof'), 'invalid dpop_proof', 401], [refused(403, 'app_suspended'), 'suspended', 403],
      [refused(503, 'node_stale'), 'unavailable', 503], [refused(503, 'home_unreachable'), 'unavailable', 503], [refused(503, 'consistency_timeout'), 'unavailable', 503],
      [refused(500, 'internal_server_error'), 'unavailable', 500], [refused(401, 'unauthorized_credentials'), 'unavailable', 503],
      [refused(403, 'forbidden'), 'unavailable', 503], [refused(404, 'not_found'), 'unavailable', 503], [refused(400, 'invalid_argument'), 'unavailable', 503],
      [refused(401, 'session_home_unreachable'), 'unavailable', 401], [[404, {}], 'unavailable', 503], [[401, {}], 'unavailable', 503], [[200, {}], 'unavailable', 503],
      [[200, { session: { session_id: newSID(), status: 'revoked', app_id: APP, user_id: 'a' } }], 'unavailable', 503],
      [good(newSID(), { app_id: 'other' }), 'unavailable', 503]
    ]) {
      fake.answer = () => answer
      assert.equal(await outcome(client, 'token'), want, JSON.stringify(answer))
      await assert.rejects(client.verify('token'), (err) => err.status === status && !err.message.includes('token"'), JSON.stringify(answer))
    }
    fake.close()
    assert.equal(await outcome(client, 'token'), 'unavailable')
  })

  test('a node that lags may not contradict what was heard', async (t) => {
    const { fake, client } = await setup(t)
    await client.start()
    const sid = newSID()
    const token = Buffer.concat([Buffer.from([STREAM]), Buffer.alloc(32)]).toString('base64url')
    fake.answer = () => good(sid)
    fake.event('session.revoked', { session_id: sid })
    await until(async () => await outcome(client, token) === 'revoked')
    // A user's watermark of another stream's position: the node is asked again, by name.
    fake.answer = () => good(newSID())
    fake.event('user.revoked', { user_hash: userHash(APP, 'ada'), revision: 'us:0:7' })
    await until(() => client.status().revocations === 2)
    fake.asked = []
    assert.equal(await outcome(client, token), 'good api')
    assert.deepEqual(fake.asked.map((b) => b.consistency), [{ at_least: fake.cursor().split(',')[1] }, { at_least: 'eu:0:12,us:0:7' }])
  })

  test('a redirect is not followed: it would carry the token away', async (t) => {
    const { fake, client } = await setup(t)
    const { fake: elsewhere } = await setup(t)
    elsewhere.answer = () => good(newSID())
    fake.answer = () => [307, {}, { location: `${elsewhere.url}/v1/sessions/authenticate` }]
    assert.equal(await outcome(client, 'token'), 'unavailable')
    assert.equal(elsewhere.requests, 0)
  })

  test('the next node is asked when one does not answer', async (t) => {
    const { fake } = await setup(t)
    fake.answer = () => good(newSID())
    const client = createClient({ baseUrl: ['http://127.0.0.1:1', fake.url], app: APP, apiKey: 'sk_test', timeoutMs: 500 })
    assert.equal(await outcome(client, 'token'), 'good api')
    await assert.rejects(createClient({ baseUrl: ['http://127.0.0.1:1', fake.url], app: APP, apiKey: 'sk_test' }).create({ user_id: 'ada' }), (err) => err.code === 'unavailable')
  })
})

describe('revocations', () => {
  test('of a session: from the very next verify on; also by this client itself', async (t) => {
    const { fake, key, client } = await setup(t)
    await client.start()
    const sid = newSID()
    const jwt = await mint(fake, key, { sid })
    assert.equal(await outcome(client, jwt), 'good local')
    fake.event('session.revoked', { session_id: sid })
    await until(async () => await outcome(client, jwt) === 'revoked')
    const own = newSID()
    const jwt2 = await mint(fake, key, { sid: own })
    assert.equal(await outcome(client, jwt2), 'good local')
    await client.revoke({ session_jwt: jwt2 })
    assert.equal(await outcome(client, jwt2), 'revoked')
  })

  test('of a user or the app: by the time the JWT was minted, and the API in between', async (t) => {
    for (const type of ['user.revoked', 'app.revoked']) {
      const { fake, key, client } = await setup(t)
      await client.start()
      const spared = newSID()
      const now = Math.floor(Date.now() / 1000)
      const at = now - 100
      const time = new Date(at * 1000).toISOString()
      fake.event(type, { user_hash: userHash(APP, 'ada'), at: time, revoked_at: time, except_session_ids: [spared] })
      await until(() => client.status().revocations === 1)
      const of = (iat, fields = {}) => mint(fake, key, { iat, ...fields })
      assert.equal(await outcome(client, await of(at - 61)), 'revoked', type)
      assert.equal(await outcome(client, await of(at - 61, { sid: spared })), 'good local', type)
      assert.equal(await outcome(client, await of(at + 92)), 'good local', type)
      const elsewhere = newSID(9) // a stream without a lease
      fake.answer = () => good(elsewhere)
      assert.equal(await outcome(client, await of(at - 61, { sid: elsewhere })), 'good api', `${type}, of another stream`)
      assert.equal(await outcome(client, await of(at - 61, { user: 'bob' })), type === 'user.revoked' ? 'good local' : 'revoked')
      // In between the API tells, once per session; its silence is no yes.
      for (const iat of [at - 60, at, at + 91]) {
        const sid = newSID()
        fake.asked = []
        fake.answer = () => refused(503, 'node_stale')
        assert.equal(await outcome(client, await of(iat, { sid })), 'unavailable')
        fake.answer = () => good(sid)
        assert.equal(await outcome(client, await of(iat, { sid })), 'good api')
        assert.equal(await outcome(client, await of(iat, { sid })), 'good local')
        assert.equal(fake.asked.length, 2)
        assert.deepEqual(fake.asked[1].consistency, { at_least: 'eu:0:11' })
      }
      fake.answer = () => refused(404, 'session_not_found', 'revoked')
      assert.equal(await outcome(client, await of(at)), 'revoked revoked')
    }
  })

  test('of a user whose region was cut off: JWTs were minted there until the log took it', async (t) => {
    const { fake, key, client } = await setup(t)
    await client.start()
    const now = Math.floor(Date.now() / 1000)
    fake.event('user.revoked', { user_hash: userHash(APP, 'ada'), revoked_at: new Date((now - 250) * 1000).toISOString() })
    // Another one, that spares a session, says nothing of whether the first one took it.
    const sid = newSID()
    fake.event('user.revoked', { user_hash: userHash(APP, 'ada'), except_session_ids: [sid] })
    fake.event('session.revoked', { session_id: newSID() })
    await until(() => client.status().revocations === 2)
    fake.answer = () => refused(404, 'session_not_found', 'revoked')
    assert.equal(await outcome(client, await mint(fake, key, { sid, iat: now - 50 })), 'revoked revoked')
    assert.equal(fake.asked.length, 1)
    assert.equal(await outcome(client, await mint(fake, key, { user: 'bob', iat: now - 50 })), 'good local')
    // Recorded elsewhere, while it still is cut off: nobody knows until when.
    const past = new Date((now - 250) * 1000).toISOString()
    fake.event('user.revoked', { user_hash: userHash(APP, 'eve'), revoked_at: past, at: past, revision: 'us:0:9' })
    fake.event('user.revoked', { user_hash: userHash(APP, 'bob'), revoked_at: past, at: past })
    await until(() => client.status().revocations === 4)
    assert.equal(await outcome(client, await mint(fake, key, { user: 'eve' })), 'revoked revoked')
    assert.equal(await outcome(client, await mint(fake, key, { user: 'bob' })), 'good local')
  })

  test('that were there before the client began', async (t) => {
    const { fake, key, client } = await setup(t)
    const now = Math.floor(Date.now() / 1000)
    const [gone, spared] = [newSID(), newSID()]
    const mark = { region: 'eu', stream: STREAM, revoked_at: new Date((now - 100) * 1000).toISOString() }
    fake.snapshot.sessions = [gone]
    fake.snapshot.users = [{ ...mark, user_hash: userHash(APP, 'ada'), except_session_ids: [spared] }]
    fake.snapshot.all = [{ ...mark, revoked_at: new Date((now - 200) * 1000).toISOString() }]
    await client.start()
    fake.answer = () => refused(404, 'session_not_found', 'revoked')
    assert.equal(await outcome(client, await mint(fake, key, { sid: gone })), 'revoked')
    assert.equal(await outcome(client, await mint(fake, key, { iat: now - 161 })), 'revoked')
    assert.equal(await outcome(client, await mint(fake, key, { iat: now - 261, user: 'bob' })), 'revoked')
    // Until when JWTs were minted of those it took is not told: the API is asked about everything since.
    assert.equal(await outcome(client, await mint(fake, key)), 'revoked revoked')
    const fresh = newSID()
    fake.answer = () => good(fresh)
    assert.equal(await outcome(client, await mint(fake, key, { sid: fresh })), 'good api')
    assert.equal(await outcome(client, await mint(fake, key, { sid: fresh })), 'good local')
    assert.deepEqual(fake.asked.at(-1).consistency, { at_least: fake.snapshot.revision })
  })

  test('that were there before the client began, with until when JWTs were minted', async (t) => {
    const { fake, key, client } = await setup(t)
    const now = Math.floor(Date.now() / 1000)
    const mark = { region: 'eu', stream: STREAM, revoked_at: new Date((now - 200) * 1000).toISOString() }
    fake.snapshot.users = [{ ...mark, user_hash: userHash(APP, 'ada'), minted_until: new Date((now - 100) * 1000).toISOString() }]
    await client.start()
    assert.equal(await outcome(client, await mint(fake, key, { iat: now - 261 })), 'revoked')
    assert.equal(await outcome(client, await mint(fake, key, { iat: now - 99 })), 'good local')
    fake.answer = () => refused(404, 'session_not_found', 'revoked')
    assert.equal(await outcome(client, await mint(fake, key, { iat: now - 100 })), 'revoked revoked')
    assert.equal(fake.asked.length, 1)
  })

  test('the app suspended, resumed, deleted', async (t) => {
    const { fake, key, client } = await setup(t)
    await client.start()
    const jwt = await mint(fake, key)
    for (const [type, want] of [['app.suspended', 'suspended'], ['app.resumed', 'good local'], ['app.deleted', 'suspended'], ['app.resumed', 'suspended']]) {
      fake.event(type, { region: '_config', stream: 1 })
      const before = client.status().revocations
      fake.event('session.revoked', { session_id: newSID() }) // once this was heard, that was
      await until(() => client.status().revocations > before)
      assert.equal(await outcome(client, jwt), want, type)
    }
  })

  test('the app resumed while there is no feed: a node is asked that knows that it was suspended', async (t) => {
    for (const whenStale of ['api', 'refuse']) {
      const { fake, key, client } = await setup(t, { whenStale })
      await client.start()
      const sid = newSID()
      const jwt = await mint(fake, key, { sid })
      fake.event('app.suspended', { region: '_config', stream: 1, revision: '_config:0:9' })
      await until(async () => await outcome(client, jwt) === 'suspended')
      fake.refuse = refused(503, 'memory_full')
      fake.feeds[0].res.destroy()
      await until(() => client.status().streams.every((s) => s.leaseMs === 0))
      fake.answer = () => refused(403, 'app_suspended')
      assert.equal(await outcome(client, jwt), 'suspended')
      fake.answer = () => good(sid)
      assert.equal(await outcome(client, jwt), whenStale === 'api' ? 'good api' : 'suspended')
      for (const { consistency } of fake.asked) assert.equal(consistency.at_least, '_config:0:9,eu:0:11')
      assert.equal(fake.asked.length, whenStale === 'api' ? 2 : 0)
      fake.refuse = null
      await until(() => client.status().streams.every((s) => s.leaseMs > 0))
      assert.equal(await outcome(client, jwt), 'suspended') // the feed did not say that it was resumed
    }
  })

  test('are forgotten when no JWT can need them, and JWTs from before stay refused', () => {
    const r = new Revoked()
    const sid = newSID()
    r.load({ revision: 'eu:0:1', jwt_life_seconds: 300, sessions: [sid], users: [], all: [] }, 1000, 0)
    r.apply({ type: 'user.revoked', stream: STREAM, user_hash: 'h', region: 'eu', at: new Date(1000_000).toISOString(), revoked_at: new Date(900_000).toISOString(), revision: 'eu:0:2' }, 0)
    assert.equal(r.look({ sid, stream: STREAM, userHash: 'x', iat: 1000 }), 'revoked')
    assert.equal(r.over, 971)
    r.forget(419_999)
    assert.equal(r.size, 2)
    r.forget(420_000)
    assert.equal(r.size, 0)
    assert.equal(r.over, 1391) // 300 s after the last JWT that a node at most 91 s behind has minted
  })

  test('that a catch-up names again are kept from then on: their home may not know of them yet', () => {
    const r = new Revoked()
    const sid = newSID()
    const load = (now) => r.load({ revision: 'eu:0:1', jwt_life_seconds: 300, sessions: [sid], users: [], all: [] }, 1000 + now / 1000, now)
    load(0)
    r.revoke(newSID(), 1000, 100_000)
    load(400_000)
    r.forget(819_999)
    assert.equal(r.look({ sid, stream: STREAM, userHash: 'x', iat: 1700 }), 'revoked')
    assert.equal(r.size, 1)
    r.forget(820_000)
    assert.equal(r.size, 0)
  })

  test('a clock that is set back revives nothing', async (t) => {
    const clock = newClock()
    const { fake, key, client } = await setup(t, { clock, leaseMs: 15_000, whenExpired: 'refuse' })
    fake.date = new Date(clock.wall() + 3.6e6).toUTCString() // the clock of this machine is an hour slow
    await client.start()
    assert.equal(await outcome(client, await mint(fake, key)), 'expired')
  })
})

describe('the client', () => {
  test('checks its options', () => {
    const fine = { baseUrl: 'http://x', app: 'a', apiKey: 'k' }
    createClient(fine)
    for (const bad of [{ baseUrl: undefined }, { baseUrl: 'x' }, { baseUrl: [] }, { app: 'A' }, { app: undefined }, { apiKey: '' }, { whenStale: 'serve' }, { whenExpired: 'x' },
      { issuer: 'x' }, { leaseMs: 15_001 }, { leaseMs: 0 }, { leewaySeconds: 6 }, { cacheSize: -1 }, { fetch: 1 }, { onEvent: 1 }, { leasems: 1 }]) {
      assert.throws(() => createClient({ ...fine, ...bad }), TypeError, JSON.stringify(bad))
    }
    assert.throws(() => createClient(), TypeError)
    assert.ok(new RevocastError('stale', 'x') instanceof Error)
  })
})
