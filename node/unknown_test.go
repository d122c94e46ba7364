package node_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// remote is a second node with its links, which are counted.
type remote struct {
	*harness
	home, config         *events.MemoryLink
	homeSeen, configSeen counted
}

// counted are the requests of a link to its log.
type counted struct{ sends, infos atomic.Int64 }

func (c *counted) all() int64 { return c.sends.Load() + c.infos.Load() }

// counting adds the counters to the faults.
func (c *counted) counting(f events.MemoryFaults) events.MemoryFaults {
	f.Send = func(context.Context, events.Message) error { c.sends.Add(1); return nil }
	info := f.Info
	f.Info = func(i events.Info) events.Info {
		c.infos.Add(1)
		if info != nil {
			i = info(i)
		}
		return i
	}
	return f
}

func (r *remote) requests() int64 { return r.homeSeen.all() + r.configSeen.all() }

// behind makes what the node is given come so late.
func (r *remote) behind(d time.Duration) {
	r.home.SetFaults(r.homeSeen.counting(delayed(d)))
	r.config.SetFaults(r.configSeen.counting(delayed(d)))
}

// far starts a second node on the logs of h, which is not alone then.
func (h *harness) far(changes ...func(*node.Config)) *remote {
	h.t.Helper()
	r := &remote{config: h.config.Link()}
	r.harness, r.home = h.another(append(changes, func(c *node.Config) { c.Settings = r.config })...)
	r.start()
	r.behind(0)
	return r
}

// timed returns how long f takes.
func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func garbage() string { return events.NewToken(2).Reveal() }

// A fresh log-in is good on a node that is behind as soon as the node has it,
// by its token and by its JWT, whatever a deposed leader says.
func TestFreshLogInElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		const lag = 100 * time.Millisecond
		b.behind(lag)
		for _, credential := range []string{"session_token", "session_jwt"} {
			// Also while the next heartbeat has to wait for its turn.
			b.verify(garbage()).wantRefused("unknown")
			r := h.login("ada")
			if took := timed(func() { b.verify(r.str(credential)).want(http.StatusNoContent) }); took != lag {
				t.Errorf("%s: verified after %v, want %v", credential, took, lag)
			}
		}
		r := h.login("ada")
		b.auth(m{"session_token": r.str("session_token")}).want(http.StatusOK)
		r = h.login("ada")
		b.do(h.key, "GET", "/v1/sessions/"+r.str("session.session_id"), nil).want(http.StatusOK)
		r = h.login("ada")
		if d := b.do(h.key, "DELETE", "/v1/sessions/"+r.str("session.session_id"), nil).want(http.StatusOK); d.at("revoked") != 1.0 {
			t.Errorf("revoked %v sessions, want 1", d.at("revoked"))
		}
		r = h.login("ada")
		if d := b.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "ada", "except_session_id": r.str("session.session_id")}).want(http.StatusOK); d.Status == http.StatusOK {
			b.verify(r.str("session_token")).want(http.StatusNoContent)
		}

		b.home.SetFaults(events.MemoryFaults{Deliver: delayed(lag).Deliver, Info: func(events.Info) events.Info { return events.Info{} }})
		r = h.login("ada")
		b.verify(r.str("session_token")).want(http.StatusNoContent)
	})
}

