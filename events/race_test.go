//go:build race

package events_test

// Twelve NATS servers in one process miss their own time-outs there.
const underRace = true
