package client

import (
	"reflect"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// handClock is moved by hand.
type handClock struct {
	boot time.Duration
	wall time.Time
}

func (c *handClock) Boot() time.Duration { return c.boot }
func (c *handClock) Wall() time.Time     { return c.wall }

func (c *handClock) pass(d time.Duration) { c.boot += d; c.wall = c.wall.Add(d) }

func newBook() (*book, *handClock) {
	c := &handClock{boot: time.Hour, wall: time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)}
	return &book{clock: c, app: "acme", life: 24 * time.Hour}, c
}

// TestUserHash: it is that of the log.
func TestUserHash(t *testing.T) {
	for _, user := range []string{"ada", "ada@example.com", "ü", "a\x00b"} {
		if got, want := userHash("acme", user), events.UserHash("acme", user); got != want {
			t.Errorf("%q: %s, want %s", user, got, want)
		}
	}
}

// TestParseSID: it takes what the log takes, and nothing else.
func TestParseSID(t *testing.T) {
	for _, text := range []string{"Arc7vRFKASUkPSUVNV2IsA", "Arc7vRFKASUkPSUVNV2IsB", "", "x", "Arc7vRFKASUkPSUVNV2Is+", "Arc7vRFKASUkPSUVNV2IsA=", "Arc7vRFKASUkPSUVNV2I\nsA"} {
		want, err := events.ParseSID(text)
		if got, ok := parseSID(text); ok != (err == nil) || ok && got != sid(want) {
			t.Errorf("%q: %v %v, want %v %v", text, got, ok, want, err)
		}
	}
}

