package node_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/node"
)

// BenchmarkReceipt is a revocation of one session with wait "all", on one of
// three live nodes of a log on disk: from the request to the answer.
func BenchmarkReceipt(b *testing.B) {
	l := newRealLog(b, broker.Config{}, events.ClusterConfig{})
	var first http.Handler
	for i := range 3 {
		n, _ := l.newNode(fast, func(c *node.Config) {
			c.Name, c.Solo = fmt.Sprint("n", i), false
			c.Mesh = events.NewMesh(l.connect(c.Name), l.keys)
		})
		l.run(b, n)
		if i == 0 {
			first = n.Handler()
		}
	}
	post := func(path, body string) (int, []byte) {
		r := httptest.NewRequestWithContext(b.Context(), "POST", path, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+l.boot.APIKey)
		w := httptest.NewRecorder()
		first.ServeHTTP(w, r)
		return w.Code, w.Body.Bytes()
	}
	revoke := func() (took time.Duration, method string) {
		status, raw := post("/v1/sessions", `{"user_id": "ada"}`)
		var made struct {
			Session struct {
				SessionID string `json:"session_id"`
			} `json:"session"`
		}
		if err := json.Unmarshal(raw, &made); err != nil || status != http.StatusCreated {
			b.Fatalf("create: %d %s", status, raw)
		}
		begin := time.Now()
		status, raw = post("/v1/sessions/revoke", `{"wait": "all", "session_id": "`+made.Session.SessionID+`"}`)
		took = time.Since(begin)
		var done struct {
			Receipt struct{ Status, Method string }
		}
		if err := json.Unmarshal(raw, &done); err != nil || status != http.StatusOK || done.Receipt.Status != "complete" {
			b.Fatalf("revoke: %d %s", status, raw)
		}
		return took, done.Receipt.Method
	}
	revoke() // the first waits until the subscription was unbroken for W
	var all []time.Duration
	waited := 0
	for b.Loop() {
		took, method := revoke()
		all = append(all, took)
		if method != "confirmed" {
			waited++
		}
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(waited), "waited")
}
