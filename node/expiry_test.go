package node_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// told is what the home stream was ever given of kind exp.
type told struct {
	mu   sync.Mutex // guards the maps
	ends map[string][]*events.Expire
	when map[string]time.Time // of the newest
}

// listen watches the home stream until the test ends.
func (h *harness) listen() *told {
	h.t.Helper()
	out := &told{ends: map[string][]*events.Expire{}, when: map[string]time.Time{}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	link := h.home.Link()
	running.Go(func() {
		_ = link.Follow(ctx, events.Follow{Apply: func(e events.Entry) error {
			r := h.keys.Decode(link.Number(), e)
			x, ok := r.Event.(*events.Expire)
			if !ok {
				return nil
			}
			if e.TTL != events.ExpiredEventTTL || !x.Ignorable {
				h.t.Errorf("%s is kept for %v, ignorable %v", e.Subject, e.TTL, x.Ignorable)
			}
			out.mu.Lock()
			defer out.mu.Unlock()
			out.ends[x.SID.String()] = append(out.ends[x.SID.String()], x)
			out.when[x.SID.String()] = e.Time
			return nil
		}})
	})
	h.t.Cleanup(func() { cancel(); running.Wait() })
	return out
}

// of returns the ends that were told of the session.
func (o *told) of(r *reply) []*events.Expire {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.ends[r.str("session.session_id")])
}

// want fails the test unless the end of the session was told exactly once: that it
// was at that time, for that reason.
func (o *told) want(t *testing.T, what string, r *reply, at time.Time, reason string) {
	t.Helper()
	all := o.of(r)
	if len(all) != 1 {
		t.Errorf("%s: told %d times", what, len(all))
		return
	}
	if e := all[0]; e.At != at.UnixMilli() || e.Reason != reason || e.App != r.str("session.app_id") || e.User != r.str("session.user_id") {
		t.Errorf("%s: %+v, want %s at %v", what, e, reason, at)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if late := o.when[r.str("session.session_id")].Sub(at); late < 30*time.Second {
		t.Errorf("%s: told %v after the end: somebody may still have extended it", what, late)
	}
}

func (o *told) wantNone(t *testing.T, what string, r *reply) {
	t.Helper()
	if all := o.of(r); len(all) != 0 {
		t.Errorf("%s: told %d times", what, len(all))
	}
}

func (r *reply) date(path string) time.Time {
	r.t.Helper()
	at, err := time.Parse(time.RFC3339Nano, r.str(path))
	if err != nil {
		r.t.Fatalf("%s: %s: %v", r.call, path, err)
	}
	return at
}

// gauge returns the value of a metric without labels.
func (h *harness) gauge(name string) (v float64) {
	h.t.Helper()
	w := httptest.NewRecorder()
	h.node.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if _, err := fmt.Sscanf(line, name+" %g", &v); err == nil {
			return v
		}
	}
	h.t.Fatalf("no metric %s", name)
	return 0
}

// minutes creates a session that lives so long.
func (h *harness) minutes(key, user string, life int) *reply {
	h.t.Helper()
	return h.do(key, "POST", "/v1/sessions", m{"user_id": user, "session_duration_minutes": life}).want(201)
}

func TestExpiredEvents(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		o := h.listen()
		quiet := h.newApp("quiet", m{"expired_events": false})
		sleepy := h.newApp("sleepy", m{"idle_timeout_minutes": 5})
		ended := h.minutes(h.key, "ada", 10)
		revoked := h.minutes(h.key, "bob", 10)
		extended := h.minutes(h.key, "carol", 10)
		off := h.minutes(quiet, "dan", 10)
		idle := h.minutes(sleepy, "eve", 600)
		used := h.minutes(sleepy, "fay", 600)
		everywhere := h.minutes(h.key, "gus", 10)
		time.Sleep(4 * time.Minute)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": revoked.str("session.session_id")}).want(200)
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "gus"}).want(200)
		later := h.do(h.key, "POST", "/v1/sessions/authenticate", m{"session_token": extended.str("session_token"), "session_duration_minutes": 25}).want(200)
		for range 5 {
			h.verify(used.str("session_token")).want(204)
			time.Sleep(4 * time.Minute)
		}
		o.want(t, "expired", ended, ended.date("session.expires_at"), "expired")
		// Idle counts as ended by the rule of the verdict: a tenth and a lease later.
		o.want(t, "idle", idle, idle.date("session.started_at").Add(5*time.Minute+30*time.Second+15*time.Second), "idle")
		for what, r := range map[string]*reply{
			"revoked": revoked, "revoked with the user": everywhere, "extended": extended, "of an app that wants none": off, "in use": used,
		} {
			o.wantNone(t, what, r)
		}
		time.Sleep(9 * time.Minute)
		o.want(t, "extended, in the end", extended, later.date("session.expires_at"), "expired")
		if all := o.of(used); len(all) != 1 || all[0].Reason != "idle" {
			t.Errorf("no longer in use: told %v", all)
		}
		o.wantNone(t, "of an app that wants none", off)

		// Turned on, it counts for what ends from then on.
		h.do(quiet, "PATCH", "/v1/apps/quiet", m{"expired_events": true}).want(200)
		loud := h.minutes(quiet, "dan", 10)
		time.Sleep(12 * time.Minute)
		o.want(t, "turned on", loud, loud.date("session.expires_at"), "expired")
		o.wantNone(t, "ended before it was turned on", off)
		o.want(t, "after a while", ended, ended.date("session.expires_at"), "expired")
		if n := h.gauge("revocast_expired_events_total"); n != 5 {
			t.Errorf("%v were counted", n)
		}
		if n := h.gauge("revocast_expired_events_waiting"); n != 0 {
			t.Errorf("%v wait", n)
		}
	})
}

