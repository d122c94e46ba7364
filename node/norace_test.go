//go:build !race

package node_test

// underRace says that the race detector is on.
const underRace = false
