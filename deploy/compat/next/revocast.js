import { createClient } from 'revocast-node'

// Next loads modules more than once: one client for all that it makes of this one.
export const revocast = globalThis.revocast ??= createClient({
  ...JSON.parse(process.env.REVOCAST_CLIENT), onProblem: (err) => console.warn(err.message)
})
