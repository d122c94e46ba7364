//go:build !race

package node_test

// underRace says whether the race detector is on.
const underRace = false
