package projection_test

import (
	"testing"

	"github.com/revocast/revocast/projection"
)

// BenchmarkEnded looks once for what has ended among a million sessions, which is
// what a node does four times a minute, and sweeps them, which it does once.
func BenchmarkEnded(b *testing.B) {
	m, _, _ := million(b)
	b.Run("pass", func(b *testing.B) {
		for b.Loop() {
			for slice := range 256 {
				for range m.Ended(uint8(slice), home, base-1, base) {
					b.Fatal("nothing has ended")
				}
			}
		}
	})
	b.Run("sweep", func(b *testing.B) {
		for b.Loop() {
			for slice := range 256 {
				m.Sweep(uint8(slice), base)
			}
		}
	})
}

var _ = projection.Ended{}
