package projection_test

import (
	"bytes"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// headsOf is m's dump as if the sessions of the stream had no more than heads.
func headsOf(m *projection.Map, stream uint8) projection.Dump {
	d := m.Dump()
	for sid, r := range d.Records {
		if sid.Stream() == stream {
			r.Sealed = slices.Clone(r.Sealed.Head())
			d.Records[sid] = r
		}
	}
	return d
}

// A fold that is given heads makes of every record what one makes that is given
// all, and so does one that is loaded without private parts.
func TestHeadsAreEnough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.hostile, w.away = true, true
		w.run()
		live, all, heads := newTape(), new(projection.Map), new(projection.Map)
		for _, k := range w.log {
			r := k.r
			if r.Subject.Kind == events.KindState && r.Stream == 2 {
				r.Sealed = r.Sealed.Head()
			}
			live.apply(k.r)
			if got, want := heads.Apply(r), all.Apply(k.r); got != want {
				t.Fatalf("%v at %d: effect %d of the head, %d of all", r.Subject, r.Seq, got, want)
			}
		}
		if diff := gocmp.Diff(headsOf(live.m, 2), heads.Dump(), sameDump...); diff != "" {
			t.Fatalf("-all +heads\n%s", diff)
		}
		var file bytes.Buffer
		if err := live.m.WriteSnapshot(&file, snapKey, live.header(lastOf), live.ring); err != nil {
			t.Fatal(err)
		}
		loaded, _, err := projection.ReadSnapshotKeeping(&file, func(stream uint8) bool { return stream != 2 }, snapKey)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(headsOf(live.m, 2), loaded.Dump(), sameDump...); diff != "" {
			t.Fatalf("-all +loaded\n%s", diff)
		}
		for _, k := range w.log {
			if at := k.r.Subject; at.Kind == events.KindState {
				fix, ok := heads.Repair(at, k.r.Seq, w.now)
				if all, also := live.m.Repair(at, k.r.Seq, w.now); ok != also || !all.Sealed.Head().SameMessage(fix.Sealed) && ok || ok && fix.Sealed.Empty() != (k.r.Stream == 2) {
					t.Fatalf("repair of %v: %v of %d bytes, %v of %d bytes", at, ok, len(fix.Sealed), also, len(all.Sealed))
				}
			}
		}
	})
}
