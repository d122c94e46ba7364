package events

// bootClock is CLOCK_MONOTONIC_RAW's neighbour that counts on in sleep: on
// macOS CLOCK_MONOTONIC is mach_continuous_time (clock_gettime(3)).
const bootClock = 6
