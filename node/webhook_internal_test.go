package node

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// fixedClock stands still.
type fixedClock struct{}

func (fixedClock) Boot() time.Duration { return time.Hour }
func (fixedClock) Wall() time.Time     { return time.Unix(1_760_000_000, 0) }

// goldenEvents returns one event of each type that webhooks are told of.
func goldenEvents() []api.Event {
	at := time.UnixMilli(1_760_000_000_123).UTC()
	begun, ends := at.Add(-time.Hour), at.Add(time.Hour)
	about := api.Event{AppID: "demo", At: at, Region: "eu", Stream: 2, UserID: "ada@example.com", UserHash: "Zm9yIHRoZSBnb2xkZW4gb25l"[:22]}
	session := func(typ string) api.Event {
		e := about
		e.Type, e.SessionID = typ, "Akg1OEg3rl324-a1Lt-U4g"
		return e
	}
	state := func(typ, reason string) api.Event {
		e := session(typ)
		e.Reason, e.By, e.StartedAt, e.ExpiresAt = reason, "key_7Qm2", &begun, &ends
		return e
	}
	revoked := session(api.EventRevoked)
	revoked.Reason, revoked.By, revoked.RevokedAt = "log-out <everywhere> & \"all\"", "user", &at
	expired := session(api.EventExpired)
	expired.Reason, expired.ExpiredAt = "idle", &at
	user := about
	user.Type, user.Reason, user.RevokedAt, user.Except = api.EventUserRevoked, "password changed", &at, []string{"AqlThbjeq_NU3SigpGjzwA"}
	all := api.Event{Type: api.EventAppRevoked, AppID: "demo", At: at, Region: "eu", Stream: 2, RevokedAt: &at}
	return []api.Event{
		state(api.EventCreated, "created"), state(api.EventExtended, "extended"), state(api.EventChanged, "rotated"), revoked, expired, user, all,
	}
}

// TestWebhookGolden holds what webhooks look like, each type in a file of its own.
func TestWebhookGolden(t *testing.T) {
	to := &toldWebhook{
		n: &Node{conf: Config{Clock: fixedClock{}}}, id: "wh_1", url: "https://example.com/hook",
		secrets: []webhookSecret{{Key: []byte("new")}, {Key: []byte("old"), Until: 1_760_000_000_001}, {Key: []byte("over"), Until: 1_760_000_000_000}},
	}
	for i, e := range goldenEvents() {
		pos := events.Position{Stream: "eu", Gen: 1, Seq: uint64(1234 + i)}
		e.Revision = pos.String()
		var data bytes.Buffer
		enc := json.NewEncoder(&data)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(&e); err != nil {
			t.Fatal(err)
		}
		requests, err := to.requests(&feedEvent{Event: &e, pos: pos, json: bytes.TrimSpace(data.Bytes())})
		if err != nil || len(requests) != 1 {
			t.Fatalf("%s: %v, %d requests", e.Type, err, len(requests))
		}
		r := requests[0]
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(body) {
			t.Fatalf("%s: %s", e.Type, body)
		}
		var got bytes.Buffer
		got.WriteString(r.Method + " " + r.URL.String() + "\n")
		if err := r.Header.Write(&got); err != nil {
			t.Fatal(err)
		}
		got.WriteString("\n" + string(body) + "\n")
		text := strings.ReplaceAll(got.String(), "\r\n", "\n")
		file := filepath.Join("testdata", "webhook_"+strings.ReplaceAll(e.Type, ".", "_")+".txt")
		if f := flag.Lookup("update"); f != nil && f.Value.String() == "true" {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if text != string(want) {
			t.Errorf("%s\n%s\nwant\n%s", file, text, want)
		}
	}
}

// The time between attempts doubles, within bounds, and is what a receiver asks for
// if that is longer.
func TestDeliveryBackoff(t *testing.T) {
	for attempts := 1; attempts < 2000; attempts++ {
		want := lastRetry
		if attempts < 11 {
			want = min(lastRetry, time.Second<<(attempts-1))
		}
		if got := (&attempted{}).pause(attempts); got < want*7/8 || got > want*9/8 {
			t.Fatalf("after %d attempts %v, want about %v", attempts, got, want)
		}
	}
	now := time.Unix(1_760_000_000, 0)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "120": 2 * time.Minute, "-5": 0, "1.5": 0, "soon": 0, "99999999": maxRetryAfter, "99999999999999999999": 0,
		now.Add(time.Minute).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"): time.Minute, now.Add(-time.Minute).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"): 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("Retry-After %q is %v, want %v", text, got, want)
		}
	}
	if got := (&attempted{after: time.Hour}).pause(1); got != time.Hour {
		t.Errorf("asked for an hour, waits %v", got)
	}
}

// A hundred dead letters fit into an event, whatever the positions.
func TestDeadLettersFit(t *testing.T) {
	d := deadLetters{Born: events.NewIncarnation().String()}
	for i := range 3 * maxDeadLetters {
		l := deadLetter{
			Gen: 1<<32 - 1, Seq: 1<<63 + uint64(i), Type: api.EventExtended, LoggedAt: 1 << 41, At: 1 << 41, Attempts: 99_999, Status: 499,
		}
		if !d.add(l) || d.add(l) {
			t.Fatal("a letter is to be added once")
		}
	}
	if len(d.Letters) != maxDeadLetters || d.Total != 3*maxDeadLetters || d.Letters[0].Seq != 1<<63+2*maxDeadLetters {
		t.Errorf("%d of %d letters, from %d", len(d.Letters), d.Total, d.Letters[0].Seq)
	}
	value, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	app := strings.Repeat("a", 64)
	if _, err := keys.Encode(events.ConfigRegion, &events.Work{App: app, Type: deadWork + app, Name: webhookType + "-" + app, Value: value, By: app}, nil, 0); err != nil {
		t.Errorf("%d bytes: %v", len(value), err)
	}
}
