package events_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

// testKeys is one fixed cluster key.
var testKeys = func() *events.ClusterKeys {
	ks, err := events.NewClusterKeys(bytes.Repeat([]byte{7}, events.ClusterKeyLen))
	if err != nil {
		panic(err)
	}
	return ks
}()

type golden struct {
	name  string // of the file, and the kind
	event events.Event
}

// goldens returns one event of each kind, with every field set.
func goldens() []golden {
	sid, _ := events.TokenOf(2, [32]byte{1, 2, 3}).Key()
	alias, _ := events.TokenOf(2, [32]byte{4, 5, 6}).Key()
	inc := events.Incarnation(bytes.Repeat([]byte{0xa5}, 16))
	const app, user, by = "demo", "ada@example.com", "ak_7Qm2"
	const at = 1_760_000_000_000
	return []golden{
		{"st", &events.State{
			App: app, User: user, SID: sid, Reason: events.ReasonRotated,
			CreatedAt: at, ExpiresAt: at + 3_600_000, AbsoluteAt: at + 2_592_000_000,
			Idle: 1800, SeenAt: at + 1000, Prev: 1233, CreatedSeq: 1000, AuthSeq: 999,
			OriginalUntil: at + 10_000, Aliases: []events.Alias{{Key: alias}, {Key: sid, Until: at + 10_000}}, By: by, Bound: true,
			Changes: &events.Changes{FactorsAdded: []string{"totp"}, Level: "aal2", LevelBefore: "aal1", Claims: true},
		}},
		{"tch", &events.Touch{App: app, User: user, SID: sid, At: at}},
		{"rev", &events.Revoke{
			App: app, User: user, SID: sid, Reason: "logout", By: by, At: at, AbsoluteAt: at + 2_592_000_000, Home: 3,
			Request: "request-id-7Qm2",
		}},
		{"all", &events.RevokeAll{
			App: app, User: user, Except: []events.SID{sid, alias}, Reason: "password changed", By: by,
			At: at, Prev: 17, Before: 1200, Home: 3, Request: "request-id-7Qm2",
		}},
		{"exp", &events.Expire{App: app, User: user, SID: sid, At: at, Reason: events.ReasonIdle, Ignorable: true}},
		{"app", &events.App{
			App: app, State: events.AppActive, CreatedAt: at, ChangedAt: at + 1, By: "admin", Prev: 12, ServedUntil: at - 5,
			Settings: events.AppSettings{
				JWTProfile: "native", JWTAlg: "ES256", JWTTTL: 300, SessionDuration: 3600, AbsoluteMax: 2_592_000,
				Idle: 1800, WhenStale: "refuse", ReturnToken: true, IntrospectionMax: 60, DPoPNonce: true, NoExpired: true, StatusList: true,
				MaxSessions: 5, SessionLimit: "reject", TokenReuse: "revoke", ImportRegion: "eu", Compat: []string{"streambird", "clerk"},
				Origins: []string{"https://app.example.com"}, ClientJWTTTL: 60, ClearSiteData: true,
			},
		}},
		{"key", &events.SigningKey{
			App: app, KID: "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U", Alg: "ES256", Public: json.RawMessage(`{"kty":"EC","use":"sig","alg":"ES256","crv":"P-256","x":"AA","y":"AA"}`),
			CreatedAt: at, ActiveAt: at + 3_600_000, RetiredAt: at + 7_200_000, ListedUntil: at + 7_500_000,
			ForgetAt: at + 9_000_000, Compromised: true, By: "admin", Prev: 13,
		}},
		{"apikey", &events.APIKey{
			ID: "7Qm2", App: app, Name: "backend", Hash: "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ",
			Scopes: []string{"sessions", "events"}, CreatedAt: at, ExpiresAt: at + 1000, RevokedAt: at + 500, By: "admin", Prev: 14,
		}},
		{"cfg", &events.Setting{
			App: app, Type: "webhook", Name: "audit", Value: json.RawMessage(`{"url":"https://example.com/hook"}`), At: at, By: "admin", Prev: 15,
		}},
		{"work", &events.Work{
			Ignorable: true, App: app, Type: "progress-eu", Name: "webhook-wh_1", Value: json.RawMessage(`{"position":"eu:0:1234"}`), At: at, By: "n1", Prev: 16,
		}},
		{"region", &events.Region{Region: "eu", Number: 2, Domain: "us", At: at}},
		{"reg", &events.Node{
			Node: "n1", Incarnation: inc, N: 1, Region: "eu", Format: 1, Keys: testKeys.IDs(), Left: true, At: at,
		}},
		{"hb", &events.Beat{
			Node: "n1", Incarnation: inc, N: 42, Region: "eu", Format: 1, Keys: testKeys.IDs(),
			Positions: map[string]string{"eu": "eu:1:1234", "us": "us:0:99"},
			Digests:   map[string]string{"eu": "1:1200:q83v"}, At: at,
			Trails: map[string]string{"eu": "1200-1234-33-00f1e2d3c4b5a697"},
		}},
		{"snap", &events.Marker{Node: "n1", Incarnation: inc, N: 43}},
	}
}

