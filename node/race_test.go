//go:build race

package node_test

// underRace says that the race detector is on, which makes some tests tens of
// times slower.
const underRace = true
