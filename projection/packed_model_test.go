package projection_test

import (
	"fmt"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// pair is a projection in pages, small ones, and one on plain maps, which see
// the same.
type pair struct {
	t           *rapid.T
	pages, maps *projection.Map
}

func newPair(t *rapid.T) *pair {
	p := &pair{t: t, pages: new(projection.Map), maps: projection.NewModel()}
	p.pages.SmallPages(rapid.SampledFrom([]int{16, 100, 1000}).Draw(t, "page words"))
	return p
}

func (p *pair) apply(r events.Record) {
	p.t.Helper()
	if a, b := p.pages.Apply(r), p.maps.Apply(r); a != b {
		p.t.Fatalf("%v at %d has effect %d in pages, %d on maps", r.Subject, r.Seq, a, b)
	}
}

// both does the same with each.
func (p *pair) both(do func(*projection.Map)) {
	do(p.pages)
	do(p.maps)
}

// alike fails unless both hold and answer the same.
func (p *pair) alike(keys []events.SID, now int64) {
	p.t.Helper()
	if err := p.pages.Sound(); err != nil {
		p.t.Fatal(err)
	}
	if diff := gocmp.Diff(p.maps.Dump(), p.pages.Dump(), sameDump...); diff != "" {
		p.t.Fatalf("maps, pages: %s", diff)
	}
	type found struct {
		S projection.Session
		V projection.Verdict
		R bool
	}
	byKey := cmpopts.SortSlices(func(a, b found) bool { return a.S.SID.String() < b.S.SID.String() })
	look := func(m *projection.Map) (out []found, lists [2][]found) {
		for _, k := range keys {
			s, v := m.Lookup(k, now)
			out = append(out, found{s, v, false})
			s, v, rotated := m.LookupToken(k, now)
			out = append(out, found{s, v, rotated})
		}
		for s, v := range m.User("app", "u", now) {
			lists[0] = append(lists[0], found{s, v, false})
		}
		for s, v := range m.App("app", now) {
			lists[1] = append(lists[1], found{s, v, false})
		}
		return out, lists
	}
	maps, mapLists := look(p.maps)
	pages, pageLists := look(p.pages)
	if diff := gocmp.Diff(maps, pages, sameDump...); diff != "" {
		p.t.Fatalf("maps, pages: %s", diff)
	}
	if diff := gocmp.Diff(mapLists[0], pageLists[0], sameDump...); diff != "" {
		p.t.Fatalf("sessions of a user, maps, pages: %s", diff)
	}
	if diff := gocmp.Diff(mapLists[1], pageLists[1], append(slices.Clone(sameDump), byKey)...); diff != "" {
		p.t.Fatalf("sessions of an app, maps, pages: %s", diff)
	}
	for stream := range worldRegions {
		if a, b := p.maps.Digest(stream, now), p.pages.Digest(stream, now); a != b {
			p.t.Fatalf("digest of %d on maps %s, in pages %s", stream, a, b)
		}
		a, b := slices.Collect(p.maps.Pending(stream, now)), slices.Collect(p.pages.Pending(stream, now))
		bySID := cmpopts.SortSlices(func(x, y projection.Ended) bool { return x.SID.String() < y.SID.String() })
		if diff := gocmp.Diff(ended(p.maps, stream, base, now+hour), ended(p.pages, stream, base, now+hour), bySID); diff != "" {
			p.t.Fatalf("ended in %d, maps, pages: %s", stream, diff)
		}
		byText := cmpopts.SortSlices(func(x, y projection.Repair) bool { return fmt.Sprint(x.Event) < fmt.Sprint(y.Event) })
		if diff := gocmp.Diff(a, b, byText, cmpopts.EquateEmpty()); diff != "" {
			p.t.Fatalf("pending for %d, maps, pages: %s", stream, diff)
		}
	}
}

// pagesAreMaps: whatever happens, the store in pages holds and answers what the
// one on plain maps does.
func pagesAreMaps(t *rapid.T) {
	w := newWorld(t)
	w.hostile, w.away = true, true
	w.run()
	p := newPair(t)
	now := base
	for i, k := range w.log {
		now = max(now, k.r.Time.UnixMilli())
		p.apply(k.r)
		switch rapid.SampledFrom([]string{"", "", "", "sweep", "tidy", "later", "rewind", "reread", "look"}).Draw(t, "between") {
		case "sweep":
			slice := uint8(rapid.IntRange(0, 255).Draw(t, "slice"))
			p.both(func(m *projection.Map) { m.Sweep(slice, now) })
		case "tidy":
			words := rapid.IntRange(1, 1000).Draw(t, "words")
			p.pages.Tidy(i%256, words)
		case "later":
			late := now + rapid.SampledFrom([]int64{0, hour, 400 * 24 * hour}).Draw(t, "late")
			p.both(func(m *projection.Map) {
				for slice := range 256 {
					m.Sweep(uint8(slice), late)
				}
			})
		case "rewind":
			if i%4 == 0 {
				p.both(func(m *projection.Map) { m.Rewind(k.r.Stream) })
			}
		case "reread":
			if i%4 == 0 {
				p.both(func(m *projection.Map) { m.Reread(k.r.Stream) })
			}
		case "look":
			p.alike(w.tokens, now)
		}
	}
	p.alike(w.tokens, now)
}

func TestPagesAreMaps(t *testing.T) { rapid.Check(t, pagesAreMaps) }

func FuzzPagesAreMaps(f *testing.F) { f.Fuzz(rapid.MakeFuzz(pagesAreMaps)) }

// Every record that can be held is held to the last field.
func TestBlocksHoldAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := new(projection.Map)
		m.SmallPages(rapid.IntRange(8, 200).Draw(t, "page words"))
		want := map[events.SID]projection.Held{}
		for range rapid.IntRange(1, 40).Draw(t, "changes") {
			s := sid(home, rapid.IntRange(0, 8).Draw(t, "session"))
			r := drawHeld(t, s)
			m.Put(r)
			want[s] = r
			if rapid.IntRange(0, 5).Draw(t, "tidy") == 0 {
				m.Tidy(int(s[1]), 1000)
			}
			if err := m.Sound(); err != nil {
				t.Fatal(err)
			}
		}
		for s, r := range want {
			if diff := gocmp.Diff(r, m.Get(s), sameDump...); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

// drawHeld returns a record of s with anything in it that fits its kind.
func drawHeld(t *rapid.T, s events.SID) projection.Held {
	n := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64())
	u := rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64())
	text := rapid.OneOf(rapid.Just(""), rapid.SampledFrom([]string{"a", "app", "user"}), rapid.StringN(0, 60, 300))
	r := projection.Held{Session: projection.Session{SID: s, App: text.Draw(t, "app"), User: text.Draw(t, "user"), AbsoluteAt: n.Draw(t, "absolute")}}
	r.Known = rapid.Bool().Draw(t, "known")
	if r.Known {
		r.CreatedAt, r.ExpiresAt, r.SeenAt, r.Idle = n.Draw(t, "created"), n.Draw(t, "expires"), n.Draw(t, "seen"), n.Draw(t, "idle")
		r.CreatedSeq, r.StateSeq, r.AuthSeq = u.Draw(t, "created seq"), u.Draw(t, "state seq"), u.Draw(t, "auth seq")
		r.Bound = rapid.Bool().Draw(t, "bound")
		r.OriginalUntil, r.By = n.Draw(t, "original until"), text.Draw(t, "by")
		r.Sealed = rapid.SliceOfN(rapid.Byte(), 0, 500).Draw(t, "sealed")
		for i := range r.Aliases {
			if rapid.Bool().Draw(t, "alias") {
				r.Aliases[i] = events.Alias{Key: sid(home, rapid.IntRange(100, 103).Draw(t, "key")), Until: n.Draw(t, "until")}
			}
		}
	}
	r.Longest = rapid.SampledFrom([]int64{0, r.ExpiresAt, 1 << 50}).Draw(t, "longest")
	r.Found, r.Gone = rapid.Bool().Draw(t, "found"), rapid.Bool().Draw(t, "gone")
	if !r.Known || rapid.Bool().Draw(t, "revoked") {
		r.Rank, r.From = rapid.Uint8Range(1, 9).Draw(t, "rank"), rapid.Byte().Draw(t, "from")
		r.Until, r.RevokedAt = n.Draw(t, "until"), n.Draw(t, "revoked at")
		r.RevokedBy, r.RevokeReason = text.Draw(t, "revoked by"), text.Draw(t, "reason")
	}
	return r
}