// emptyOf returns a new event of the type of e.
func emptyOf(e events.Event) events.Event {
	return reflect.New(reflect.TypeOf(e).Elem()).Interface().(events.Event)
}

// TestGolden holds the payloads: what was once written must be read for as
// long as its version is.
func TestGolden(t *testing.T) {
	for _, g := range goldens() {
		t.Run(g.name, func(t *testing.T) {
			m, err := testKeys.Encode("eu", g.event, nil, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", g.name+".json")
			if *update {
				if err := os.WriteFile(file, append(m.Payload, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := bytes.TrimSuffix(text, []byte("\n"))
			if !bytes.Equal(m.Payload, want) {
				t.Errorf("payload\n%s\nwant\n%s", m.Payload, want)
			}
			decoded := emptyOf(g.event)
			if err := json.Unmarshal(want, decoded); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(g.event, decoded); d != "" {
				t.Errorf("decoded by encoding/json (-want +got):\n%s", d)
			}
			r := testKeys.Decode(2, events.Entry{Seq: 9, Message: m})
			if r.Trust != events.Authentic || r.Stream != 2 || r.Seq != 9 || r.Subject.String() != m.Subject {
				t.Errorf("decoded as %+v", r)
			}
			if d := cmp.Diff(g.event, r.Event); d != "" {
				t.Errorf("decoded (-want +got):\n%s", d)
			}
		})
	}
}

// TestGoldenComplete fails when a field is added that no golden file shows.
func TestGoldenComplete(t *testing.T) {
	for _, g := range goldens() {
		v := reflect.ValueOf(g.event).Elem()
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; name != "V" && v.Field(i).IsZero() {
				t.Errorf("the golden %s leaves out %s", g.name, name)
			}
		}
	}
}

// TestZeroFieldsAreLeftOut holds the smallest payloads: a reader of any
// language takes what is absent for zero.
func TestZeroFieldsAreLeftOut(t *testing.T) {
	for _, c := range []struct {
		event events.Event
		want  string
	}{
		{&events.State{App: "a", User: "u", Reason: events.ReasonCreated, CreatedAt: 1, ExpiresAt: 2, AbsoluteAt: 3},
			`{"v":1,"app":"a","user":"u","sid":"AAAAAAAAAAAAAAAAAAAAAA","reason":"created","created_at":1,"expires_at":2,"absolute_at":3}`},
		{&events.Revoke{App: "a", User: "u", At: 1}, `{"v":1,"app":"a","user":"u","sid":"AAAAAAAAAAAAAAAAAAAAAA","at":1}`},
		{&events.RevokeAll{App: "a", At: 1}, `{"v":1,"app":"a","at":1}`},
		{&events.Setting{Type: "t", Name: "n", At: 1}, `{"v":1,"type":"t","name":"n","at":1}`},
	} {
		m, err := testKeys.Encode("eu", c.event, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if string(m.Payload) != c.want {
			t.Errorf("payload %s, want %s", m.Payload, c.want)
		}
		if r := testKeys.Decode(1, events.Entry{Message: m}); r.Trust != events.Authentic || !cmp.Equal(r.Event, c.event) {
			t.Errorf("decoded as %v %+v", r.Trust, r.Event)
		}
	}
}
