package node_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// fullWait is W with the default lease.
const fullWait = 15_300 * time.Millisecond

// fleet is several nodes on one log, with a mesh. The first coordinates.
type fleet struct {
	*harness
	net   *events.MemoryMesh
	nodes []*fleetNode
}

type fleetNode struct {
	*harness
	name   string
	link   *events.MemoryLink // to the region's stream
	config *events.MemoryLink
	mesh   *events.MeshLink
}

// newFleet starts n nodes, and waits until the first may use confirmations.
func newFleet(t *testing.T, n int) *fleet {
	t.Helper()
	f := &fleet{net: new(events.MemoryMesh)}
	first := &fleetNode{name: "n1"}
	f.harness = newHarness(t, func(c *node.Config) {
		c.Solo = false
		first.mesh = f.net.Link(c.Keys)
		c.Mesh = first.mesh
	})
	first.harness, first.link, first.config = f.harness, &f.home.MemoryLink, &f.harness.config.MemoryLink
	f.nodes = []*fleetNode{first}
	for i := 2; i <= n; i++ {
		f.join(fmt.Sprint("n", i))
	}
	time.Sleep(fullWait)
	return f
}

// join starts a further node.
func (f *fleet) join(name string, changes ...func(*node.Config)) *fleetNode {
	f.t.Helper()
	n := f.joining(name, changes...)
	n.start()
	return n
}

// joining returns a further node that does not run yet.
func (f *fleet) joining(name string, changes ...func(*node.Config)) *fleetNode {
	n := &fleetNode{name: name, mesh: f.net.Link(f.keys), config: f.harness.config.Link()}
	n.harness, n.link = f.another(append([]func(*node.Config){func(c *node.Config) {
		c.Name, c.Mesh, c.Settings = name, n.mesh, n.config
	}}, changes...)...)
	f.nodes = append(f.nodes, n)
	return n
}

// revoke revokes the session on the first node and waits for all; it returns
// the answer and how long it took.
func (f *fleet) revoke(login *reply) (*reply, time.Duration) {
	f.t.Helper()
	begin := time.Now()
	r := f.do(f.key, "POST", "/v1/sessions/revoke", m{"session_id": login.str("session.session_id"), "wait": "all"})
	return r, time.Since(begin)
}

// wantReceipt fails unless the receipt is complete, and names those nodes.
func (f *fleet) wantReceipt(r *reply, method string, applied, fenced, waitedOut, left []string) {
	f.t.Helper()
	r.want(http.StatusOK)
	names := func(path string) (all []string) {
		list, _ := r.at(path).([]any)
		for _, v := range list {
			if o, ok := v.(map[string]any); ok {
				v = o["node"]
			}
			all = append(all, v.(string))
		}
		slices.Sort(all)
		return all
	}
	if r.str("receipt.status") != "complete" || r.str("receipt.method") != method || r.at("receipt.receipt_url") != nil ||
		!slices.Equal(names("receipt.applied"), applied) || !slices.Equal(names("receipt.fenced"), fenced) ||
		!slices.Equal(names("receipt.waited_out"), waitedOut) || !slices.Equal(names("receipt.left"), left) {
		f.t.Errorf("receipt: %s\nwant complete by %s, applied %v, fenced %v, waited out %v, left %v", r.Raw, method, applied, fenced, waitedOut, left)
	}
}

func fleetBubble(t *testing.T, nodes int, test func(t *testing.T, f *fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newFleet(t, nodes)) })
}

func TestReceiptConfirmed(t *testing.T) {
	fleetBubble(t, 4, func(t *testing.T, f *fleet) {
		for _, n := range f.nodes[1:] {
			n.mesh.SetDeliver(func(ctx context.Context, _ events.Message) int { wait(ctx, time.Millisecond); return 1 })
		}
		r, took := f.revoke(f.login("ada"))
		f.wantReceipt(r, "confirmed", []string{"n1", "n2", "n3", "n4"}, nil, nil, nil)
		if took < time.Millisecond || took > 2*time.Millisecond {
			t.Errorf("took %v with a millisecond to each node", took)
		}
		safe, err := time.Parse(time.RFC3339, r.str("receipt.jwt_safe_after"))
		if left := time.Until(safe); err != nil || left < 359*time.Second || left > 361*time.Second {
			t.Errorf("jwt_safe_after in %v: %v", left, err)
		}
		// A node that applies late confirms late, and not before its readers see it.
		f.nodes[2].link.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int {
			if strings.HasSuffix(e.Subject, ".rev") {
				wait(ctx, 3*time.Second)
			}
			return 1
		}})
		c := f.login("eve")
		synctest.Wait()
		r, took = f.revoke(c)
		f.wantReceipt(r, "confirmed", []string{"n1", "n2", "n3", "n4"}, nil, nil, nil)
		if took < 3*time.Second || took > 3*time.Second+10*time.Millisecond {
			t.Errorf("took %v though a node applied after 3 s", took)
		}
		f.nodes[2].wantVerify(c.str("session_token"), http.StatusUnauthorized, "revoked")
	})
}

