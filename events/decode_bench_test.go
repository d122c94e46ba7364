package events_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
)

// BenchmarkDecode is what replay pays for each event: open the seal, scan the
// payload, compare it with its subject. Beside each time stands what
// encoding/json alone needs for the payload, measured in the same run.
func BenchmarkDecode(b *testing.B) {
	for _, g := range goldens() {
		b.Run(g.name, func(b *testing.B) {
			private := ""
			if g.name == "st" {
				private = strings.Repeat("p", 300)
			}
			m, err := testKeys.Encode("eu", g.event, []byte(private), time.Hour)
			if err != nil {
				b.Fatal(err)
			}
			e := events.Entry{Seq: 1, Time: time.Now(), Message: m}
			slow := time.Now()
			const rounds = 1000
			for range rounds {
				if err := json.Unmarshal(m.Payload, emptyOf(g.event)); err != nil {
					b.Fatal(err)
				}
			}
			jsonNS := float64(time.Since(slow).Nanoseconds()) / rounds
			b.ReportAllocs()
			for b.Loop() {
				if r := testKeys.Decode(2, e); r.Trust != events.Authentic {
					b.Fatal(r.Trust)
				}
			}
			b.ReportMetric(jsonNS, "json-ns/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