// TestExpiredEventsHistory: the history of a session says when it ran out, once, and
// by its times.
func TestExpiredEventsHistory(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		r := h.minutes(h.key, "ada", 10)
		time.Sleep(12 * time.Minute)
		events := h.do(h.key, "GET", "/v1/sessions/"+r.str("session.session_id")+"/events", nil).want(200).at("events").([]any)
		if len(events) != 2 || events[1].(m)["type"] != "session.expired" {
			t.Errorf("history %v", events)
		}
	})
}

// settings of a fleet whose clocks differ by up to 2 s.
func skewed(by time.Duration) func(*node.Config) {
	return func(c *node.Config) { c.Clock = &testClock{begin: time.Now(), skew: by} }
}

// TestExpiredEventsOnce: of several nodes whose clocks are apart each tells some, and
// together they tell each once, though one of them dies and one joins.
func TestExpiredEventsOnce(t *testing.T) {
	fleetBubble(t, 2, func(t *testing.T, f *fleet) {
		o := f.listen()
		ahead := f.join("n3", skewed(2*time.Second))
		behind := f.join("n4", skewed(-2*time.Second))
		time.Sleep(2 * time.Second)
		create := func(n int) (all []*reply) {
			for i := range n {
				all = append(all, f.nodes[i%4].minutes(f.key, fmt.Sprint("user-", i), 10))
			}
			return all
		}
		first := create(80)
		time.Sleep(12 * time.Minute)
		for _, r := range first {
			o.want(t, "first", r, r.date("session.expires_at"), "expired")
		}
		total := 0.0
		for _, n := range f.nodes {
			wrote := n.gauge("revocast_expired_events_total")
			total += wrote
			// A quarter each; that one gets less than 5 of 80 has a chance of 1e-5.
			if wrote < 5 {
				t.Errorf("%s told %v of %d", n.name, wrote, len(first))
			}
		}
		if total != 80 {
			t.Errorf("%v were written of 80", total)
		}

		second := create(80)
		time.Sleep(10 * time.Minute)
		ahead.stop() // with a farewell
		behind.link.Cut()
		behind.config.Cut()
		fresh := f.join("n5")
		time.Sleep(4 * time.Minute)
		behind.link.Heal()
		behind.config.Heal()
		time.Sleep(5 * time.Minute)
		for _, r := range second {
			o.want(t, "second", r, r.date("session.expires_at"), "expired")
		}
		if n := fresh.gauge("revocast_expired_events_total"); n < 5 {
			t.Errorf("the node that joined told %v", n)
		}
	})
}

// TestExpiredEventsAfterCut: nothing is told while the log is away or has no space,
// and what ended meanwhile is told afterwards, before it is forgotten.
func TestExpiredEventsAfterCut(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		o := h.listen()
		var all []*reply
		for i := range 20 {
			all = append(all, h.minutes(h.key, fmt.Sprint("user-", i), 10+i%3))
		}
		time.Sleep(9 * time.Minute)
		h.home.Cut()
		time.Sleep(time.Hour)
		h.home.Heal()
		time.Sleep(3 * time.Minute)
		for _, r := range all {
			o.want(t, "after a cut", r, r.date("session.expires_at"), "expired")
		}

		late := h.minutes(h.key, "late", 10)
		info, err := h.home.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h.home.SetMaxBytes(info.Bytes * 100 / 85)
		time.Sleep(20 * time.Minute)
		o.wantNone(t, "while the log is nearly full", late)
		h.home.SetMaxBytes(0)
		time.Sleep(3 * time.Minute)
		o.want(t, "once there is space", late, late.date("session.expires_at"), "expired")
	})
}