// A member that is silent is waited for until W after its newest heartbeat was
// applied here, and not longer; from then on it costs nothing.
func TestReceiptSilentMember(t *testing.T) {
	for name, silence := range map[string]func(*fleetNode){
		"dead": func(n *fleetNode) { n.stop() },
		"partitioned": func(n *fleetNode) {
			n.link.Cut()
			n.config.Cut()
			n.mesh.Cut()
		},
	} {
		t.Run(name, func(t *testing.T) {
			fleetBubble(t, 3, func(t *testing.T, f *fleet) {
				c, later := f.login("ada"), f.login("eve")
				synctest.Wait()
				silent := f.nodes[2]
				silence(silent)
				time.Sleep(5 * time.Second)
				r, took := f.revoke(c)
				f.wantReceipt(r, "waited", []string{"n1", "n2"}, nil, []string{"n3"}, nil)
				if least := fullWait - 6*time.Second; took < least || took > least+1100*time.Millisecond {
					t.Errorf("took %v, want W after the last heartbeat, 5 to 6 s before", took)
				}
				if name == "partitioned" {
					silent.wantVerify(c.str("session_token"), http.StatusServiceUnavailable, "silent")
				}
				r, took = f.revoke(later)
				f.wantReceipt(r, "confirmed", []string{"n1", "n2"}, nil, nil, nil)
				if took > 10*time.Millisecond {
					t.Errorf("took %v though the silent node was waited out before", took)
				}
			})
		})
	}
}

// A node that hears nothing of the mesh but follows the log is waited for until
// the bound, W after the acknowledgement.
func TestReceiptBound(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		f.nodes[1].mesh.Cut()
		r, took := f.revoke(f.login("ada"))
		f.wantReceipt(r, "waited", []string{"n1"}, nil, []string{"n2"}, nil)
		if took < fullWait || took > fullWait+50*time.Millisecond {
			t.Errorf("took %v, want W", took)
		}
	})
}

func TestReceiptFarewell(t *testing.T) {
	fleetBubble(t, 3, func(t *testing.T, f *fleet) {
		// A farewell before costs nothing.
		if err := f.nodes[1].node.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.nodes[1].stop()
		r, took := f.revoke(f.login("ada"))
		f.wantReceipt(r, "confirmed", []string{"n1", "n3"}, nil, nil, nil)
		if took > 10*time.Millisecond {
			t.Errorf("took %v after a farewell", took)
		}
		// One that comes meanwhile ends the wait at once.
		leaving := f.nodes[2]
		leaving.mesh.Cut()
		c := f.login("eve")
		go func() {
			time.Sleep(4 * time.Second)
			if err := leaving.node.Leave(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		r, took = f.revoke(c)
		f.wantReceipt(r, "confirmed", []string{"n1"}, nil, nil, []string{"n3"})
		if took < 4*time.Second || took > 4*time.Second+10*time.Millisecond {
			t.Errorf("took %v, and the farewell came after 4 s", took)
		}
		leaving.wantVerify(c.str("session_token"), http.StatusServiceUnavailable, "leaving")
		// Its next life is another member.
		f.join("n3")
		synctest.Wait() // until it listens too
		r, took = f.revoke(f.login("bob"))
		f.wantReceipt(r, "confirmed", []string{"n1", "n3"}, nil, nil, nil)
		if took > 10*time.Millisecond {
			t.Errorf("took %v after a restart", took)
		}
	})
}

// A node that joins sends heartbeats before it has read the log. It holds up no
// receipt, and it answers nothing that it has not applied.
func TestReceiptWhileJoining(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		c := f.login("ada")
		joiner := f.joining("n3")
		joiner.link.SetFaults(events.MemoryFaults{Deliver: func(ctx context.Context, e events.Entry) int {
			wait(ctx, 150*time.Millisecond) // a log that takes long to read
			return 1
		}})
		joiner.begin()
		time.Sleep(3 * time.Second)
		r, took := f.revoke(c)
		f.wantReceipt(r, "confirmed", []string{"n1", "n2"}, []string{"n3"}, nil, nil)
		if took > 10*time.Millisecond {
			t.Errorf("took %v while a node joined", took)
		}
		for range 2000 {
			if v := joiner.do(c.str("session_token"), "GET", "/v1/verify", nil); v.Status == http.StatusNoContent {
				t.Fatal("a node that joined answered good after the receipt")
			}
			time.Sleep(20 * time.Millisecond)
		}
		joiner.wantVerify(c.str("session_token"), http.StatusUnauthorized, "revoked")
	})
}

