import { nextRoute } from 'revocast-node'
import { revocast } from '../../../revocast.js'

export const fetchCache = 'default-cache' // of what the application fetches; not of who is logged in
const onRefresh = (auth, request, response) => response.headers.set('x-session-jwt', auth.jwt)
export const GET = nextRoute(revocast, (request, { auth }) => Response.json({ user: auth?.userId ?? null }), { optional: true, onRefresh })
