import { readSync, openSync } from 'node:fs'

/**
 * Several clocks read at once, in ms. The time between two readings is the most
 * that any of them says. Node.js has no clock that is both steady and runs while
 * the machine is suspended: performance.now stops then on Linux, and the wall
 * clock can be set back. So a suspended machine is noticed by /proc/uptime and by
 * the wall clock, and a wall clock that is set back by the others. One that is
 * set forward ends a lease early, which costs a question to the API and no more.
 *
 * Always read when a session is judged, never kept from a timer: a process that
 * was stopped would wake up with an old reading.
 */
export const systemClock = {
  now: () => [performance.now(), sinceBoot(), Date.now()],
  wall: () => Date.now()
}

/** ms from one reading to a later one. */
export function elapsed (from, to) {
  let most = 0
  for (let i = 0; i < from.length; i++) most = Math.max(most, to[i] - from[i])
  return most
}

const text = Buffer.alloc(64)
let uptime // file descriptor of /proc/uptime; -1: there is none

/**
 * ms since the machine booted, suspended or not (CLOCK_BOOTTIME), from the file
 * kept open: a third of what os.uptime costs. 0 on other systems, where
 * performance.now itself goes on in suspend (macOS, Windows).
 */
function sinceBoot () {
  if (uptime === undefined) {
    try { uptime = process.platform === 'linux' ? openSync('/proc/uptime', 'r') : -1 } catch { uptime = -1 }
  }
  if (uptime < 0) return 0
  let n
  try { n = readSync(uptime, text, 0, text.length, 0) } catch { return 0 }
  return parseFloat(text.latin1Slice(0, n)) * 1000 || 0
}
