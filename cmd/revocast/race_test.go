//go:build race

package main

// The processes are not built with the race detector: it would see the driver.
const underRace = true
