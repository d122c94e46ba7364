package projection_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// config appends records to CONFIG.
type config struct {
	t     testing.TB
	s     *projection.Settings
	seq   uint64
	nonce uint64
	recs  []events.Record
}

func newConfig(t testing.TB) *config { return &config{t: t, s: new(projection.Settings)} }

func (c *config) put(r events.Record) projection.Effect {
	c.seq++
	r.Stream, r.Seq, r.Time = 1, c.seq, time.UnixMilli(base+int64(c.seq))
	c.recs = append(c.recs, r)
	return c.s.Apply(r)
}

func (c *config) add(e events.Event) projection.Effect {
	c.nonce++
	return c.put(events.Record{Subject: e.Subject(events.ConfigRegion), Event: e, Sealed: sealed(c.nonce, "der")})
}

func (c *config) forge(e events.Event) projection.Effect {
	return c.put(events.Record{Subject: e.Subject(events.ConfigRegion), Trust: events.Forged})
}

func (c *config) must(want, got projection.Effect) {
	c.t.Helper()
	if got != want {
		c.t.Fatalf("at seq %d: effect %d, want %d", c.seq, got, want)
	}
}

func (c *config) repair(e events.Event) events.Event {
	c.t.Helper()
	fix, ok := c.s.Repair(e.Subject(events.ConfigRegion), c.seq)
	if !ok {
		c.t.Fatal("nothing to repair")
	}
	c.must(applied, c.add(fix.Event))
	return fix.Event
}

func app(prev uint64, ttl int64) *events.App {
	return &events.App{App: "app", State: events.AppActive, Prev: prev, Settings: events.AppSettings{JWTTTL: ttl}}
}

func (c *config) ttl(want int64) {
	c.t.Helper()
	a, ok := c.s.Snapshot().App("app")
	if !ok || a.Settings.JWTTTL != want {
		c.t.Fatalf("at seq %d: app %+v, want ttl %d", c.seq, a, want)
	}
}

