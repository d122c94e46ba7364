package node_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

// listNodes returns what the first node says of all, by name, and how long it took.
func (f *fleet) listNodes() (map[string][]map[string]any, time.Duration) {
	f.t.Helper()
	begin := time.Now()
	r := f.do(f.admin, "GET", "/v1/nodes", nil).want(http.StatusOK)
	by := map[string][]map[string]any{}
	for _, n := range r.JSON["nodes"].([]any) {
		n := n.(map[string]any)
		by[n["node"].(string)] = append(by[n["node"].(string)], n)
	}
	return by, time.Since(begin)
}

func (f *fleet) wantStates(when string, want map[string]string) map[string][]map[string]any {
	f.t.Helper()
	nodes, _ := f.listNodes()
	got := map[string]string{}
	for name, lives := range nodes {
		var states []string
		for _, n := range lives {
			states = append(states, n["state"].(string))
		}
		slices.Sort(states)
		got[name] = strings.Join(states, " ")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		f.t.Errorf("%s: -want +got\n%s", when, diff)
	}
	return nodes
}

// problem returns the messages of the node's problems with the state.
func (h *harness) problem(state string) (messages string) {
	h.t.Helper()
	all, _ := h.do("", "GET", "/readyz", nil).JSON["problems"].([]any)
	for _, p := range all {
		if p := p.(map[string]any); p["state"] == state {
			messages += p["message"].(string) + "\n"
		}
	}
	return messages
}

// wantProblem fails unless the node has the problem, with a message that holds
// each of the texts.
func (h *harness) wantProblem(state string, texts ...string) {
	h.t.Helper()
	got := h.problem(state)
	if got == "" {
		h.t.Errorf("problem %s is not shown: %s", state, h.do("", "GET", "/readyz", nil).Raw)
	}
	for _, text := range texts {
		if !strings.Contains(got, text) {
			h.t.Errorf("problem %s lacks %q: %s", state, text, got)
		}
	}
}

func (h *harness) wantNoProblems() {
	h.t.Helper()
	if p := h.do("", "GET", "/readyz", nil).JSON["problems"]; p != nil {
		h.t.Errorf("problems: %v", p)
	}
}

// TestNodes: who lives says how it is, at once; who is silent is shown as that,
// with when it was last heard; who left as left; and all are forgotten.
func TestNodes(t *testing.T) {
	fleetBubble(t, 4, func(t *testing.T, f *fleet) {
		f.login("ada")
		time.Sleep(2 * time.Minute)
		nodes, took := f.listNodes()
		if took > 10*time.Millisecond {
			t.Errorf("took %v though all live", took)
		}
		f.wantStates("all live", map[string]string{"n1": "ready", "n2": "ready", "n3": "ready", "n4": "ready"})
		for name, n := range nodes {
			st := n[0]["status"].(map[string]any)
			for _, s := range st["streams"].([]any) {
				s := s.(map[string]any)
				if s["fresh"] != true || s["lease_ms"].(float64) < 13_000 || s["staleness_ms"].(float64) > 2000 ||
					s["stream"] == "eu" && s["digest"] != "agrees" {
					t.Errorf("%s: %v", name, s)
				}
			}
			if st["incarnation"] != n[0]["incarnation"] || st["sessions"] != 1.0 || st["format"] != float64(events.Version) || st["clock_offset_ms"] != 0.0 ||
				st["durability"] == nil || st["version"] != "test" || n[0]["region"] != "eu" || !cmp.Equal(st["cluster_keys"], []any{f.keys.IDs()[0]}) {
				t.Errorf("%s: %v", name, n)
			}
		}

		// One dies, one leaves, one is cut off from the log and answers.
		if err := f.nodes[2].node.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.nodes[2].stop()
		f.nodes[1].stop()
		died := time.Now()
		f.nodes[3].link.Cut()
		time.Sleep(20 * time.Second)
		nodes = f.wantStates("after trouble", map[string]string{"n1": "ready", "n2": "silent", "n3": "left", "n4": "fenced"})
		if _, took := f.listNodes(); took < time.Second || took > 1100*time.Millisecond {
			t.Errorf("took %v with a silent node", took)
		}
		heard, err := time.Parse(time.RFC3339, nodes["n2"][0]["last_heard"].(string))
		if ago := died.Sub(heard); err != nil || ago < 0 || ago > 2*time.Second || nodes["n2"][0]["status"] != nil {
			t.Errorf("n2 was last heard %v before it died: %v", ago, nodes["n2"])
		}
		// Its next life is another line.
		f.join("n2")
		f.wantStates("a node came back", map[string]string{"n1": "ready", "n2": "ready silent", "n3": "left", "n4": "fenced"})
		time.Sleep(time.Minute)
		f.wantStates("later", map[string]string{"n1": "ready", "n2": "ready", "n4": "fenced"})

		// It is for cluster administration.
		f.do(f.key, "GET", "/v1/nodes", nil).wantError(http.StatusForbidden, api.Forbidden)
		f.do("", "GET", "/v1/nodes", nil).wantError(http.StatusUnauthorized, api.Unauthorized)
	})
}

// A node alone lists itself, at once.
func TestNodesAlone(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		begin := time.Now()
		r := h.do(h.admin, "GET", "/v1/nodes", nil).want(http.StatusOK)
		if list := r.JSON["nodes"].([]any); len(list) != 1 || time.Since(begin) != 0 || list[0].(map[string]any)["state"] != "ready" {
			t.Errorf("%s", r.Raw)
		}
		h.wantNoProblems()
	})
}

