import { nextRoute } from 'revocast-node'
import { revocast } from '../../../../revocast.js'

export const GET = nextRoute(revocast, async (request, { auth, params }) => Response.json({ user: auth.userId, source: auth.source, id: (await params).id }))
