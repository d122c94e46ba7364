import { revocast } from './revocast.js'

/** Next calls it once when the server starts, not when the application is built, and waits for it. */
export function register () {
  revocast.start().catch((err) => console.error(err))
}