// TestExpiredEventsAfterRestart: what ended while no node of the region ran is told by
// the next one, and what was told before is not told again.
func TestExpiredEventsAfterRestart(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		o := h.listen()
		before, idle := h.minutes(h.key, "ada", 10), h.minutes(h.newApp("sleepy", m{"idle_timeout_minutes": 5}), "eve", 600)
		missed := h.minutes(h.key, "bob", 30)
		time.Sleep(20 * time.Minute)
		h.stop()
		time.Sleep(10*time.Minute + 30*time.Second)
		next, _ := h.another(func(c *node.Config) { c.Name = "n1" })
		next.start()
		time.Sleep(5 * time.Minute)
		o.want(t, "before", before, before.date("session.expires_at"), "expired")
		o.want(t, "missed", missed, missed.date("session.expires_at"), "expired")
		if all := o.of(idle); len(all) != 1 {
			t.Errorf("idle before the restart: told %d times", len(all))
		}
	})
}

// TestExpiredEventsOver: what somebody else wrote where an end is told is replaced,
// and a token that begins another session tells of that end too.
func TestExpiredEventsOver(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		o := h.listen()
		forged := h.minutes(h.key, "ada", 10)
		sid, err := events.ParseSID(forged.str("session.session_id"))
		if err != nil {
			t.Fatal(err)
		}
		subject := events.SessionSubject("eu", h.app, "ada", sid, events.KindExpire).String()
		if _, err := h.home.Inject(events.Message{Subject: subject, Payload: []byte(`{"v":1}`), TTL: time.Hour}); err != nil {
			t.Fatal(err)
		}
		twice := h.put("token", "bob", "one", 10*time.Minute).want(201)
		time.Sleep(20 * time.Minute)
		o.want(t, "over a forged event", forged, forged.date("session.expires_at"), "expired")
		if again := h.put("token", "bob", "two", 10*time.Minute).want(201); again.str("session_id") != twice.str("session_id") {
			t.Errorf("the token began %s, then %s", twice.str("session_id"), again.str("session_id"))
		}
		time.Sleep(20 * time.Minute)
		o.mu.Lock()
		defer o.mu.Unlock()
		all := o.ends[twice.str("session_id")]
		if len(all) != 2 || all[0].At >= all[1].At {
			t.Errorf("two sessions of one token: told %v", all)
		}
	})
}

// TestExpiredEventsRevokedMeanwhile: what is revoked between its end and when that could
// be told is told of by its revocation alone.
func TestExpiredEventsRevokedMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		o := h.listen()
		sleepy := h.newApp("sleepy", m{"idle_timeout_minutes": 5})
		revoked, idle := h.minutes(sleepy, "ada", 600), h.minutes(sleepy, "eve", 600)
		h.home.SetFaults(events.MemoryFaults{Send: func(_ context.Context, msg events.Message) error {
			if strings.HasSuffix(msg.Subject, ".exp") {
				return events.ErrUnavailable
			}
			return nil
		}})
		time.Sleep(10 * time.Minute)
		if n := h.gauge("revocast_expired_events_waiting"); n != 2 {
			t.Errorf("%v wait for the log", n)
		}
		h.do(sleepy, "POST", "/v1/sessions/revoke", m{"user_id": "ada"}).want(200)
		h.home.SetFaults(events.MemoryFaults{})
		time.Sleep(10 * time.Second)
		o.wantNone(t, "revoked", revoked)
		if all := o.of(idle); len(all) != 1 {
			t.Errorf("told %d times", len(all))
		}
	})
}

// TestExpiredEventsMass: many that end at once are told at a pace, and revocations do
// not wait for them.
func TestExpiredEventsMass(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		o := h.listen()
		const many = 1200
		var all []*reply
		for i := range many {
			all = append(all, h.minutes(h.key, fmt.Sprint("user-", i), 10))
		}
		good := h.minutes(h.key, "zoe", 100)
		h.home.SetFaults(events.MemoryFaults{Send: func(_ context.Context, msg events.Message) error {
			if strings.HasSuffix(msg.Subject, ".exp") {
				return events.ErrUnavailable
			}
			return nil
		}})
		time.Sleep(12 * time.Minute)
		if n := h.gauge("revocast_expired_events_waiting"); n != many {
			t.Errorf("%v wait for the log", n)
		}
		slow(&h.home.MemoryLink)
		time.Sleep(3 * time.Second)
		begin := time.Now()
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"session_id": good.str("session.session_id")}).want(200)
		if took := time.Since(begin); took > time.Second {
			t.Errorf("a revocation took %v", took)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		o.mu.Lock()
		defer o.mu.Unlock()
		first, last := time.Time{}, time.Time{}
		for _, r := range all {
			sid := r.str("session.session_id")
			if len(o.ends[sid]) != 1 {
				t.Fatalf("told %d times", len(o.ends[sid]))
			}
			at := o.when[sid]
			if first.IsZero() || at.Before(first) {
				first = at
			}
			if at.After(last) {
				last = at
			}
		}
		t.Logf("%d ends were told within %v", many, last.Sub(first))
		if rate := many / last.Sub(first).Seconds(); rate > 450 {
			t.Errorf("%.0f a second", rate)
		} else if rate < 100 {
			t.Errorf("no more than %.0f a second", rate)
		}
	})
}
