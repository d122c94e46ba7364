package events

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var hotKinds = []Kind{KindState, KindTouch, KindRevoke, KindAll, KindBeat, KindExpire}

func goldenPayload(t testing.TB, k Kind) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", string(k)+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSuffix(text, []byte("\n"))
}

// sameAsJSON fails if the scanner accepts what encoding/json refuses or reads
// otherwise. It reports whether the scanner accepted.
func sameAsJSON(t testing.TB, k Kind, payload []byte) bool {
	t.Helper()
	ev := scanPayload(Subject{Kind: k, App: "demo", User: "n1"}, payload)
	if ev == nil {
		return false
	}
	want := newEvent(k)
	if err := json.Unmarshal(payload, want); err != nil {
		t.Fatalf("accepted what encoding/json refuses (%v):\n%q", err, payload)
	}
	if d := cmp.Diff(want, ev); d != "" {
		t.Fatalf("read otherwise than encoding/json (-json +scanner):\n%s\n%q", d, payload)
	}
	return true
}

// TestScanAccepts keeps the fast path fast: it must take what Encode writes.
func TestScanAccepts(t *testing.T) {
	sid := SID{1, 2, 3}
	payloads := map[string]Kind{
		`{"v":1,"app":"demo","user":"ünï😀","sid":"` + sid.String() + `","at":0}`: KindTouch,
	}
	for _, k := range hotKinds {
		payloads[string(goldenPayload(t, k))] = k
	}
	for _, e := range []struct {
		kind  Kind
		event Event
	}{
		{KindState, &State{V: 1, App: "a", User: "u", SID: sid, Reason: "created", CreatedAt: 1, ExpiresAt: 2, AbsoluteAt: 3}},
		{KindState, &State{V: 1, App: "a", User: "u", SID: sid, Reason: "another", Aliases: []Alias{{Key: sid}}, Prev: 999_999_999_999_999_999}},
		{KindRevoke, &Revoke{V: 1, App: "a", User: "u", SID: sid}},
		{KindAll, &RevokeAll{V: 1, App: "a"}},
		{KindExpire, &Expire{V: 1, App: "a", User: "u", SID: sid, At: 1, Reason: "expired", Ignorable: true}},
		{KindBeat, &Beat{V: 1, Node: "n", Keys: []string{"k1", "k2"}}},
	} {
		text, err := json.Marshal(e.event)
		if err != nil {
			t.Fatal(err)
		}
		payloads[string(text)] = e.kind
	}
	for p, k := range payloads {
		if !sameAsJSON(t, k, []byte(p)) {
			t.Errorf("not accepted: %s", p)
		}
	}
}

// TestScanLeavesToJSON lists what only encoding/json may judge.
func TestScanLeavesToJSON(t *testing.T) {
	sid := `"sid":"` + SID{1}.String() + `"`
	head := `{"v":1,"app":"demo","user":"u",` + sid
	for _, p := range []string{
		``, `{`, `null`, `[]`, `{}`, `{"v":1`,
		`{"v":2,"app":"demo","user":"u",` + sid + `,"at":1}`,
		`{"v":10,"app":"demo","user":"u",` + sid + `,"at":1}`,
		`{"v":1.0,"app":"demo","user":"u",` + sid + `,"at":1}`,
		head + `,"at":1} `, head + `,"at":1}x`, head + `,"at":1}{}`, head + `,"at":1`, head + `,"at":1,}`,
		` ` + head + `,"at":1}`, head + `, "at":1}`, head + `,"at": 1}`,
		head + `,"at":01}`, head + `,"at":-1}`, head + `,"at":1.5}`, head + `,"at":1e3}`, head + `,"at":"1"}`,
		head + `,"at":null}`, head + `,"at":}`, head + `,"at":+1}`, head + `,"at":9223372036854775808}`,
		head + `,"at":1,"at":2}`, head + `,"AT":1}`, head + `,"at":1,"more":true}`, head + `,"more":true,"at":1}`,
		`{"v":1,"user":"u","app":"demo",` + sid + `,"at":1}`, // another order
		`{"v":1,"app":"demo","app":"other","user":"u",` + sid + `,"at":1}`,
		`{"v":1,"app":"demo","user":"a\u0062",` + sid + `,"at":1}`,
		`{"v":1,"app":"demo","user":"a` + "\n" + `",` + sid + `,"at":1}`,
		`{"v":1,"app":"demo","user":"a` + "\xff" + `",` + sid + `,"at":1}`,
		`{"v":1,"app":"demo","user":null,` + sid + `,"at":1}`,
		`{"v":1,"app":"demo","user":7,` + sid + `,"at":1}`,
		`{"v":1,"app":"demo","user":"u","sid":"short","at":1}`,
		`{"v":1,"app":"demo","user":"u","sid":"","at":1}`,
		`{"v":1,"app":"demo","user":"u","sid":"AAAAAAAAAAAAAAAAAAAAAB","at":1}`,   // spare bits
		`{"v":1,"app":"demo","user":"u","sid":"AAAAAAAAAAAAAAAAAAAA==","at":1}`,   // padding
		`{"v":1,"app":"demo","user":"u","sid":"AAAAAAAAAAAAAAAAAAAA` + "\n\n\"}`", // line breaks
	} {
		if ev := scanPayload(Subject{Kind: KindTouch, App: "demo"}, []byte(p)); ev != nil {
			t.Errorf("accepted: %s", p)
		}
	}
	for p, k := range map[string]Kind{
		`{"v":1,"app":"demo","aliases":[]}`:                       KindState,
		`{"v":1,"app":"demo","aliases":[{}]}`:                     KindState,
		`{"v":1,"app":"demo","aliases":[{,"until":1}]}`:           KindState,
		`{"v":1,"app":"demo","aliases":[{"until":1}]}`:            KindState,
		`{"v":1,"app":"demo","aliases":null}`:                     KindState,
		`{"v":1,"app":"demo","prev":-1}`:                          KindState,
		`{"v":1,"app":"demo","except":[]}`:                        KindAll,
		`{"v":1,"app":"demo","except":["x"]}`:                     KindAll,
		`{"v":1,"app":"demo","except":["AAAAAAAAAAAAAAAAAAAAAA"`:  KindAll,
		`{"v":1,"app":"demo","except":["AAAAAAAAAAAAAAAAAAAAAA",`: KindAll,
		`{"v":1,"app":"demo","at":1,"home":256}`:                  KindAll,
		`{"v":1,"app":"demo","at":1,"ignorable":false}`:           KindExpire,
		`{"v":1,"app":"demo","at":1,"ignorable":1}`:               KindExpire,
		`{"v":1,"app":"demo","ignorable":true,"reason":"idle"}`:   KindExpire,
		`{"v":1,"node":"n1","keys":null}`:                         KindBeat,
		`{"v":1,"node":"n1","keys":["a",]}`:                       KindBeat,
		`{"v":1,"node":"n1","positions":{}}`:                      KindBeat,
		`{"v":1,"node":"n1","positions":{"eu":1}}`:                KindBeat,
		`{"v":1,"node":"n1","positions":{"eu":"x"`:                KindBeat,
		`{"v":1,"node":"n1","positions":{"eu":"x",}}`:             KindBeat,
		`{"v":1,"app":"demo"}`:                                    KindApp,
	} {
		if ev := scanPayload(Subject{Kind: k, App: "demo", User: "n1"}, []byte(p)); ev != nil {
			t.Errorf("accepted as %s: %s", k, p)
		}
	}
}