// An API key, an app and its signing key made elsewhere a moment ago are good,
// and unknown ones are refused only after a heartbeat.
func TestFreshSettingsElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		const lag = 100 * time.Millisecond
		b.behind(lag)
		key := h.newApp("fresh", nil)
		if took := timed(func() { b.do(key, "GET", "/v1/sessions?user_id=ada", nil).want(http.StatusOK) }); took != lag {
			t.Errorf("API key taken after %v, want %v", took, lag)
		}
		b.config.SetFaults(delayed(2 * lag)) // settings come later than the session that needs them
		key = h.newApp("fresher", nil)
		r := h.do(key, "POST", "/v1/sessions", m{"user_id": "ada"}).want(http.StatusCreated)
		b.verify(r.str("session_token")).want(http.StatusNoContent)
		key = h.newApp("freshest", nil)
		r = h.do(key, "POST", "/v1/sessions", m{"user_id": "ada"}).want(http.StatusCreated)
		b.verify(r.str("session_jwt")).want(http.StatusNoContent)
		h.newApp("last", nil)
		b.do("", "GET", "/v1/apps/last/jwks", nil).want(http.StatusOK)

		b.behind(lag)
		const bad = "sk_unknown"
		if took := timed(func() {
			b.do(bad, "GET", "/v1/sessions?user_id=ada", nil).wantError(http.StatusUnauthorized, "unauthorized_credentials")
		}); took < lag {
			t.Errorf("refused after %v: no heartbeat can have come back", took)
		}
		b.config.Cut()
		b.do("sk_other", "GET", "/v1/sessions?user_id=ada", nil).wantError(http.StatusServiceUnavailable, "consistency_timeout")
		b.do(bad, "GET", "/v1/sessions?user_id=ada", nil).wantError(http.StatusServiceUnavailable, "consistency_timeout")
		b.do(key, "GET", "/v1/sessions?user_id=ada", nil).want(http.StatusOK)
	})
}

// Unknown is said once an own heartbeat that was sent after the question has
// come back, is remembered, and is never said of what cannot be a token late.
func TestUnknownIsFinal(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		const lag = 150 * time.Millisecond
		b.behind(lag)
		token := garbage()
		if took := timed(func() { b.verify(token).wantRefused("unknown") }); took < lag || took > 500*time.Millisecond {
			t.Errorf("unknown after %v", took)
		}
		before := b.requests()
		if took := timed(func() { b.verify(token).wantRefused("unknown") }); took != 0 || b.requests() != before {
			t.Errorf("unknown again after %v and %d requests", took, b.requests()-before)
		}
		if !b.node.Missing(token) {
			t.Error("the key is not remembered")
		}
		b.auth(m{"session_token": token}).wantEnded("unknown")
		for _, text := range []string{"x", token[:43], token + "A", strings.Repeat("!", 44), "a.b.c", events.NewToken(1).Reveal()} {
			if took := timed(func() { b.verify(text).want(http.StatusUnauthorized) }); took != 0 {
				t.Errorf("%q: answered after %v", text, took)
			}
		}
		if took := timed(func() { b.do(h.key, "GET", "/v1/sessions/nonsense", nil).wantEnded("unknown") }); took != 0 {
			t.Errorf("session id that is none: answered after %v", took)
		}
		// A revocation asks anew: "nothing to revoke" must be true now.
		if took := timed(func() {
			b.do(h.key, "POST", "/v1/sessions/revoke", m{"session_token": token}).want(http.StatusOK)
		}); took < lag {
			t.Errorf("nothing to revoke after %v", took)
		}
	})
}

// A node that is cut off says 503, and of what it knows what it may say by its
// lease.
func TestUnknownWhenCutOff(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		known := h.login("ada").str("session_token")
		b.verify(known).want(http.StatusNoContent)
		b.home.Cut()
		if took := timed(func() { b.wantVerify(garbage(), http.StatusServiceUnavailable, "behind") }); took > 500*time.Millisecond {
			t.Errorf("503 after %v", took)
		}
		r := b.do(garbage(), "GET", "/v1/verify?body=1", nil).wantError(http.StatusServiceUnavailable, "consistency_timeout")
		if r.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		b.auth(m{"session_token": garbage()}).wantError(http.StatusServiceUnavailable, "consistency_timeout")
		b.do(h.key, "DELETE", "/v1/sessions/"+sidOf(t, h.login("eve")).String(), nil).wantError(http.StatusServiceUnavailable, "consistency_timeout")
		if took := timed(func() { b.verify(known).want(http.StatusNoContent) }); took != 0 {
			t.Errorf("a known session took %v", took)
		}
		time.Sleep(lease)
		b.wantVerify(garbage(), http.StatusServiceUnavailable, "silent")
		b.home.Heal()
		time.Sleep(2 * node.DefaultBeat)
		b.wantVerify(garbage(), http.StatusUnauthorized, "unknown")
	})
}