// Two processes of one name are told apart, and told of; neither is fenced. The
// earlier life of a process is no such thing.
func TestNameTaken(t *testing.T) {
	fleetBubble(t, 1, func(t *testing.T, f *fleet) {
		two := f.join("n2")
		time.Sleep(2 * time.Second)
		two.stop() // killed: no farewell
		again := f.join("n2")
		time.Sleep(2 * time.Second)
		again.wantNoProblems()
		other := f.join("n2")
		time.Sleep(2 * time.Second)
		token := f.login("ada").str("session_token")
		for _, n := range []*fleetNode{again, other} {
			n.wantProblem("name_taken", "incarnation", "--node")
			n.wantVerify(token, http.StatusNoContent, "-")
		}
		if a, b := again.problem("name_taken"), other.problem("name_taken"); a == b {
			t.Errorf("both say %q", a)
		}
		f.wantNoProblems()
		f.wantReceipt(f.do(f.key, "POST", "/v1/sessions/revoke", m{"session_token": token, "wait": "all"}),
			"waited", []string{"n1", "n2", "n2"}, nil, []string{"n2"}, nil)
		again.stop()
		time.Sleep(20 * time.Second)
		other.wantNoProblems()
	})
}

// A node of a newer version is named, and so is a key that this one lacks.
func TestAnnouncedProblems(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.login("ada").str("session_token")
		beat := &events.Beat{Node: "n9", Incarnation: events.NewIncarnation(), N: 1, Format: events.Version + 1, Keys: []string{h.keys.IDs()[0], "new-key_"}}
		h.write(beat, time.Minute)
		h.wantProblem("newer_format", "n9", fmt.Sprint(events.Version+1))
		h.wantProblem("key_missing", "n9", "new-key_")
		h.wantVerify(token, http.StatusNoContent, "-")
		beat.N, beat.Keys = 2, []string{"new-key_", h.keys.IDs()[0]}
		h.write(beat, time.Minute)
		h.wantProblem("key", "n9", "new-key_", "cluster key file")
		h.wantVerify(token, http.StatusServiceUnavailable, "key")
		time.Sleep(65 * time.Second)
		h.wantNoProblems()
		h.wantVerify(token, http.StatusNoContent, "-")
	})
}

// Clocks an hour apart: fenced, with how far and which way.
func TestClockProblem(t *testing.T) {
	for skew, text := range map[time.Duration]string{time.Hour: "1h0m0s behind this node's", -time.Hour: "1h0m0s ahead of this node's"} {
		t.Run(fmt.Sprint(skew), func(t *testing.T) {
			bubble(t, func(t *testing.T, h *harness) {
				token := h.login("ada").str("session_token")
				n, _ := h.another(func(c *node.Config) { c.Clock = &testClock{begin: h.clock.begin, skew: skew} })
				n.begin()
				time.Sleep(20 * time.Second)
				n.wantProblem("clock", text)
				n.wantVerify(token, http.StatusServiceUnavailable, "clock")
				if ms := n.do("", "GET", "/readyz", nil).want(http.StatusServiceUnavailable).at("clock_offset_ms"); ms != float64(-skew.Milliseconds()) {
					t.Errorf("clock_offset_ms %v", ms)
				}
				h.wantVerify(token, http.StatusNoContent, "-")
			})
		})
	}
}

// With CONFIG out of reach a node goes on with the settings and keys it has,
// says since when, and refuses administration; balancers leave it alone.
func TestConfigOutOfReach(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		n := f.nodes[1]
		c := n.login("ada")
		n.config.Cut()
		time.Sleep(time.Minute)
		r := n.do("", "GET", "/readyz", nil).want(http.StatusOK)
		if ms, _ := r.at("config_stale_ms").(float64); ms < 59_000 || ms > 62_000 {
			t.Errorf("config_stale_ms %v", ms)
		}
		n.wantProblem("silent", "out of reach")
		v := n.do(c.str("session_token"), "GET", "/v1/verify?body=1", nil).want(http.StatusOK)
		if ms, _ := v.at("config_stale_ms").(float64); ms < 59_000 {
			t.Errorf("verify says config_stale_ms %v", v.at("config_stale_ms"))
		}
		n.login("eve")
		for _, path := range []string{"/v1/apps", "/v1/admin-keys"} {
			e := n.do(n.admin, "GET", path, nil).wantError(http.StatusServiceUnavailable, api.NodeStale)
			if e.str("error_details.stream") != events.ConfigRegion || e.str("error_details.reason") != "silent" || !strings.Contains(e.str("error_message"), "CONFIG") {
				t.Errorf("%s: %s", path, e.Raw)
			}
		}
		n.do(n.admin, "POST", "/v1/apps", m{"app_id": "late"}).wantError(http.StatusServiceUnavailable, api.NodeStale)
		n.config.Heal()
		time.Sleep(5 * time.Second)
		n.do(n.admin, "POST", "/v1/apps", m{"app_id": "late"}).want(http.StatusCreated)
		if v := n.do(c.str("session_token"), "GET", "/v1/verify?body=1", nil).want(http.StatusOK); v.at("config_stale_ms") != nil {
			t.Errorf("healed: %s", v.Raw)
		}
		n.wantNoProblems()
	})
}
