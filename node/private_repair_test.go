package node_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// emptyArchive is a history that missed everything.
type emptyArchive struct{}

func (emptyArchive) History(context.Context, []string, func(events.Archived) bool) error { return nil }

// subjectOfState returns the subject of the session's state.
func subjectOfState(t *testing.T, login *reply, user string) string {
	t.Helper()
	return (&events.State{App: "acme", User: user, SID: sidOf(t, login)}).Subject("eu").String()
}

// newest returns what stands on the subject.
func (h *harness) newest(subject string) events.Entry {
	h.t.Helper()
	e, err := h.home.Last(h.t.Context(), subject)
	if err != nil {
		h.t.Fatal(err)
	}
	return e
}

// left returns how many overwrites the node has left to others.
func (h *harness) left() string {
	w := httptest.NewRecorder()
	h.node.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	_, after, _ := strings.Cut(w.Body.String(), `revocast_repairs_left_total{stream="eu"} `)
	n, _, _ := strings.Cut(after, "\n")
	return n
}

// overwrite puts something on the subject of the session's state that the cluster
// did not write there: junk, or an older state of it.
func (h *harness) overwrite(subject string, old *events.Entry) uint64 {
	h.t.Helper()
	msg := events.Message{Subject: subject, Payload: []byte(`{"v":1}`)}
	if old != nil {
		msg = old.Message
	}
	seq, err := h.home.Inject(msg)
	if err != nil {
		h.t.Fatal(err)
	}
	return seq
}

// A state that was overwritten is appended again with all that it had, by a node
// that does not keep it, from the archive, or by one that does. Where neither is,
// it is left: verifying goes on, and nothing is answered or written without the
// private part.
func TestPrivateOverwritten(t *testing.T) {
	for _, c := range []struct {
		name            string
		archive, keeper bool
		old             bool // by a copy of an older state
		repaired        bool
	}{
		{name: "archive", archive: true, repaired: true},
		{name: "archive, copy", archive: true, old: true, repaired: true},
		{name: "keeper", keeper: true, repaired: true},
		{name: "keeper, copy", keeper: true, old: true, repaired: true},
		{name: "nothing"},
		{name: "nothing, copy", old: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t, func(conf *node.Config) {
					conf.Solo, conf.Private = false, node.PrivateLog
					if !c.archive {
						conf.Archive = emptyArchive{}
					}
				})
				if c.keeper {
					keeper, _ := h.another()
					keeper.start()
				}
				r := h.do(h.key, "POST", "/v1/sessions", rich("ada")).want(201)
				subject, sid := subjectOfState(t, r, "ada"), "/v1/sessions/"+r.str("session.session_id")
				first := h.newest(subject)
				h.do(h.key, "PATCH", sid, m{"metadata": m{"n": 1}}).want(200)
				time.Sleep(2 * time.Second)

				var old *events.Entry
				if c.old {
					old = &first
				}
				seq := h.overwrite(subject, old)
				time.Sleep(30 * time.Millisecond)
				h.verify(r.str("session_token")).want(204)
				time.Sleep(2 * time.Minute)
				h.verify(r.str("session_token")).want(204)
				if !c.repaired {
					h.wantLeft(r, sid, subject, seq)
					return
				}
				if h.newest(subject).Seq == seq || h.left() != "0" {
					t.Errorf("not repaired: %s are left", h.left())
				}
				fresh, _ := h.another(func(conf *node.Config) { conf.Name, conf.Archive = "n3", emptyArchive{} })
				fresh.start()
				for _, n := range []*harness{h, fresh} {
					wantPrivate(n.auth(m{"session_token": r.str("session_token")}), 200, "session.", `{"cart":3,"n":1}`)
				}
			})
		})
	}
}

// wantLeft fails unless the overwrite stands, and nothing is said of the private
// part that it took the place of.
func (h *harness) wantLeft(r *reply, sid, subject string, seq uint64) {
	h.t.Helper()
	for _, got := range []*reply{
		h.auth(m{"session_token": r.str("session_token")}),
		h.do(h.key, "GET", sid, nil),
		h.do(h.key, "PATCH", sid, m{"metadata": m{"n": 2}}),
		h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": r.str("session_token")}),
		h.do(h.key, "POST", sid+"/tokens", m{"ttl_seconds": 100}), // one that is not at hand
		h.do(h.key, "GET", "/v1/sessions?user_id=ada", nil),
	} {
		got.wantError(503, "log_unavailable")
	}
	if now := h.newest(subject).Seq; now != seq || h.left() != "1" {
		h.t.Errorf("%d stands, want %d; %s are left, want 1", now, seq, h.left())
	}
	h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": r.str("session.session_id")}).want(200)
	h.verify(r.str("session_token")).wantRefused("revoked")
}

// While an overwrite waits for its repair, an answer waits too.
func TestPrivateWaitsForRepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(conf *node.Config) {
			conf.Solo, conf.Private, conf.Archive = false, node.PrivateLog, emptyArchive{}
		})
		keeper, link := h.another()
		keeper.start()
		r := h.do(h.key, "POST", "/v1/sessions", rich("ada")).want(201)
		subject := subjectOfState(t, r, "ada")
		link.SetFaults(events.MemoryFaults{Send: func(ctx context.Context, msg events.Message) error {
			if msg.Subject == subject {
				wait(ctx, 2*time.Second)
			}
			return nil
		}})
		time.Sleep(2 * time.Second)
		h.overwrite(subject, nil)
		began := time.Now()
		wantPrivate(h.auth(m{"session_token": r.str("session_token")}), 200, "session.", `{"cart":3}`)
		if time.Since(began) < time.Second {
			t.Errorf("answered after %v, and the repair took 2 s", time.Since(began))
		}
	})
}