// A stream number that nobody has is known to be so once CONFIG has been heard;
// one that a region has, of which this node cannot hear, is 503.
func TestUnknownStreamNumber(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		b.behind(50 * time.Millisecond)
		nobodys := func() string { return events.NewToken(9).Reveal() }
		if took := timed(func() { b.verify(nobodys()).wantRefused("unknown") }); took < 50*time.Millisecond {
			t.Errorf("answered after %v", took)
		}
		b.config.Cut()
		b.wantVerify(events.NewToken(10).Reveal(), http.StatusServiceUnavailable, "home_unreachable")
		b.config.Heal()

		msg, err := h.keys.Encode(events.ConfigRegion, &events.Region{Region: "us", Number: 9, At: 1}, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.config.Inject(msg); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		b.wantVerify(nobodys(), http.StatusServiceUnavailable, "home_unreachable")
		b.auth(m{"session_token": nobodys()}).wantError(http.StatusServiceUnavailable, "home_unreachable")
	})
}

// What was asked for before it was made, and refused, is never refused on a node
// that is behind the log: neither an app, nor an API key, nor a region.
func TestMadeAfterItWasRefused(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		const secret, foreign = "sk_made_later", 9
		calls := map[string]func() *reply{
			"API key": func() *reply { return b.do(secret, "GET", "/v1/sessions?user_id=ada", nil) },
			"app":     func() *reply { return b.do("", "GET", "/v1/apps/later/jwks", nil) },
			"region":  func() *reply { return b.verify(events.NewToken(foreign).Reveal()) },
		}
		for name, call := range calls {
			if r := call(); r.Status != http.StatusUnauthorized && r.Status != http.StatusNotFound {
				t.Errorf("%s that is not there: %d %s", name, r.Status, r.Raw)
			}
		}
		b.behind(300 * time.Millisecond)
		h.newApp("later", nil)
		if err := h.node.AddAPIKey(t.Context(), h.app, secret, "later", []string{"read"}); err != nil {
			t.Fatal(err)
		}
		h.injectRegion("us", foreign)
		for name, call := range calls {
			if r := call(); r.Status == http.StatusUnauthorized || r.Status == http.StatusNotFound {
				t.Errorf("%s made a moment ago elsewhere: %d %s", name, r.Status, r.Raw)
			}
		}
	})
}

// An API key in an event that this version cannot read is not "unknown", not
// even when the node hears of it while it makes sure.
func TestUnreadableIsNotUnknown(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		const lag = 100 * time.Millisecond
		b.config.SetFaults(events.MemoryFaults{Deliver: delayed(lag).Deliver, Info: func(events.Info) events.Info { return events.Info{} }})
		msg, err := h.keys.Encode(events.ConfigRegion, &future{&events.Touch{App: h.app, User: "x"}, events.KindAPIKey, `{"v":2}`}, nil, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.config.Append(t.Context(), msg, events.Expectation{}); err != nil {
			t.Fatal(err)
		}
		b.do("sk_newer", "GET", "/v1/sessions?user_id=ada", nil).wantError(http.StatusServiceUnavailable, "node_stale")
	})
}

