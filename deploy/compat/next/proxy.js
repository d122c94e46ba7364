import { nextMiddleware } from 'revocast-node'
import { revocast } from './revocast.js'

export const proxy = nextMiddleware(revocast, { login: '/login' })
export const config = { matcher: '/account' }