func TestSettings(t *testing.T) {
	tests := map[string]func(c *config){
		"nothing": func(c *config) {
			snap := c.s.Snapshot()
			if _, ok := snap.App("app"); ok || len(snap.Keys("app")) != 0 || snap.Last(app(0, 0)) != 0 {
				t.Error("something")
			}
			for range snap.Apps() {
				t.Error("an app")
			}
		},
		"the newest counts, an older one is an overwrite": func(c *config) {
			c.must(applied, c.add(app(0, 1)))
			before := c.s.Snapshot()
			c.must(applied, c.add(app(1, 2)))
			c.must(overwrite, c.add(app(1, 3)))
			c.ttl(2)
			if got := c.s.Snapshot().Last(app(0, 0)); got != 3 {
				t.Errorf("the next must expect 3, not %d", got)
			}
			c.repair(app(0, 0))
			c.ttl(2)
			if a, _ := before.App("app"); a.Settings.JWTTTL != 1 || before.Seq != 1 {
				t.Error("a snapshot changed")
			}
		},
		"a copy only moves the sequence": func(c *config) {
			c.add(app(0, 1))
			c.must(applied, c.put(c.recs[0]))
			c.ttl(1)
			c.must(overwrite, c.add(app(1, 2)))
			c.must(applied, c.add(app(3, 2)))
			c.must(overwrite, c.put(c.recs[0]))
			c.ttl(2)
		},
		"a forged one grants nothing": func(c *config) {
			c.must(overwrite, c.forge(app(0, 0)))
			if _, ok := c.s.Repair(app(0, 0).Subject(events.ConfigRegion), c.seq); ok {
				t.Error("nothing is held")
			}
			c.must(applied, c.add(app(1, 1)))
			c.must(overwrite, c.forge(app(0, 0)))
			c.ttl(1)
			if fix := c.repair(app(0, 0)); fix.(*events.App).Prev != 3 {
				t.Errorf("%+v", fix)
			}
		},
		"other kinds": func(c *config) {
			c.must(applied, c.add(&events.Beat{}))
			c.must(skipped, c.add(state(s1, "u")))
			c.must(skipped, c.put(events.Record{Trust: events.Junk}))
			c.must(skipped, c.put(events.Record{Trust: events.Foreign}))
			c.must(overwrite, c.forge(&events.Beat{}))
			if _, seq := c.s.Position(); seq != 5 || c.s.LogTime() != time.UnixMilli(base+5) {
				t.Errorf("position %d at %v", seq, c.s.LogTime())
			}
		},
		"signing keys": func(c *config) {
			c.add(&events.SigningKey{App: "app", KID: "b", CreatedAt: 2})
			c.add(&events.SigningKey{App: "app", KID: "a", CreatedAt: 1})
			c.add(&events.SigningKey{App: "app2", KID: "c"})
			c.add(&events.SigningKey{App: "app", KID: "b", CreatedAt: 2, Compromised: true, Prev: 1})
			keys := c.s.Snapshot().Keys("app")
			if len(keys) != 2 || keys[0].Event.KID != "a" || !keys[1].Event.Compromised || string(keys[1].Sealed[32:]) != "der" {
				t.Errorf("%+v", keys)
			}
			c.add(&events.SigningKey{App: "app", KID: "b", CreatedAt: 2, Prev: 4})
			if !c.s.Snapshot().Keys("app")[1].Event.Compromised {
				t.Error("a compromised key is good again")
			}
		},
		"a forgotten signing key is not repaired": func(c *config) {
			k := &events.SigningKey{App: "app", KID: "a", ForgetAt: base + minute}
			c.add(k)
			if fix, ok := c.s.Repair(k.Subject(events.ConfigRegion), 2); !ok || fix.TTL != 2*time.Minute-time.Millisecond || fix.Sealed.Empty() {
				t.Errorf("%v lives %v", ok, fix.TTL)
			}
			c.seq += uint64(minute)
			c.add(&events.Beat{})
			if _, ok := c.s.Repair(k.Subject(events.ConfigRegion), 2); ok {
				t.Error("repaired")
			}
		},
		"api keys": func(c *config) {
			c.add(&events.APIKey{ID: "k", App: "app", Hash: "h1"})
			c.add(&events.APIKey{ID: "k", Hash: "h2"})
			c.add(&events.APIKey{ID: "k", App: "app", Hash: "h3", RevokedAt: 5, Prev: 1})
			snap := c.s.Snapshot()
			if _, ok := snap.APIKey("h1"); ok {
				t.Error("an old hash is accepted")
			}
			if k, ok := snap.APIKey("h3"); !ok || k.RevokedAt != 5 {
				t.Errorf("%+v", k)
			}
			if k, ok := snap.APIKeyByID("", "k"); !ok || k.Hash != "h2" {
				t.Errorf("%+v", k)
			}
			c.add(&events.APIKey{ID: "k", App: "app", Hash: "h3", Prev: 3})
			if k, _ := c.s.Snapshot().APIKeyByID("app", "k"); k.RevokedAt != 5 {
				t.Error("a revoked API key is good again")
			}
			if n := len(slices.Collect(c.s.Snapshot().APIKeys())); n != 2 {
				t.Errorf("%d keys", n)
			}
		},
		"a deleted app stays": func(c *config) {
			a := app(0, 1)
			a.State = events.AppDeleted
			c.add(a)
			c.add(app(1, 2))
			if a, ok := c.s.Snapshot().App("app"); !ok || a.State != events.AppDeleted {
				t.Errorf("%+v", a)
			}
			if n := len(slices.Collect(c.s.Snapshot().Apps())); n != 1 {
				t.Errorf("%d apps", n)
			}
		},
		"settings": func(c *config) {
			for _, name := range []string{"b", "c", "a"} {
				c.add(&events.Setting{App: "app", Type: "hook", Name: name, Value: []byte(`1`)})
			}
			c.add(&events.Setting{Type: "hook", Name: "z", Value: []byte(`1`)})
			c.add(&events.Setting{App: "app", Type: "hook", Name: "b", Prev: 1})
			c.add(&events.Setting{App: "app", Type: "hook", Name: "c", Value: []byte(`2`), Prev: 2})
			c.add(&events.Setting{App: "app", Type: "hook", Name: "never"})
			snap := c.s.Snapshot()
			var got []string
			for _, e := range snap.SettingsOf("app", "hook") {
				got = append(got, e.Name+string(e.Value))
			}
			if diff := cmp.Diff([]string{"a1", "c2"}, got); diff != "" {
				t.Error(diff)
			}
			if _, ok := snap.Setting("app", "hook", "b"); ok {
				t.Error("a deleted setting is held")
			}
			if e, ok := snap.Setting("app", "hook", "c"); !ok || string(e.Value) != "2" {
				t.Errorf("%+v", e)
			}
			if got := snap.Last(&events.Setting{App: "app", Type: "hook", Name: "b"}); got != 5 {
				t.Errorf("who makes it again must expect 5, not %d", got)
			}
			if n := len(slices.Collect(snap.SettingsOfType("hook"))); n != 3 {
				t.Errorf("%d settings", n)
			}
		},
		"a region keeps its number": func(c *config) {
			c.must(applied, c.add(&events.Region{Region: "eu", Number: 2}))
			c.must(overwrite, c.add(&events.Region{Region: "eu", Number: 3}))
			c.must(overwrite, c.add(&events.Region{Region: "us", Number: 2}))
			c.must(overwrite, c.add(&events.Region{Region: "us"}))
			c.must(applied, c.add(&events.Region{Region: "us", Number: 3}))
			c.must(overwrite, c.forge(&events.Region{Region: "eu"}))
			c.repair(&events.Region{Region: "eu"})
			snap := c.s.Snapshot()
			if r, ok := snap.Region("eu"); !ok || r.Number != 2 {
				t.Errorf("%+v", r)
			}
			if r, ok := snap.RegionByNumber(3); !ok || r.Region != "us" {
				t.Errorf("%+v", r)
			}
			if n := len(slices.Collect(snap.Regions())); n != 2 {
				t.Errorf("%d regions", n)
			}
		},
		"a rewind takes nothing back": func(c *config) {
			c.add(&events.APIKey{ID: "k", App: "app", Hash: "h"})
			c.add(app(0, 1))
			c.add(&events.APIKey{ID: "k", App: "app", Hash: "h", RevokedAt: 5, Prev: 1})
			c.add(&events.Region{Region: "eu", Number: 2})
			c.s.Rewind()
			if gen, seq := c.s.Position(); gen != 1 || seq != 0 {
				t.Errorf("position %d:%d", gen, seq)
			}
			c.ttl(1)
			recs := c.recs[:2]
			c.seq = 0
			// The API key as it was before its revocation is now alone in the
			// log: an overwrite, and repaired.
			c.must(overwrite, c.put(recs[0]))
			c.must(applied, c.put(recs[1]))
			if k, _ := c.s.Snapshot().APIKey("h"); k.RevokedAt != 5 {
				t.Error("a revoked API key is good again")
			}
			lost := slices.Collect(c.s.Lost())
			if len(lost) != 2 {
				t.Fatalf("lost: %+v", lost)
			}
			for _, fix := range lost {
				c.must(applied, c.add(fix.Event))
			}
			if lost := slices.Collect(c.s.Lost()); len(lost) != 0 {
				t.Errorf("lost although appended again: %+v", lost)
			}
			if k, _ := c.s.Snapshot().APIKey("h"); k.RevokedAt != 5 || k.Prev != 1 {
				t.Errorf("%+v", k)
			}
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(newConfig(t)) })
	}
}