// TestScanMutations changes genuine payloads at random and compares.
func TestScanMutations(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	pieces := strings.Fields(`" \ , : { } [ ] 0 1 - . e 9999999999 null true "" \u0041 ünï "at":1 ,"by":"x" ,"prev":7 ,"idle":0 ,"home":300 {} [] "}`)
	accepted, tried := 0, 0
	for _, k := range hotKinds {
		golden := goldenPayload(t, k)
		for range 20_000 {
			p := slices.Clone(golden)
			for range 1 + rng.IntN(2) {
				i, j := rng.IntN(len(p)), rng.IntN(len(p))
				switch rng.IntN(5) {
				case 0:
					p[i] = byte(rng.IntN(256))
				case 1:
					p = slices.Insert(p, i, []byte(pieces[rng.IntN(len(pieces))])...)
				case 2:
					p = slices.Delete(p, min(i, j), max(i, j))
				case 3:
					p = slices.Insert(p, i, slices.Clone(p[min(i, j):max(i, j)])...)
				case 4:
					p = append(p[:i], pieces[rng.IntN(len(pieces))]...)
				}
				if len(p) == 0 {
					p = []byte("{")
				}
			}
			tried++
			if sameAsJSON(t, k, p) {
				accepted++
			}
		}
	}
	if accepted == 0 || accepted == tried {
		t.Errorf("%d of %d accepted: the test compares nothing", accepted, tried)
	}
}

func FuzzDecode(f *testing.F) {
	for i, k := range hotKinds {
		f.Add(uint8(i), goldenPayload(f, k))
	}
	f.Add(uint8(0), []byte(`{"v":1,"app":"demo","user":"a\u0062","sid":"AAAAAAAAAAAAAAAAAAAAAA","reason":"created","created_at":1}`))
	f.Add(uint8(3), []byte(`{"v":1,"app":"demo","except":[],"at":1}`))
	f.Fuzz(func(t *testing.T, kind uint8, payload []byte) {
		sameAsJSON(t, hotKinds[int(kind)%len(hotKinds)], payload)
	})
}

// TestIsAt compares the short way with the definition.
func TestIsAt(t *testing.T) {
	inc := Incarnation{9}
	all := []Event{
		&State{App: "a", User: "u", SID: SID{1}}, &State{App: "a", User: "u", SID: SID{2}},
		&State{App: "b", User: "u", SID: SID{1}}, &State{App: "a", User: "v", SID: SID{1}},
		&State{App: "a", SID: SID{1}}, &State{User: "u", SID: SID{1}}, &State{App: "-", User: "u"},
		&Touch{App: "a", User: "u", SID: SID{1}}, &Revoke{App: "a", User: "u", SID: SID{1}},
		&Expire{App: "a", User: "u", SID: SID{1}}, &Expire{App: "a", User: "v", SID: SID{1}},
		&RevokeAll{App: "a", User: "u"}, &RevokeAll{App: "a"},
		&Node{Node: "n", Incarnation: inc, N: 1}, &Beat{Node: "n", Incarnation: inc, N: 1},
		&Marker{Node: "n", Incarnation: inc, N: 1}, &Marker{Node: "n", Incarnation: inc, N: 10},
		&Marker{Node: "m", Incarnation: inc, N: 1}, &Marker{Node: "n", N: 1}, &Marker{N: 1}, &Marker{Node: "-", N: 1},
		&App{App: "a"}, &SigningKey{App: "a", KID: "k"}, &APIKey{ID: "k"}, &Region{Region: "eu"},
		&Setting{App: "a", Type: "t", Name: "n"},
	}
	for _, e := range all {
		for _, other := range all {
			at, err := ParseSubject(other.Subject("eu").String())
			if err != nil {
				t.Fatal(err)
			}
			at.Kind = e.Subject("eu").Kind // isAt is only asked with the event's kind
			if got, want := isAt(e, at), e.Subject("eu") == at; got != want {
				t.Errorf("isAt(%+v, %v) = %v, want %v", e, at, got, want)
			}
		}
	}
}