// A snapshot written in one mode is read in another: what is not to be kept is
// dropped, and what was not kept is read from the log.
func TestPrivateSnapshots(t *testing.T) {
	for _, wrote := range modes {
		for _, reads := range modes {
			t.Run(wrote+" to "+reads, func(t *testing.T) {
				dir := t.TempDir()
				synctest.Test(t, func(t *testing.T) {
					h := newHarness(t, func(c *node.Config) { c.SnapshotDir, c.Private = dir, wrote })
					var tokens []string
					for i := range 50 {
						body := rich(fmt.Sprint("user", i))
						body["metadata"] = m{"text": strings.Repeat("x", 2000)}
						tokens = append(tokens, h.do(h.key, "POST", "/v1/sessions", body).want(201).str("session_token"))
					}
					time.Sleep(6 * time.Minute)
					h.stop()
					size := 0
					for _, name := range files(t, dir) {
						if info, err := os.Stat(dir + "/" + name); err == nil {
							size = max(size, int(info.Size()))
						}
					}
					if full := size > 50*2000; full != (wrote != node.PrivateLog) {
						t.Errorf("the snapshot has %d bytes", size)
					}
					next, _ := h.another(func(c *node.Config) { c.Name, c.Solo, c.SnapshotDir, c.Private = "n1", true, dir, reads })
					held := next.node.SessionBytes()
					next.start()
					if full := held > 50*2000; full != (wrote != node.PrivateLog && reads != node.PrivateLog) {
						t.Errorf("sessions take %d bytes after loading", held)
					}
					for _, token := range tokens {
						wantPrivate(next.auth(m{"session_token": token}), 200, "session.", `{"text":"`+strings.Repeat("x", 2000)+`"}`)
					}
				})
			})
		}
	}
}

// A node that joins from a peer's snapshot holds what its own mode says, and no
// less than it needs.
func TestPrivateLent(t *testing.T) {
	for _, c := range []struct{ lends, joins string }{
		{node.PrivateLog, node.PrivateMemory}, {node.PrivateMemory, node.PrivateLog}, {node.PrivateHome, node.PrivateHome},
	} {
		t.Run(c.lends+" to "+c.joins, func(t *testing.T) {
			dir, other := t.TempDir(), t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 1)
				f.lender("n2", dir, func(conf *node.Config) { conf.Private = c.lends })
				r := f.do(f.key, "POST", "/v1/sessions", rich("ada")).want(201)
				time.Sleep(lendingAfter)
				joined, read := f.heard("n3", func(conf *node.Config) { conf.SnapshotDir, conf.Private = other, c.joins })
				joined.start()
				mustJoin(t, joined, read)
				wantPrivate(joined.auth(m{"session_token": r.str("session_token")}), 200, "session.", `{"cart":3}`)
			})
		})
	}
}

// Rotating the cluster key seals anew what is not kept, with all that it has.
func TestPrivateResealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := events.NewClusterKey(), events.NewClusterKey()
		own := holding(t, old)
		h := newHarness(t, func(c *node.Config) { c.Keys, c.Private = own, node.PrivateLog })
		h.keys = own
		r := h.do(h.key, "POST", "/v1/sessions", rich("ada")).want(201)
		spoilt := h.do(h.key, "POST", "/v1/sessions", rich("bob")).want(201)
		h.do(h.key, "PATCH", "/v1/sessions/"+r.str("session.session_id"), m{"metadata": m{"n": 1}}).want(200)
		h.give(next, old)
		time.Sleep(time.Minute)
		h.overwrite(subjectOfState(t, spoilt, "bob"), nil)
		if answer := h.rotate(); !mayGo(answer, old) {
			t.Errorf("after the rotation: %s", answer.Raw)
		}
		if n := sealedWith(t, h.home, old); n != 0 {
			t.Errorf("%d events are sealed with the old key", n)
		}
		h.give(next)
		time.Sleep(time.Minute)
		wantPrivate(h.auth(m{"session_token": r.str("session_token")}), 200, "session.", `{"cart":3,"n":1}`)
		wantPrivate(h.auth(m{"session_token": spoilt.str("session_token")}), 200, "session.", `{"cart":3}`)
	})
}

// What stands over a state of which nobody has the private part is not sealed
// anew as if there had been none: it is left, and the rotation says so.
func TestPrivateNotResealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := events.NewClusterKey(), events.NewClusterKey()
		own := holding(t, old)
		h := newHarness(t, func(c *node.Config) { c.Keys, c.Private, c.Archive = own, node.PrivateLog, emptyArchive{} })
		h.keys = own
		r := h.do(h.key, "POST", "/v1/sessions", rich("ada")).want(201)
		subject := subjectOfState(t, r, "ada")
		first := h.newest(subject)
		h.do(h.key, "PATCH", "/v1/sessions/"+r.str("session.session_id"), m{"metadata": m{"n": 1}}).want(200)
		time.Sleep(2 * time.Second)
		seq := h.overwrite(subject, &first)
		time.Sleep(2 * time.Minute)
		h.give(next, old)
		time.Sleep(time.Minute)
		if answer := h.rotate(); mayGo(answer, old) || h.newest(subject).Seq != seq {
			t.Errorf("%d stands, want %d; after the rotation: %s", h.newest(subject).Seq, seq, answer.Raw)
		}
		h.verify(r.str("session_token")).want(204)
		h.auth(m{"session_token": r.str("session_token")}).wantError(503, "log_unavailable")
	})
}
