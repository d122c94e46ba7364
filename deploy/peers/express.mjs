// An express server whose sessions express-session keeps in Redis through
// connect-redis. Standard input: {redis, password, secret}. Standard output:
// the port it listens on, once it does.
import express from 'express'
import session from 'express-session'
import { RedisStore } from 'connect-redis'
import { createClient } from 'redis'
import { text } from 'node:stream/consumers'

const config = JSON.parse(await text(process.stdin))
const [host, port] = config.redis.split(':')
const client = createClient({ password: config.password, socket: { host, port: Number(port) } })
client.on('error', (e) => {
  console.error(e)
  process.exit(1)
})
await client.connect()

const app = express()
// What only costs time here: a header, and a hash of each answer.
app.disable('x-powered-by')
app.disable('etag')
app.use(session({
  // Without touching, a request reads and writes nothing back.
  store: new RedisStore({ client, disableTouch: true }),
  secret: config.secret,
  resave: false,
  saveUninitialized: false
}))
app.get('/verify', (req, res) => {
  if (!req.session.session) {
    res.status(401).json({ error_type: 'session_not_found' })
    return
  }
  res.json(req.session.session)
})
const server = app.listen(0, '127.0.0.1', (e) => {
  if (e) throw e
  console.log(server.address().port)
})
// As long as the Go servers: a connection that waits for its turn is not closed.
server.keepAliveTimeout = 90_000
