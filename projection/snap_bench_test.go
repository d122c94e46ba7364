package projection_test

import (
	"bytes"
	"testing"

	"github.com/revocast/revocast/projection"
)

// BenchmarkSnapshot writes and loads 100,000 sessions.
func BenchmarkSnapshot(b *testing.B) {
	const sessions = 100_000
	l := newLog(b)
	for i := range sessions {
		l.m.Apply(stamped(l, state(sid(home, i), "u"+string(rune('a'+i%26)))))
	}
	h := projection.SnapshotHeader{Cluster: "c1", Streams: []projection.SnapshotStream{{Number: home, Region: region}}}
	var file bytes.Buffer
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			file.Reset()
			if err := l.m.WriteSnapshot(&file, snapKey, h, nil); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(file.Len())/sessions, "B/session")
		b.ReportMetric(sessions*float64(b.N)/b.Elapsed().Seconds(), "sessions/s")
	})
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			load(b, file.Bytes())
		}
		b.ReportMetric(sessions*float64(b.N)/b.Elapsed().Seconds(), "sessions/s")
	})
}
