/** Time that has passed, for revocast.js: never the time of day. */

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
