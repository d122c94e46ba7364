package events_test

import (
	"crypto/sha256"
	"encoding/base64"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
)

// hostileUsers are user ids chosen to form wildcards, other subjects, paths.
var hostileUsers = []string{
	"ada@example.com", "a.b", "*", ">", " ", "\n", "\r\n", "\t", "😀", "e\u0301", "\u202e", strings.Repeat("x", 10_000),
	"\x00", "a\x00b", "$SYS", "$JS.API.>", "../", "../../etc/passwd", "-", "--", "_INBOX.>", "ev.eu.demo.-.-.all",
	"\xff\xfe", `"`, `\`, "a b", ".", "..", "a.", ".a", "NUL", "%2e", "'; drop table",
}

var plainSubject = regexp.MustCompile(`\Aev(\.[A-Za-z0-9_-]+){5}\z`)

func TestSubjects(t *testing.T) {
	seen := map[string]string{}
	for _, user := range hostileUsers {
		sid := events.SID{1}
		for _, e := range []events.Event{
			&events.State{App: "demo", User: user, SID: sid},
			&events.Touch{App: "demo", User: user, SID: sid},
			&events.Revoke{App: "demo", User: user, SID: sid},
			&events.RevokeAll{App: "demo", User: user},
		} {
			s := e.Subject("eu")
			text := s.String()
			if !plainSubject.MatchString(text) {
				t.Errorf("user %q has subject %q", user, text)
			}
			if got, err := events.ParseSubject(text); err != nil || got != s {
				t.Errorf("%q reads as %+v, %v; want %+v", text, got, err, s)
			}
			if other, ok := seen[text]; ok {
				t.Errorf("users %q and %q share %q", user, other, text)
			}
			seen[text] = user
		}
	}
	for _, g := range goldens() {
		s := g.event.Subject(events.ConfigRegion)
		if got, err := events.ParseSubject(s.String()); err != nil || got != s || string(got.Kind) != g.name {
			t.Errorf("%s: %q reads as %+v, %v", g.name, s, got, err)
		}
	}
}

// An "all" for a home that was out of reach has a subject of its own.
func TestSubjectOfHome(t *testing.T) {
	for _, tc := range []struct {
		event *events.RevokeAll
		id    string
		home  uint8
	}{
		{&events.RevokeAll{App: "demo"}, "-", 0},
		{&events.RevokeAll{App: "demo", Home: 3}, "3", 3},
		{&events.RevokeAll{App: "demo", Home: 255}, "255", 255},
	} {
		want := "ev.eu.demo.-." + tc.id + ".all"
		s := tc.event.Subject("eu")
		home, ok := s.Home()
		if s.String() != want || !ok || home != tc.home {
			t.Errorf("subject %q, home %d, %v; want %q", s, home, ok, want)
		}
		m, err := testKeys.Encode("eu", tc.event, nil, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if r := testKeys.Decode(2, events.Entry{Message: m}); r.Trust != events.Authentic {
			t.Errorf("%q is %v", want, r.Trust)
		}
	}
	for _, text := range []string{"ev.eu.demo.-.0.all", "ev.eu.demo.-.03.all", "ev.eu.demo.-.256.all", "ev.eu.demo.-.x.all", "ev.eu.demo.-.3.rev"} {
		s, err := events.ParseSubject(text)
		if err != nil {
			t.Fatal(err)
		}
		if home, ok := s.Home(); ok || home != 0 {
			t.Errorf("%q is about %d", text, home)
		}
	}
}

func TestUserHash(t *testing.T) {
	sum := sha256.Sum256([]byte("demo\x00ada@example.com"))
	want := base64.RawURLEncoding.EncodeToString(sum[:])[:22]
	if got := events.UserHash("demo", "ada@example.com"); got != want {
		t.Errorf("hash %q, want %q", got, want)
	}
	if got := events.UserHash("demo", ""); got != "" {
		t.Errorf("the whole app has hash %q", got)
	}
	// NUL parts app from user, and no app is named with one.
	if events.ValidName("a\x00b") {
		t.Error("a name holds NUL: two users of two apps would share a hash")
	}
}

func TestParseSubjectRefuses(t *testing.T) {
	good := "ev.eu.demo.u.s.st"
	for _, text := range []string{
		"", ".", "ev", "ev.", "live.eu.demo.u.s.st", "EV.eu.demo.u.s.st", "ev.eu.demo.u.s", good + ".", good + ".x", "." + good,
		"ev.eu.demo.u..st", "ev..demo.u.s.st", "ev.eu.*.u.s.st", "ev.eu.>", "ev.eu.demo.u.s.>", "ev.eu.demo.u.s.*",
		good + " ", good + "\n", "ev.eu.demo.u s.s.st", "ev.eu.demo.ü.s.st", "ev.eu.demo.u\x00.s.st", strings.Repeat("ev.", 1000),
	} {
		if s, err := events.ParseSubject(text); err == nil || s != (events.Subject{}) {
			t.Errorf("%q reads as %+v, %v", text, s, err)
		}
	}
}

func FuzzParseSubject(f *testing.F) {
	for _, g := range goldens() {
		f.Add(g.event.Subject("eu").String())
	}
	for _, u := range hostileUsers {
		f.Add("ev.eu.demo." + u + ".s.st")
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := events.ParseSubject(text)
		if err != nil {
			return
		}
		if !plainSubject.MatchString(text) || s.String() != text && !strings.Contains(text, "-") {
			t.Errorf("%q reads as %+v", text, s)
		}
		if again, err := events.ParseSubject(s.String()); err != nil || again != s {
			t.Errorf("%q reads as %+v, then as %+v, %v", text, s, again, err)
		}
	})
}

func TestValidName(t *testing.T) {
	for text, want := range map[string]bool{
		"a": true, "0": true, "eu-west_1": true, strings.Repeat("a", 64): true,
		"": false, "-": false, "_config": false, "A": false, "a.b": false, "a b": false, "a\n": false, "ä": false,
		strings.Repeat("a", 65): false, "*": false, ">": false,
	} {
		if got := events.ValidName(text); got != want {
			t.Errorf("ValidName(%q) = %v", text, got)
		}
	}
	if events.ValidName(events.ConfigRegion) {
		t.Error("a region could be named as CONFIG's")
	}
}