// R13: after a break of the coordinator's own subscription confirmations do not
// count for W, unless a node vouches whose subscription had none.
func TestReceiptAfterBreak(t *testing.T) {
	fleetBubble(t, 3, func(t *testing.T, f *fleet) {
		logins := []*reply{f.login("ada"), f.login("eve"), f.login("bob"), f.login("kim")}
		next := func() (*reply, time.Duration) {
			c := logins[0]
			logins = logins[1:]
			return f.revoke(c)
		}
		for _, n := range f.nodes {
			n.link.Break()
		}
		time.Sleep(time.Second)
		r, took := next()
		f.wantReceipt(r, "confirmed", []string{"n1", "n2", "n3"}, nil, nil, nil)
		if want := fullWait - time.Second; took < want || took > want+50*time.Millisecond {
			t.Errorf("took %v a second after a break of all, want W after the break", took)
		}
		if r, took = next(); took > 10*time.Millisecond {
			t.Errorf("took %v W after a break: %s", took, r.Raw)
		}
		// One after the other: each is vouched for by those before.
		for _, n := range f.nodes {
			n.link.Break()
			time.Sleep(2 * time.Second)
		}
		if r, took = next(); took > 10*time.Millisecond {
			t.Errorf("took %v after breaks of one node at a time: %s", took, r.Raw)
		}
		// Who is asked right after the break waits until somebody vouches.
		f.nodes[0].link.Break()
		if r, took = next(); took > 2*time.Second {
			t.Errorf("took %v right after a break: %s", took, r.Raw)
		}
	})
}

// Whoever reaches the network, but has no cluster key, cannot make a receipt.
func TestReceiptForged(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		stranger, err := events.NewClusterKeys(events.NewClusterKey())
		if err != nil {
			t.Fatal(err)
		}
		forger := f.net.Link(stranger)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = forger.Run(ctx, events.Answers{Confirm: func(context.Context, events.Question) (events.Confirmation, bool) {
				return events.Confirmation{Node: "n2"}, true
			}})
		}()
		f.nodes[1].mesh.Cut()
		if r, took := f.revoke(f.login("ada")); took < fullWait {
			t.Errorf("took %v: %s", took, r.Raw)
		}
		cancel()
		<-done
	})
}

// A revoke without waiting is one write, and asks nobody.
func TestReceiptWithoutWaiting(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		asked := 0
		f.nodes[1].mesh.SetDeliver(func(context.Context, events.Message) int { asked++; return 1 })
		c := f.login("ada")
		r := f.do(f.key, "POST", "/v1/sessions/revoke", m{"session_id": c.str("session.session_id")}).want(200)
		synctest.Wait()
		if r.str("receipt.status") != "committed" || asked != 0 ||
			r.str("receipt.receipt_url") != publicURL+"/v1/receipts/"+r.str("receipt.revision") {
			t.Errorf("%d asked: %s", asked, r.Raw)
		}
	})
}

