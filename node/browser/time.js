/** Time that passes, for revocast.js: never the time of day. */

/** moment is now, of which elapsed says how long ago it was. */
export const moment = () => ({ ticks: performance.now(), date: Date.now() });

/** before is the moment ms before now. */
export const before = (ms) => ({ ticks: performance.now() - ms, date: Date.now() - ms });

/**
 * elapsed returns the milliseconds since the moment. performance.now may stand still while
 * the machine sleeps, and Date may be set: the larger is believed, so nothing ever seems
 * younger than it is.
 */
export const elapsed = (m) => Math.max(performance.now() - m.ticks, Date.now() - m.date, 0);

/** Pauses are timers that can all be ended early. */
export class Pauses {
  #ends = new Set();

  /** wait waits for ms, or until end is called. */
  wait(ms) {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        this.#ends.delete(end);
        resolve();
      };
      const timer = setTimeout(end, ms);
      this.#ends.add(end);
    });
  }

  end() {
    for (const end of [...this.#ends]) end();
  }
}
