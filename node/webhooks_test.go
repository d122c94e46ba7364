package node_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/outbound"
)

// received is a request as a receiver of webhooks saw it.
type received struct {
	at        time.Time
	host      string
	id        string
	typ       string
	revision  string
	body      string
	header    http.Header
	status    int // that it answered
	signature []string
}

// receiver is where webhooks are sent. In a bubble it is reached without a network.
type receiver struct {
	mu     sync.Mutex // guards the fields below
	got    []received
	answer func(r received) int // nil: 204. 0: it hangs until the client goes away; -1: it cannot be reached
	header http.Header          // of its answers
}

func (r *receiver) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// all returns what was received, and forget forgets it.
func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func (r *receiver) forget() { r.set(func() { r.got = nil }) }

// taken returns what it answered with 204.
func (r *receiver) taken() (out []received) {
	for _, g := range r.all() {
		if g.status == http.StatusNoContent {
			out = append(out, g)
		}
	}
	return out
}

func revisionsOf(all []received) (out []string) {
	for _, g := range all {
		out = append(out, g.revision)
	}
	return out
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	var in struct {
		Type string `json:"type"`
		Data struct {
			Revision string `json:"revision"`
		} `json:"data"`
	}
	_ = json.Unmarshal(body, &in)
	g := received{
		at: time.Now(), host: q.Host, id: q.Header.Get("Webhook-Id"), typ: in.Type, revision: in.Data.Revision, body: string(body),
		header: q.Header.Clone(), status: http.StatusNoContent, signature: strings.Fields(q.Header.Get("Webhook-Signature")),
	}
	r.mu.Lock()
	if r.answer != nil {
		g.status = r.answer(g)
	}
	r.got = append(r.got, g)
	for name := range r.header {
		w.Header().Set(name, r.header.Get(name))
	}
	r.mu.Unlock()
	switch {
	case g.status == 0:
		<-q.Context().Done()
		return
	case g.status < 0:
		return
	}
	w.WriteHeader(g.status)
}

// Check and Do make it an Outbound of its own.
func (r *receiver) Check(text string) error {
	if !strings.HasPrefix(text, "https://") {
		return errors.New("want https")
	}
	return nil
}

func (r *receiver) Do(ctx context.Context, q *http.Request, limit int64) (*outbound.Answer, error) {
	w := httptest.NewRecorder()
	q = q.WithContext(ctx)
	q.Host = q.URL.Host
	if q.Body == nil {
		q.Body = http.NoBody
	}
	r.ServeHTTP(w, q)
	if all := r.all(); ctx.Err() != nil || all[len(all)-1].status < 0 {
		return nil, errors.Join(errors.New("no answer"), ctx.Err())
	}
	return &outbound.Answer{Status: w.Code, Header: w.Header(), Body: w.Body.Bytes()}, nil
}

const hook = "https://hooks.example.com/in?for=acme"

// hooked runs the test with a node, and a receiver of webhooks.
func hooked(t *testing.T, test func(t *testing.T, h *harness, r *receiver)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := new(receiver)
		h := newHarness(t, func(c *node.Config) { c.Outbound = r })
		test(t, h, r)
	})
}

// webhook makes a webhook and returns its id and secret.
func (h *harness) webhook(body m) (id, secret string) {
	h.t.Helper()
	made := h.do(h.key, "POST", "/v1/webhooks", body).want(http.StatusCreated)
	return made.str("webhook.webhook_id"), made.str("secret")
}

// revoke revokes the session and returns the revision of that.
func (h *harness) revoke(sid string) string {
	h.t.Helper()
	return h.do(h.key, "DELETE", "/v1/sessions/"+sid, nil).want(http.StatusOK).str("revision")
}

// signedBy reports whether one of the signatures is that of the secret, by the text
// of Standard Webhooks alone.
func (g received) signedBy(t *testing.T, secret string) bool {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	sent, err := strconv.ParseInt(g.header.Get("Webhook-Timestamp"), 10, 64)
	if err != nil || g.at.Sub(time.Unix(sent, 0)).Abs() > 5*time.Minute {
		t.Errorf("timestamp %q at %v", g.header.Get("Webhook-Timestamp"), g.at)
	}
	mac := hmac.New(sha256.New, key)
	io.WriteString(mac, g.id+"."+g.header.Get("Webhook-Timestamp")+"."+g.body)
	return slices.Contains(g.signature, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

func TestWebhook(t *testing.T) {
	hooked(t, func(t *testing.T, h *harness, r *receiver) {
		h.login("before") // it is there already
		id, secret := h.webhook(m{"url": hook})
		login := h.login("ada")
		revision := h.revoke(login.str("session.session_id"))
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(http.StatusOK)
		time.Sleep(5 * time.Second)
		all := r.all()
		var types []string
		for _, g := range all {
			types = append(types, g.typ)
			if !g.signedBy(t, secret) || len(g.signature) != 1 || g.header.Get("Content-Type") != "application/json" || strings.Contains(g.id, ".") {
				t.Errorf("%s: %v", g.body, g.header)
			}
		}
		if !slices.Equal(types, []string{"session.created", "session.revoked", "user.revoked"}) {
			t.Fatalf("heard %v", types)
		}
		if all[1].revision != revision || !strings.Contains(all[1].body, `"session_id":"`+login.str("session.session_id")+`"`) {
			t.Errorf("told of the revocation: %s", all[1].body)
		}
		got := h.do(h.key, "GET", "/v1/webhooks/"+id, nil).want(http.StatusOK)
		if got.str("webhook.status") != "enabled" || got.at("webhook.secret") != nil || got.at("secret") != nil {
			t.Errorf("%s", got.Raw)
		}
	})
}