// GET /v1/receipts answers on any node, again and for old revisions, and a
// receipt that could not be told in time can be had from it.
func TestReceiptAgain(t *testing.T) {
	fleetBubble(t, 3, func(t *testing.T, f *fleet) {
		b := f.nodes[1]
		get := func(n *fleetNode, revision, query string) *reply {
			return n.do(f.key, "GET", "/v1/receipts/"+revision+query, nil)
		}
		r, _ := f.revoke(f.login("ada"))
		old := r.str("revision")
		if again := get(b, old, "").want(200); again.str("status") != "complete" || !strings.Contains(string(again.Raw), `"node":"n1"`) {
			t.Errorf("on another node: %s", again.Raw)
		}
		if again := get(b, old, "?wait=none").want(202); again.str("status") != "committed" {
			t.Errorf("without waiting: %s", again.Raw)
		}
		// With a client that gives up.
		f.nodes[2].mesh.Cut()
		f.nodes[2].link.Cut()
		c := f.login("eve")
		body := strings.NewReader(`{"wait": "all", "session_id": "` + c.str("session.session_id") + `"}`)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		req := httptest.NewRequestWithContext(ctx, "POST", "/v1/sessions/revoke", body)
		req.Header.Set("Authorization", "Bearer "+f.key)
		begin := time.Now()
		r = f.send(req).want(http.StatusAccepted)
		if took := time.Since(begin); took > 5*time.Second || r.str("receipt.status") != "committed" || r.at("receipt.method") != nil {
			t.Errorf("after %v: %s", took, r.Raw)
		}
		url := r.str("receipt.receipt_url")
		late := b.do(f.key, "GET", strings.TrimPrefix(url, publicURL), nil).want(200)
		if took := time.Since(begin); late.str("status") != "complete" || took > fullWait || !strings.Contains(string(late.Raw), `"waited_out":["n3"]`) {
			t.Errorf("%s after %v: %s", url, took, late.Raw)
		}
		// What is older than W needs nobody's answer.
		time.Sleep(time.Minute)
		for _, n := range f.nodes[:2] {
			for _, query := range []string{"", "?wait=none"} {
				begin := time.Now()
				again := get(n, old+"", query).want(200)
				if took := time.Since(begin); again.str("status") != "complete" || took > 10*time.Millisecond {
					t.Errorf("an old revision%s after %v: %s", query, took, again.Raw)
				}
			}
		}
		// What it cannot say.
		get(b, "eu:1:999999", "").wantError(503, "consistency_timeout")
		get(b, "eu:9:1", "").wantError(503, "consistency_timeout")
		get(b, "mars:1:1", "").wantError(404, "not_found")
		get(b, "junk", "").wantError(400, "invalid_argument")
		get(b, old, "?wait=some").wantError(400, "invalid_argument")
		b.do("", "GET", "/v1/receipts/"+old, nil).wantError(401, "unauthorized_credentials")
		for scope, status := range map[string]int{"read": 200, "revoke": 200, "create": 403} {
			key := f.do(f.admin, "POST", "/v1/apps/acme/api-keys", m{"scopes": []string{scope}}).want(201).str("api_key")
			f.do(key, "GET", "/v1/receipts/"+old, nil).want(status)
		}
	})
}

// API keys and signing keys live in CONFIG: their receipts are of its members.
func TestReceiptOfKeys(t *testing.T) {
	fleetBubble(t, 3, func(t *testing.T, f *fleet) {
		made := f.do(f.admin, "POST", "/v1/apps/acme/api-keys", m{"name": "x"}).want(201)
		begin := time.Now()
		r := f.do(f.admin, "DELETE", "/v1/apps/acme/api-keys/"+made.str("key.id")+"?wait=all", nil)
		f.wantReceipt(r, "confirmed", []string{"n1", "n2", "n3"}, nil, nil, nil)
		for _, n := range f.nodes {
			n.do(made.str("api_key"), "GET", "/v1/sessions", nil).want(http.StatusUnauthorized)
		}
		keys := f.do(f.admin, "GET", "/v1/apps/acme/keys", nil).want(200).at("keys").([]any)
		kid := keys[0].(map[string]any)["kid"]
		r = f.do(f.admin, "POST", "/v1/apps/acme/keys/rotate?wait=all", m{"compromised": kid})
		f.wantReceipt(r, "confirmed", []string{"n1", "n2", "n3"}, nil, nil, nil)
		if took := time.Since(begin); took > 50*time.Millisecond {
			t.Errorf("took %v", took)
		}
		// A client that does not wait as long.
		f.nodes[1].mesh.Cut()
		f.nodes[1].config.Cut()
		made = f.do(f.admin, "POST", "/v1/apps/acme/api-keys", m{"name": "y"}).want(201)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req := httptest.NewRequestWithContext(ctx, "DELETE", "/v1/apps/acme/api-keys/"+made.str("key.id")+"?wait=all", nil)
		req.Header.Set("Authorization", "Bearer "+f.admin)
		late := f.send(req).want(http.StatusAccepted)
		if late.str("receipt.status") != "committed" || !strings.Contains(late.str("receipt.receipt_url"), "/v1/receipts/_config:") {
			t.Errorf("a client that gives up: %s", late.Raw)
		}
	})
}

// A node whose leases are longer than the coordinator's is waited for as long as
// it may answer, and all say that they differ.
func TestReceiptWithLongerLeases(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		long := f.join("n3", func(c *node.Config) { c.Lease = 18 * time.Second })
		time.Sleep(20 * time.Second)
		for _, n := range f.nodes {
			n.wantProblem("lease_differs", "lease")
		}
		c := f.login("ada")
		time.Sleep(time.Second)
		long.link.Cut()
		long.mesh.Cut()
		r, took := f.revoke(c)
		if v := long.verify(c.str("session_token")); v.Status != http.StatusServiceUnavailable && r.str("receipt.status") == "complete" {
			t.Errorf("a node with longer leases answers %d after the receipt %s, which took %v", v.Status, r.Raw, took)
		}
		if r.str("receipt.status") != "complete" {
			t.Errorf("receipt %s", r.Raw)
		}
	})
}