// TestWatermark: what a log-out of a user, or of everybody, means for a JWT, by when
// it was made, whose it is and where its session lives.
func TestWatermark(t *testing.T) {
	const lease = 15 * time.Second
	for _, all := range []bool{false, true} {
		b, clock := newBook()
		b.leases[2], b.leases[3] = clock.boot+time.Hour, clock.boot+time.Hour
		at := clock.wall
		kind, hash := api.EventUserRevoked, userHash("acme", "ada")
		if all {
			kind, hash = api.EventAppRevoked, ""
		}
		spared := newSID(2)
		if err := b.apply(kind, &api.Event{
			Region: "eu", Revision: "eu:0:9", At: at, Stream: 2, UserHash: hash, RevokedAt: &at, Except: []string{spared.String()},
		}); err != nil {
			t.Fatal(err)
		}
		one := sid(newSID(2))
		other := sid(newSID(3))
		elsewhere := good
		if all {
			elsewhere = isRevoked
		}
		for _, c := range []struct {
			name string
			id   sid
			user string
			iat  time.Duration // after the revocation
			want verdict
		}{
			{"long before", one, "ada", -time.Hour, isRevoked},
			{"just outside the margin before", one, "ada", -61 * time.Second, isRevoked},
			{"at the margin before", one, "ada", -60 * time.Second, isDoubtful},
			{"at that moment", one, "ada", 0, isDoubtful},
			{"at the margin after", one, "ada", 91 * time.Second, isDoubtful},
			{"just outside the margin after", one, "ada", 92 * time.Second, good},
			{"spared", sid(spared), "ada", -time.Hour, good},
			{"of another stream", other, "ada", -time.Hour, good},
			{"of another user", one, "eve", -time.Hour, elsewhere},
		} {
			s := &subject{id: c.id, user: c.user, iat: at.Add(c.iat).UnixMilli(), exp: at.Add(10 * time.Minute)}
			j := b.judge(s, lease)
			if j.verdict != c.want {
				t.Errorf("all %v, %s: %v, want %v", all, c.name, j.verdict, c.want)
			}
			if want := []string{"eu:0:9"}; c.want == isDoubtful && !reflect.DeepEqual(j.revisions, want) {
				t.Errorf("all %v, %s: a node must know %v, want %v", all, c.name, j.revisions, want)
			}
			if c.want != isDoubtful {
				continue
			}
			b.asked(s, j.revisions) // a node that knew said that it is good
			if j := b.judge(s, lease); j.verdict != good {
				t.Errorf("all %v, %s, after a node was asked: %v", all, c.name, j.verdict)
			}
			next := at.Add(time.Second)
			if err := b.apply(kind, &api.Event{Region: "eu", Revision: "eu:0:10", At: next, Stream: 2, UserHash: hash, RevokedAt: &next, Except: []string{spared.String()}}); err != nil {
				t.Fatal(err)
			}
			switch j := b.judge(s, lease); {
			case c.iat == -clockMargin && j.verdict == isRevoked: // a second more
			case j.verdict != isDoubtful || !reflect.DeepEqual(j.revisions, []string{"eu:0:10"}):
				t.Errorf("all %v, %s, after the next log-out: %+v", all, c.name, j)
			}
			b.marks = nil
			if err := b.apply(kind, &api.Event{Region: "eu", Revision: "eu:0:9", At: at, Stream: 2, UserHash: hash, RevokedAt: &at, Except: []string{spared.String()}}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestPending: a log-out that was asked for while the sessions' home was out of reach
// and reached it later took sessions of which JWTs were made meanwhile.
func TestPending(t *testing.T) {
	b, clock := newBook()
	b.leases[2] = clock.boot + time.Hour
	asked := clock.wall
	heard := asked.Add(10 * time.Minute)
	e := &api.Event{Region: "eu", Stream: 2, Revision: "us:0:4", At: asked, UserHash: userHash("acme", "ada"), RevokedAt: &asked}
	s := &subject{id: sid(newSID(2)), user: "ada"}
	expect := func(name string, iat time.Time, want verdict) {
		t.Helper()
		s.iat = iat.UnixMilli()
		if j := b.judge(s, time.Second); j.verdict != want {
			t.Errorf("%s: %v, want %v", name, j.verdict, want)
		}
	}
	if err := b.apply(api.EventUserRevoked, e); err != nil {
		t.Fatal(err)
	}
	expect("made before", asked.Add(-2*time.Minute), isRevoked)
	expect("made by a home that may not know", asked.Add(9*time.Minute), isDoubtful)
	b.marks = nil
	e.Revision, e.At = "eu:0:9", heard // what a client hears that does not follow us
	if err := b.apply(api.EventUserRevoked, e); err != nil {
		t.Fatal(err)
	}
	expect("made before it was asked for", asked.Add(-2*time.Minute), isRevoked)
	expect("made before it was delivered", asked.Add(9*time.Minute), isDoubtful)
	expect("made by a home that knew", heard.Add(92*time.Second), good)
	b.marks = nil
	if err := b.load(&api.Revocations{Revision: "eu:0:9", Users: []api.Watermark{{UserHash: e.UserHash, Stream: 2, RevokedAt: asked}}}); err != nil {
		t.Fatal(err)
	}
	expect("before a catch-up", asked.Add(-2*time.Minute), isRevoked)
	expect("of a catch-up, which does not say when it was delivered", heard.Add(time.Hour), isDoubtful)
	b.marks = nil
	until := heard.Add(75 * time.Second)
	if err := b.load(&api.Revocations{
		Revision: "eu:0:9", JWTLifeSeconds: 300, Users: []api.Watermark{{UserHash: e.UserHash, Stream: 2, RevokedAt: asked, MintedUntil: &until}},
	}); err != nil {
		t.Fatal(err)
	}
	expect("before a catch-up that says it", asked.Add(-2*time.Minute), isRevoked)
	expect("until it was known everywhere", until, isDoubtful)
	expect("and later", until.Add(time.Millisecond), good)
}

// TestToldAgain: a log-out that was recorded elsewhere takes more sessions once it is
// in the log of their home. Who knew of the first alone must be asked once more.
func TestToldAgain(t *testing.T) {
	b, clock := newBook()
	b.leases[2] = clock.boot + time.Hour
	at := clock.wall
	e := &api.Event{Region: "eu", Stream: 2, Revision: "us:0:4", At: at, UserHash: userHash("acme", "ada"), RevokedAt: &at}
	s := &subject{id: sid(newSID(2)), user: "ada", iat: at.UnixMilli()}
	for _, c := range []struct{ revision, want string }{
		{"us:0:4", "us:0:4"}, {"eu:0:9", "eu:0:9,us:0:4"}, {"eu:0:9", ""}, {"eu:1:2", "eu:1:2,us:0:4"},
	} {
		e.Revision = c.revision
		if c.want == "" {
			e.Revision = "eu:0:9,us:0:4" // the same once more
		}
		if err := b.apply(api.EventUserRevoked, e); err != nil {
			t.Fatal(err)
		}
		j := b.judge(s, time.Second)
		if c.want == "" {
			if j.verdict != good {
				t.Errorf("%s, told once more: %v", e.Revision, j)
			}
			continue
		}
		if j.verdict != isDoubtful || together(j.revisions) != c.want {
			t.Errorf("%s: %v, want doubt about %s", c.revision, j, c.want)
		}
		b.asked(s, j.revisions)
		if j := b.judge(s, time.Second); j.verdict != good {
			t.Errorf("%s, asked: %v", c.revision, j)
		}
	}
}

// TestMarks: one log-out replaces an older one of the same log only if it takes all
// that the older took.
func TestMarks(t *testing.T) {
	one, two := newSID(2).String(), newSID(2).String()
	for _, c := range []struct {
		name   string
		except [2][]string
		log    string
		want   int
	}{
		{"of everybody", [2][]string{}, "eu:0:10", 1},
		{"sparing one, then nobody", [2][]string{{one}, nil}, "eu:0:10", 1},
		{"sparing one twice", [2][]string{{one}, {one}}, "eu:0:10", 1},
		{"sparing nobody, then one", [2][]string{nil, {one}}, "eu:0:10", 2},
		{"sparing one, then another", [2][]string{{one}, {two}}, "eu:0:10", 2},
		{"of another log", [2][]string{}, "us:0:10", 2},
		{"of another generation", [2][]string{}, "eu:1:10", 2},
		{"told again, late", [2][]string{}, "eu:0:8", 2},
	} {
		b, clock := newBook()
		at := clock.wall
		for i, revision := range []string{"eu:0:9", c.log} {
			at = at.Add(time.Second)
			e := &api.Event{Region: "eu", Stream: 2, Revision: revision, At: at, Except: c.except[i]}
			for range 2 {
				if err := b.apply(api.EventAppRevoked, e); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := len(b.marks[place{stream: 2}]); n != c.want {
			t.Errorf("%s: %d marks, want %d", c.name, n, c.want)
		}
	}
}

// TestUnverified: a log-out that is not authentic spares nobody.
func TestUnverified(t *testing.T) {
	b, clock := newBook()
	b.leases[2] = clock.boot + time.Hour
	id := newSID(2)
	at := clock.wall
	if err := b.apply(api.EventAppRevoked, &api.Event{Revision: "eu:0:9", At: at, Stream: 2, Reason: "unverified", Except: []string{id.String()}}); err != nil {
		t.Fatal(err)
	}
	if j := b.judge(&subject{id: sid(id), iat: at.Add(-time.Hour).UnixMilli()}, time.Second); j.verdict != isRevoked {
		t.Errorf("%v", j.verdict)
	}
}

// TestUnreadable: an event from which it cannot be told what it takes away is an
// error, so that nobody takes the feed for complete; it changes nothing.
func TestUnreadable(t *testing.T) {
	at := time.Now()
	for name, e := range map[string]api.Event{
		"no session":   {Type: api.EventRevoked, Revision: "eu:0:1"},
		"a bad sid":    {Type: api.EventRevoked, Revision: "eu:0:1", SessionID: "x"},
		"no user":      {Type: api.EventUserRevoked, Revision: "eu:0:1", At: at},
		"a bad hash":   {Type: api.EventUserRevoked, Revision: "eu:0:1", At: at, UserHash: "x"},
		"no time":      {Type: api.EventAppRevoked, Revision: "eu:0:1"},
		"no revision":  {Type: api.EventAppRevoked, At: at},
		"a bad except": {Type: api.EventAppRevoked, Revision: "eu:0:1", At: at, Except: []string{"x"}},
		"no key":       {Type: api.EventKeyCompromised},
	} {
		b, _ := newBook()
		if err := b.apply(e.Type, &e); err == nil {
			t.Errorf("%s: no error", name)
		}
		if len(b.revoked)+len(b.marks)+len(b.keys) != 0 {
			t.Errorf("%s: something was noted", name)
		}
	}
}

// TestJudgeOrder: what a session lost it has lost, lease or no lease; without one
// nothing good is said; and an expiry counts by the later of the clocks.
func TestJudgeOrder(t *testing.T) {
	const lease = 15 * time.Second
	b, clock := newBook()
	id := sid(newSID(2))
	s := &subject{id: id, user: "ada", kid: "k", iat: clock.wall.UnixMilli(), exp: clock.wall.Add(5 * time.Minute)}
	expect := func(name string, want verdict) {
		t.Helper()
		if j := b.judge(s, lease); j.verdict != want {
			t.Errorf("%s: %v, want %v", name, j.verdict, want)
		}
	}
	expect("nothing is known", isStale)
	b.renew(2, clock.boot+lease)
	expect("fresh", good)
	b.renew(3, clock.boot+time.Hour)
	b.renew(2, clock.boot) // an older ping comes back late
	clock.pass(lease - 1)
	expect("just fresh", good)
	clock.pass(1)
	expect("no longer", isStale)
	b.renew(2, clock.boot+2*time.Hour)

	b.heard(clock.wall.Add(4 * time.Minute)) // this machine's clock is slow
	expect("fresh, by a node's clock", good)
	clock.pass(time.Minute)
	expect("expired, by a node's clock", isExpired)
	clock.wall = clock.wall.Add(-time.Hour)
	expect("expired, though the clock was set back", isExpired)

	b.shut = true
	expect("app suspended", isShut)
	b.shut = false
	b.steal("k")
	expect("its key was stolen", isUntrue)
	delete(b.keys, "k")
	b.revoke(id)
	expect("revoked", isRevoked)
	b.leases[2] = 0
	expect("revoked, no lease", isRevoked)
}

// TestForget: a revocation is remembered for longer than any JWT lives, and no
// longer than that; being told again makes it last.
func TestForget(t *testing.T) {
	b, clock := newBook()
	b.lives(300)
	one, two := sid(newSID(2)), sid(newSID(2))
	b.revoke(one)
	at := clock.wall
	if err := b.apply(api.EventAppRevoked, &api.Event{Revision: "eu:0:1", At: at, Stream: 2}); err != nil {
		t.Fatal(err)
	}
	clock.pass(5 * time.Minute)
	b.revoke(one)
	b.revoke(two)
	clock.pass(5*time.Minute - 1)
	b.forget()
	if len(b.revoked) != 2 || len(b.marks) != 1 {
		t.Errorf("forgotten too early: %d sessions, %d marks", len(b.revoked), len(b.marks))
	}
	clock.pass(1)
	b.forget()
	if _, ok := b.revoked[one]; !ok || len(b.marks) != 0 || len(b.queue) != 2 {
		t.Errorf("after the first: %d sessions, %d marks, queue of %d", len(b.revoked), len(b.marks), len(b.queue))
	}
	clock.pass(5 * time.Minute)
	b.forget()
	if len(b.revoked)+len(b.queue) != 0 {
		t.Errorf("%d sessions are left, queue of %d", len(b.revoked), len(b.queue))
	}
}

// TestForgetUnfollowed: a client that only revokes, and follows no feed, holds no more
// for it than the revocations of some minutes.
func TestForgetUnfollowed(t *testing.T) {
	b, clock := newBook()
	b.lives(300)
	most := 0
	for range 100_000 {
		b.revoke(sid(newSID(2)))
		clock.pass(time.Second)
		most = max(most, len(b.revoked), len(b.queue))
	}
	if most > 10_000 { // of 600 that count
		t.Errorf("%d were held", most)
	}
	last := sid(newSID(2))
	b.revoke(last)
	clock.pass(10*time.Minute - 1)
	for range 5000 {
		b.revoke(sid(newSID(2)))
	}
	if _, ok := b.revoked[last]; !ok {
		t.Error("forgotten too early")
	}
}

// TestLives: what is held outlasts the JWTs of a setting that came later.
func TestLives(t *testing.T) {
	b, clock := newBook()
	b.lives(300)
	one := sid(newSID(2))
	b.revoke(one)
	at := clock.wall
	if err := b.apply(api.EventAppRevoked, &api.Event{Revision: "eu:0:1", At: at, Stream: 2}); err != nil {
		t.Fatal(err)
	}
	b.lives(3600)
	b.lives(60)
	clock.pass(time.Hour + 5*time.Minute - 1)
	b.forget()
	if len(b.revoked) != 1 || len(b.queue) != 1 || len(b.marks) != 1 {
		t.Errorf("forgotten too early: %d sessions, queue of %d, %d marks", len(b.revoked), len(b.queue), len(b.marks))
	}
	clock.pass(1)
	b.forget()
	if len(b.revoked)+len(b.queue)+len(b.marks) != 0 {
		t.Errorf("left: %d sessions, queue of %d, %d marks", len(b.revoked), len(b.queue), len(b.marks))
	}
}

// TestLoad: a catch-up adds to what is known and takes nothing back.
func TestLoad(t *testing.T) {
	b, clock := newBook()
	one, two := newSID(2), newSID(2)
	b.revoke(sid(one))
	at := clock.wall
	r := &api.Revocations{
		Revision: "_config:0:5,eu:0:9,us:0:7", JWTLifeSeconds: 300, AppState: "active",
		Sessions: []string{two.String()},
		Users:    []api.Watermark{{UserHash: userHash("acme", "ada"), Stream: 2, RevokedAt: at}},
		All:      []api.Watermark{{Stream: 3, RevokedAt: at}}, CompromisedKeys: []string{"k"},
	}
	for range 2 { // the second time it is the same
		if err := b.load(r); err != nil {
			t.Fatal(err)
		}
		if len(b.revoked) != 2 || len(b.queue) != 2 || len(b.marks) != 2 || !b.keys["k"] || b.shut {
			t.Fatalf("%d sessions, %d marks, keys %v, shut %v", len(b.revoked), len(b.marks), b.keys, b.shut)
		}
		for p, held := range b.marks {
			if len(held) != 1 || held[0].revision != "eu:0:9,us:0:7" {
				t.Errorf("%v: %+v", p, held)
			}
		}
	}
	// An app that was suspended at 6 is not taken for active by who is at 5.
	if err := b.apply(api.EventAppSuspended, &api.Event{Revision: "_config:0:6"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at   string
		shut bool
	}{{"_config:0:5,eu:0:9", true}, {"eu:0:9", true}, {"_config:0:7,eu:0:9", false}} {
		r.Revision = c.at
		if err := b.load(r); err != nil {
			t.Fatal(err)
		}
		if b.shut != c.shut {
			t.Errorf("at %s: shut is %v", c.at, b.shut)
		}
	}
	for name, change := range map[string]func(*api.Revocations){
		"a bad sid": func(r *api.Revocations) { r.Sessions = []string{"x"} },
		"no user":   func(r *api.Revocations) { r.Users = []api.Watermark{{Stream: 2, RevokedAt: at}} },
		"no time":   func(r *api.Revocations) { r.All = []api.Watermark{{Stream: 2}} },
	} {
		bad := *r
		change(&bad)
		if err := b.load(&bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTogether(t *testing.T) {
	for _, c := range []struct {
		in   []string
		want string
	}{
		{[]string{"eu:0:9"}, "eu:0:9"},
		{[]string{"eu:0:9", "eu:0:10"}, "eu:0:10"},
		{[]string{"eu:1:3", "eu:0:10"}, "eu:1:3"},
		{[]string{"us:0:4", "eu:0:9,us:0:7"}, "eu:0:9,us:0:7"},
		{[]string{"eu:0:9,us:0:7", "us:0:8"}, "eu:0:9,us:0:8"},
	} {
		if got := together(c.in); got != c.want {
			t.Errorf("%v: %s, want %s", c.in, got, c.want)
		}
	}
}

// newSID returns the id of a session that lives in the stream.
func newSID(stream uint8) events.SID {
	id, _ := events.NewToken(stream).Key()
	return id
}
