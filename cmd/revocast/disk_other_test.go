//go:build !linux

package main

import "testing"

func testFullDisk(t *testing.T, _ string) {
	t.Skip("NOT TESTED on this system: a full disk needs a tmpfs of its own")
}

func testPowerCut(t *testing.T, _ string) {
	t.Skip("NOT TESTED on this system: a power cut needs a disk of its own")
}
