package events_test

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
)

func TestPosition(t *testing.T) {
	for text, want := range map[string]events.Position{
		"eu:3:1234":                         {Stream: "eu", Gen: 3, Seq: 1234},
		"_config:0:0":                       {Stream: events.ConfigRegion},
		"a:4294967295:18446744073709551615": {Stream: "a", Gen: math.MaxUint32, Seq: math.MaxUint64},
	} {
		got, err := events.ParsePosition(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%q reads as %+v, %v, and is written %q", text, got, err, got)
		}
	}
	for _, text := range []string{
		"", ":", "::", "eu", "eu:3", "eu:3:", "eu::4", ":3:4", "eu:3:4:5", "eu:-1:4", "eu:3:-4", "eu:4294967296:1",
		"eu:1:18446744073709551616", "eu:x:1", "eu:1:x", "EU:1:2", "e u:1:2", "eu:1:2 ", " eu:1:2", "eu:1:2,", "eu:+1:2",
		"eu:0x1:2", "eu:1_0:2", "eu:1:2\n", "_other:1:2", strings.Repeat("a", 65) + ":1:2",
	} {
		if got, err := events.ParsePosition(text); err == nil || got != (events.Position{}) {
			t.Errorf("%q reads as %+v, %v", text, got, err)
		}
	}
}

func TestRevision(t *testing.T) {
	eu, us := events.Position{Stream: "eu", Gen: 1, Seq: 2}, events.Position{Stream: "us", Seq: 9}
	got, err := events.ParseRevision("us:0:9,eu:1:2")
	if d := cmp.Diff(events.Revision{eu, us}, got); err != nil || d != "" {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	if text := got.String(); text != "eu:1:2,us:0:9" {
		t.Errorf("written %q", text)
	}
	if p, ok := got.In("us"); !ok || p != us {
		t.Errorf("in us: %v, %v", p, ok)
	}
	if p, ok := got.In("ap"); ok || p != (events.Position{}) {
		t.Errorf("in ap: %v, %v", p, ok)
	}
	for _, text := range []string{"", ",", "eu:1:2,", ",eu:1:2", "eu:1:2,,us:0:9", "eu:1:2,eu:1:2", "eu:1:2,eu:2:3", "eu:1:2;us:0:9", "eu:1:2, us:0:9"} {
		if got, err := events.ParseRevision(text); err == nil || got != nil {
			t.Errorf("%q reads as %v, %v", text, got, err)
		}
	}
}

func FuzzParseRevision(f *testing.F) {
	for _, text := range []string{"eu:3:1234", "us:0:9,eu:1:2", "_config:0:0", "eu:1:2,eu:1:2", "eu:01:2", "eu:1:2,"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := events.ParseRevision(text)
		if err != nil {
			return
		}
		again, err := events.ParseRevision(r.String())
		if d := cmp.Diff(r, again); err != nil || d != "" {
			t.Errorf("%q reads as %v, then %v (-first +then):\n%s", text, r, err, d)
		}
		for i, p := range r {
			if i > 0 && r[i-1].Stream >= p.Stream {
				t.Errorf("%q reads as %v, not ordered by stream", text, r)
			}
			if got, ok := r.In(p.Stream); !ok || got != p {
				t.Errorf("%q has %v in %s, want %v", text, got, p.Stream, p)
			}
		}
	})
}
