package node

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

var updateSSF = flag.Bool("update-ssf", false, "write the golden files of testdata/ssf anew")

// goldenNode is a node with nothing but an app, to make SETs on.
func goldenNode(t *testing.T) *Node {
	t.Helper()
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	home := events.NewMemory("eu", 2, events.MemoryConfig{})
	n, err := New(Config{
		Name: "n1", PublicURL: "https://s.example", Keys: keys, Home: home, Archive: home,
		Settings: events.NewMemory(events.ConfigRegion, 1, events.MemoryConfig{}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// claimsOfSET returns what the SET says, as JSON to read.
func claimsOfSET(t *testing.T, n *Node, e *securityEvent, k *signer.Key) []byte {
	t.Helper()
	token, err := e.Sign(k, n.conf.Clock.Wall())
	if err != nil {
		t.Fatal(err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := json.Indent(&text, payload, "", "  "); err != nil {
		t.Fatal(err)
	}
	return append(text.Bytes(), '\n')
}

// TestSSFGolden: every kind of SET, in every format of subjects that differs, is as
// the file of its name says.
func TestSSFGolden(t *testing.T) {
	n := goldenNode(t)
	k, err := signer.GenerateKey(signer.RS256)
	if err != nil {
		t.Fatal(err)
	}
	at := time.UnixMilli(1_795_325_356_789).UTC()
	earlier := at.Add(-time.Second)
	pos := events.Position{Stream: "eu", Gen: 3, Seq: 1234}
	sid := events.SID{2, 1, 2, 3}.String()
	event := func(change func(e *api.Event)) *feedEvent {
		e := &api.Event{
			Type: api.EventRevoked, Revision: pos.String(), At: at, AppID: "app1", Region: "eu", Stream: 2, SessionID: sid,
			UserID: "user-1", UserHash: events.UserHash("app1", "user-1"), By: "key_1", RequestID: "request-id-1",
		}
		change(e)
		return &feedEvent{Event: e, pos: pos}
	}
	revoked := func(reason, by string) *feedEvent {
		return event(func(e *api.Event) { e.Reason, e.By, e.RevokedAt = reason, by, &earlier })
	}
	changed := func(c api.Changes) *feedEvent {
		return event(func(e *api.Event) { e.Type, e.Reason, e.RequestID, e.Changes = api.EventChanged, "changed", "", &c })
	}
	group := func(typ, user string) *feedEvent {
		return event(func(e *api.Event) {
			e.Type, e.SessionID, e.UserID, e.Reason, e.RevokedAt = typ, "", user, "password changed", &earlier
			if typ == api.EventAppRevoked {
				e.UserHash = ""
			}
		})
	}
	state := "VGhpcyBpcyBhIHN0YXRl"
	for name, c := range map[string]struct {
		format string
		event  *feedEvent
	}{
		"session-revoked":          {formatComplex, revoked("logout", "user")},
		"session-revoked-admin":    {formatComplex, revoked("", "key_1")},
		"session-revoked-limit":    {formatComplex, revoked(reasonLimit, "key_1")},
		"session-revoked-iss_sub":  {formatIssSub, revoked("logout", "user")},
		"session-revoked-opaque":   {formatOpaque, revoked("logout", "user")},
		"session-revoked-no-email": {formatEmail, revoked("logout", "user")},
		"session-revoked-email": {formatEmail, event(func(e *api.Event) {
			e.UserID, e.Reason, e.RevokedAt = "ada@example.com", "logout", &earlier
		})},
		"session-revoked-unverified": {formatComplex, event(func(e *api.Event) {
			e.UserID, e.Reason, e.RequestID, e.By = "", unverified, "", ""
		})},
		"session-expired": {formatComplex, event(func(e *api.Event) {
			e.Type, e.Reason, e.RequestID, e.By, e.ExpiredAt = api.EventExpired, "idle", "", "", &earlier
		})},
		"user-revoked":            {formatComplex, group(api.EventUserRevoked, "user-1")},
		"user-revoked-iss_sub":    {formatIssSub, group(api.EventUserRevoked, "user-1")},
		"user-revoked-opaque":     {formatOpaque, group(api.EventUserRevoked, "user-1")},
		"user-revoked-unknown":    {formatIssSub, group(api.EventUserRevoked, "")},
		"app-revoked":             {formatComplex, group(api.EventAppRevoked, "")},
		"app-revoked-opaque":      {formatOpaque, group(api.EventAppRevoked, "")},
		"session-established":     {formatComplex, event(func(e *api.Event) { e.Type, e.Reason, e.RequestID = api.EventCreated, "created", "" })},
		"credential-change":       {formatComplex, changed(api.Changes{FactorsAdded: []string{"totp", "webauthn"}})},
		"assurance-level-change":  {formatComplex, changed(api.Changes{Level: "aal2", LevelBefore: "aal1"})},
		"assurance-level-lowered": {formatComplex, changed(api.Changes{Level: "aal1", LevelBefore: "aal2"})},
		"assurance-level-first":   {formatComplex, changed(api.Changes{Level: "aal1"})},
	} {
		s := &ssfStream{ID: "ssf_golden", App: "app1", Format: c.format, Epoch: 1}
		var text []byte
		for _, e := range n.securityEvents(t.Context(), s, c.event) {
			text = append(text, claimsOfSET(t, n, &e, k)...)
		}
		compareGolden(t, name, text)
	}
	for name, c := range map[string]ssfControl{
		"verification":          {N: 1, At: at.UnixMilli(), State: &state},
		"verification-no-state": {N: 2, At: at.UnixMilli()},
		"stream-updated":        {N: 3, At: at.UnixMilli(), Status: ssfPaused, Reason: "the receiver did not answer for 72 h"},
	} {
		e := n.controlSET(&ssfStream{ID: "ssf_golden", App: "app1", Epoch: 1}, &c)
		compareGolden(t, name, claimsOfSET(t, n, &e, k))
	}
	for name, ev := range map[string]*feedEvent{
		"extended": event(func(e *api.Event) { e.Type = api.EventExtended }),
		"rotated":  event(func(e *api.Event) { e.Type, e.Reason = api.EventChanged, "rotated" }),
	} {
		if all := n.securityEvents(t.Context(), &ssfStream{ID: "x", App: "app1", Format: formatComplex}, ev); len(all) != 0 {
			t.Errorf("%s is told as %v", name, all)
		}
	}
}

func compareGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "ssf", name+".json")
	if *updateSSF {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("%s is not as %s\n%s", name, path, got)
	}
}

// TestSetID: what a jti says comes back, and only of the stream it was made for.
func TestSetID(t *testing.T) {
	s := &ssfStream{ID: "ssf_a", App: "app1", Epoch: 7}
	id := setID{stream: 2, gen: 3, seq: 1 << 40, place: 5, at: 1 << 31}
	jti := id.jti(s)
	if got, ok := parseSetID(s, jti); !ok || got != id {
		t.Errorf("%q is %+v", jti, got)
	}
	for name, other := range map[string]*ssfStream{
		"stream": {ID: "ssf_b", App: "app1", Epoch: 7}, "app": {ID: "ssf_a", App: "app2", Epoch: 7},
	} {
		if _, ok := parseSetID(other, jti); ok {
			t.Errorf("is taken for one of another %s", name)
		}
	}
	anew := &ssfStream{ID: "ssf_a", App: "app1", Epoch: 8}
	if _, ok := parseSetID(anew, jti); !ok {
		t.Error("an event that is told again has another id")
	}
	if _, ok := parseSetID(anew, setID{seq: 1}.jti(s)); ok {
		t.Error("is taken for a verification of an earlier epoch")
	}
	for _, bad := range []string{"", "x", jti + "A", jti[1:], jti[:len(jti)-1] + "\n", "\n" + jti} {
		if _, ok := parseSetID(s, bad); ok {
			t.Errorf("%q is taken", bad)
		}
	}
}