// CONFIG compacted anywhere folds to the same, and hostile entries change
// nothing, each being repaired.
func TestSettingsCompactAnywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newConfig(nil)
		want := map[string]string{}
		for range rapid.IntRange(1, 40).Draw(t, "length") {
			if len(c.recs) > 0 && rapid.IntRange(0, 2).Draw(t, "attack") == 0 {
				r := c.recs[rapid.IntRange(0, len(c.recs)-1).Draw(t, "victim")]
				effect := overwrite
				if rapid.Bool().Draw(t, "forge") {
					effect = c.put(events.Record{Subject: r.Subject, Trust: events.Forged})
				} else {
					effect = c.put(r)
				}
				if fix, ok := c.s.Repair(r.Subject, c.seq); effect == overwrite && ok {
					if got := c.add(fix.Event); got != applied {
						t.Fatalf("repair: effect %d", got)
					}
				}
				continue
			}
			name, value := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name"), rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "value")
			e := &events.Setting{App: "app", Type: "t", Name: name, Value: []byte(value)}
			e.Prev = c.s.Snapshot().Last(e)
			if got := c.add(e); got != applied {
				t.Fatalf("change: effect %d", got)
			}
			want[name] = value
		}
		cut := rapid.IntRange(0, len(c.recs)).Draw(t, "cut")
		last := map[events.Subject]uint64{}
		for _, r := range c.recs[:cut] {
			last[r.Subject] = r.Seq
		}
		alone := new(projection.Settings)
		for i, r := range c.recs {
			if i >= cut || last[r.Subject] == r.Seq {
				alone.Apply(r)
			}
		}
		for name, value := range want {
			for _, s := range []*projection.Settings{c.s, alone} {
				got, ok := s.Snapshot().Setting("app", "t", name)
				if ok != (value != "") || ok && string(got.Value) != value {
					t.Fatalf("%s is %+v, want %q", name, got, value)
				}
				e := &events.Setting{App: "app", Type: "t", Name: name}
				if a, b := s.Snapshot().Last(e), c.s.Snapshot().Last(e); a != b {
					t.Fatalf("last of %s: %d, %d", name, a, b)
				}
			}
		}
	})
}

