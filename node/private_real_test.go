package node_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/node"
)

// On JetStream: private parts are read from the stream, and one that somebody
// overwrote comes back from the history.
func TestPrivateOnRealLog(t *testing.T) {
	l := newRealLog(t, broker.Config{Lazy: true}, events.ClusterConfig{})
	n := l.start(t, func(c *node.Config) { c.Private = node.PrivateLog })
	r := n.do(n.key, "POST", "/v1/sessions", rich("ada")).want(201)
	sid := "/v1/sessions/" + r.str("session.session_id")
	n.wantHistory(t, sid, 1) // what is replaced before the history begins is not in it
	wantPrivate(n.do(n.key, "PATCH", sid, m{"metadata": m{"n": 1}}), 200, "session.", `{"cart":3,"n":1}`)
	wantPrivate(n.do(n.key, "GET", sid, nil), 200, "session.", `{"cart":3,"n":1}`)
	n.wantHistory(t, sid, 2)

	subject := subjectOfState(t, r, "ada")
	msg := nats.NewMsg(subject)
	msg.Data = []byte(`{"v":1}`)
	msg.Header.Set("Revocast-Seal", "1.nonsense.AAAA")
	if err := l.raw.PublishMsg(msg); err != nil {
		t.Fatal(err)
	}
	eventually(t, 50*time.Second, "the state is repaired", func() bool { return n.metric("revocast_repairs_total", `stream="eu"`) == 1 })
	wantPrivate(n.auth(m{"session_token": r.str("session_token")}), 200, "session.", `{"cart":3,"n":1}`)
	if left := n.metric("revocast_repairs_left_total"); left != 0 {
		t.Errorf("%v are left", left)
	}
}

// wantHistory waits until the history of the session has so many events.
func (n *realNode) wantHistory(t *testing.T, sid string, count int) {
	t.Helper()
	eventually(t, 20*time.Second, "the history is whole", func() bool {
		all, _ := n.do(n.key, "GET", sid+"/events", nil).JSON["events"].([]any)
		return len(all) == count
	})
}

// BenchmarkPrivate authenticates sessions on two nodes of one log, of which one
// keeps private parts and the other reads them from the log, embedded in the same
// process.
func BenchmarkPrivate(b *testing.B) {
	l := newRealLog(b, broker.Config{Lazy: true}, events.ClusterConfig{})
	var handlers []http.Handler
	for _, mode := range []string{node.PrivateMemory, node.PrivateLog} {
		n, _ := l.newNode(func(c *node.Config) { c.Name, c.Private, c.Solo, c.Disk = "n-"+mode, mode, false, nil })
		l.run(b, n)
		handlers = append(handlers, n.Handler())
	}
	ask := func(h http.Handler, path string, in, out any) {
		body, err := json.Marshal(in)
		if err != nil {
			b.Error(err)
		}
		r := httptest.NewRequest("POST", path, bytes.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+l.boot.APIKey)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code/100 != 2 || json.Unmarshal(w.Body.Bytes(), out) != nil {
			b.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	var tokens []string
	for range 200 {
		var made struct {
			Token string `json:"session_token"`
		}
		ask(handlers[0], "/v1/sessions", rich("ada"), &made)
		tokens = append(tokens, made.Token)
	}
	round := func(h http.Handler) time.Duration {
		begun := time.Now()
		for _, token := range tokens {
			ask(h, "/v1/sessions/authenticate", m{"session_token": token}, &m{})
		}
		return time.Since(begun)
	}
	var took [2]time.Duration
	for _, h := range handlers {
		round(h) // JWTs are signed
	}
	for b.Loop() {
		for i, h := range handlers {
			took[i] += round(h)
		}
	}
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(b.N*len(tokens)) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(each(took[0]), "µs-memory")
	b.ReportMetric(each(took[1]), "µs-log")
	b.ReportMetric(each(took[1])/each(took[0]), "log/memory")
}