// 50,000 garbage tokens a second cost the log at most 60 requests a second,
// while good sessions and fresh log-ins are verified as ever.
func TestGarbageFlood(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		b.behind(2 * time.Millisecond)
		start := time.Now()
		good := h.login("ada").str("session_token")
		b.verify(good).want(http.StatusNoContent)
		const perMilli, seconds = 50, 1
		before, refused, late := b.requests(), atomic.Int64{}, atomic.Int64{}
		var flood sync.WaitGroup
		for ms := range seconds * 1000 {
			for i := range perMilli {
				stream := uint8(2)
				if i%5 == 0 {
					stream = uint8(ms)
				}
				flood.Go(func() {
					switch r := b.verify(events.NewToken(stream).Reveal()); {
					case r.Status == http.StatusUnauthorized:
						refused.Add(1)
					case r.Status == http.StatusServiceUnavailable && r.Header.Get("X-Session-Reason") == "behind":
						late.Add(1)
					default:
						t.Errorf("garbage: %d %v", r.Status, r.Header)
					}
				})
			}
			if took := timed(func() { b.verify(good).want(http.StatusNoContent) }); took != 0 {
				t.Errorf("a good session took %v", took)
			}
			if ms%100 == 50 {
				fresh := h.login("eve").str("session_token")
				if took := timed(func() { b.verify(fresh).want(http.StatusNoContent) }); took > 100*time.Millisecond {
					t.Errorf("a fresh log-in took %v", took)
				}
			}
			time.Sleep(time.Millisecond)
		}
		rate := float64(b.requests()-before) / time.Since(start).Seconds()
		flood.Wait()
		t.Logf("%d garbage tokens: %d refused, %d told to come again; %.0f requests to the log a second", perMilli*seconds*1000, refused.Load(), late.Load(), rate)
		if rate > 60 || refused.Load() < 9*late.Load() {
			t.Errorf("%.0f requests to the log a second; %d of %d refused", rate, refused.Load(), perMilli*seconds*1000)
		}
	})
}

// So does a flood of API keys, also of one and the same.
func TestGarbageKeyFlood(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		b.behind(2 * time.Millisecond)
		var flood sync.WaitGroup
		before, start := b.requests(), time.Now()
		for ms := range 500 {
			for i := range 10 {
				key := "sk_same"
				if i%2 == 0 {
					key = "sk_" + strconv.Itoa(10*ms+i)
				}
				flood.Go(func() { b.do(key, "GET", "/v1/sessions?user_id=ada", nil).want(http.StatusUnauthorized) })
			}
			time.Sleep(time.Millisecond)
		}
		flood.Wait()
		if rate := float64(b.requests()-before) / time.Since(start).Seconds(); rate > 60 {
			t.Errorf("%.0f requests to the log a second", rate)
		}
	})
}

// A session whose token was asked for before it was made, as one under an
// Idempotency-Key can be, is not hidden by what is remembered; and a rebuild
// forgets it all.
func TestRememberedUnknown(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		b := h.far()
		token := h.tokenOfKey("k1")
		b.verify(token).wantRefused("unknown")
		other := garbage()
		b.verify(other).wantRefused("unknown")
		if !b.node.Missing(token) || !b.node.Missing(other) {
			t.Fatal("not remembered")
		}
		r := h.do(h.key, "POST", "/v1/sessions", m{"user_id": "ada"}, "Idempotency-Key", "k1").want(http.StatusCreated)
		if r.str("session_token") != token {
			t.Fatal("the test computes another token than the node")
		}
		synctest.Wait()
		b.verify(token).want(http.StatusNoContent)
		if b.node.Missing(token) || !b.node.Missing(other) {
			t.Error("remembered: not exactly the other key")
		}

		// A rotated token is an alias: its key has another form of coming in.
		rotated := h.do(h.key, "POST", "/v1/sessions/rotate", m{"session_token": token}).want(http.StatusOK).str("session_token")
		synctest.Wait()
		b.verify(rotated).want(http.StatusNoContent)

		h.home.Truncate(1)
		time.Sleep(10 * time.Second)
		if b.node.Missing(other) {
			t.Error("remembered beyond a rebuild")
		}
		b.wantVerify(token, http.StatusNoContent, "-")
		b.wantVerify(other, http.StatusUnauthorized, "unknown")
	})
}

// tokenOfKey computes the token of a session that is made under the
// Idempotency-Key with the API key of h.
func (h *harness) tokenOfKey(key string) string {
	h.t.Helper()
	id := ""
	for _, k := range h.do(h.admin, "GET", "/v1/apps/"+h.app+"/api-keys", nil).want(http.StatusOK).JSON["keys"].([]any) {
		id, _ = k.(m)["id"].(string)
	}
	mac := hmac.New(sha256.New, h.keys.Derive("revocast idempotency 1", sha256.Size))
	for _, part := range []string{h.app, id, "POST /v1/sessions", key} {
		mac.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		mac.Write([]byte(part))
	}
	return events.TokenOf(2, [32]byte(mac.Sum(nil))).Reveal()
}