// Work is held as settings are, apart from them, and so that who continues it can
// tell an entry from the same one written again.
func TestSettingsWork(t *testing.T) {
	c := newConfig(t)
	work := func(app, name, value string, prev uint64) *events.Work {
		return &events.Work{Ignorable: true, App: app, Type: "progress-eu", Name: name, Value: []byte(value), Prev: prev}
	}
	c.add(work("app", "a", `1`, 0))
	c.add(work("app", "a", `2`, 1))
	c.add(work("", "b", `3`, 0))
	c.add(work("app", "c", `4`, 0))
	c.add(work("app", "c", ``, 4))  // it is over
	c.add(work("app", "a", `5`, 1)) // computed from what was replaced: an overwrite
	snap := c.s.Snapshot()
	if w, seq := snap.Work("app", "progress-eu", "a"); seq != 2 || string(w.Value) != `2` {
		t.Errorf("a: %+v at %d", w, seq)
	}
	if last := snap.Last(work("app", "a", ``, 0)); last != 6 {
		t.Errorf("the next change of a expects %d, want 6", last)
	}
	if w, seq := snap.Work("app", "progress-eu", "c"); w != nil || seq != 0 {
		t.Errorf("c, which is over: %+v at %d", w, seq)
	}
	if w, _ := snap.Work("app", "progress-us", "a"); w != nil {
		t.Errorf("what was never begun: %+v", w)
	}
	var all []string
	for w := range snap.Works() {
		all = append(all, w.App+"/"+w.Name)
	}
	slices.Sort(all)
	if !slices.Equal(all, []string{"/b", "app/a"}) {
		t.Errorf("all: %v", all)
	}
	if fix, ok := c.s.Repair(work("app", "a", ``, 0).Subject(events.ConfigRegion), 6); !ok || string(fix.Event.(*events.Work).Value) != `2` || fix.Event.(*events.Work).Prev != 6 {
		t.Errorf("repaired by %+v", fix.Event)
	}
	c.s.Rewind()
	if w, seq := c.s.Snapshot().Work("app", "progress-eu", "a"); seq != 0 || string(w.Value) != `2` {
		t.Errorf("after the log went backwards: %+v at %d", w, seq)
	}
}
