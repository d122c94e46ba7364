package compat

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// verdict asks every way a session can be asked about, and says what differs
// from what is wanted: "active", or a reason why not.
func (c client) verdict(t testing.TB, s *reply, want string) string {
	t.Helper()
	var bad []string
	note := func(how string, r *reply, ok bool) {
		if !ok {
			bad = append(bad, fmt.Sprintf("%s: %d %s %v", how, r.status, r.ErrorType, r.ErrorDetails))
		}
	}
	good := want == "active"
	for how, credential := range map[string]string{"token": s.SessionToken, "JWT": s.SessionJWT} {
		r := c.verify(t, credential)
		note("verify by "+how, r, r.status == map[bool]int{true: http.StatusNoContent, false: http.StatusUnauthorized}[good])
	}
	for how, body := range map[string]object{"token": {"session_token": s.SessionToken}, "JWT": {"session_jwt": s.SessionJWT}} {
		r := c.do(t, "POST", "/v1/sessions/authenticate", body)
		if good {
			note("authenticate by "+how, r, r.status == http.StatusOK && r.Session.Status == "active" && r.SessionJWT != "")
		} else {
			note("authenticate by "+how, r, r.wrong(http.StatusNotFound, "session_not_found") == "" && r.ErrorDetails["reason"] == want)
		}
	}
	r := c.do(t, "GET", "/v1/sessions/"+s.Session.SessionID, nil)
	note("read", r, r.status == http.StatusOK && r.Session.Status == want)
	return strings.Join(bad, "; ")
}

// life is a session on its way through TestLifeCycle.
type life struct {
	t   *testing.T
	c   client
	tab *table
	s   *reply // as it was created
}

// step does one thing and adds what came of it to the table.
func (l *life) step(name string, f func() (trouble string, answer any)) {
	l.t.Helper()
	trouble, answer := f()
	l.tab.row(trouble, name, answer)
}

func TestLifeCycle(t *testing.T) {
	c := shared(t).newApp(t, "life", nil)
	archiving(t, c)
	l := &life{t: t, c: c, tab: newTable(t, "step", "answer")}
	l.begins()
	l.goesOn()
	l.ends()
}

func (l *life) begins() {
	t, c := l.t, l.c
	l.step("create", func() (string, any) {
		s := c.do(t, "POST", "/v1/sessions", object{
			"user_id": "ada", "session_duration_minutes": 60, "idle_timeout_minutes": 30, "absolute_lifetime_minutes": 120,
			"attributes":             object{"ip_address": "203.0.113.9", "user_agent": "curl <8> & \"co\""},
			"authentication_factors": []object{{"type": "password", "delivery_method": "knowledge"}},
			"session_custom_claims":  object{"plan": "gold", "big": json.Number("12345678901234567890"), "nested": object{"a": 1, "b": 2}},
			"metadata":               object{"cart": []int{1, 2, 3}},
		}).want(t, http.StatusCreated)
		l.s = s
		x := s.Session
		ok := len(s.SessionToken) == 44 && len(x.SessionID) == 22 && x.UserID == "ada" && x.AppID == "life" && x.Status == "active" &&
			x.ExpiresAt.Sub(x.StartedAt) == time.Hour && x.AbsoluteExpiresAt.Sub(x.StartedAt) == 2*time.Hour && x.IdleExpiresAt != nil &&
			x.Attributes["user_agent"] == "curl <8> & \"co\"" && len(x.Factors) == 1 && strings.Contains(string(x.CustomClaims), "12345678901234567890") &&
			strings.Contains(string(x.Metadata), "[1,2,3]") && s.Revision != ""
		return unless(ok, "%s", s.raw), "token of 44, id of 22 characters"
	})
	s := l.s
	l.step("its JWT", func() (string, any) {
		p := part(t, s.SessionJWT, 1)
		ok := p["sub"] == "ada" && p["sid"] == s.Session.SessionID && p["plan"] == "gold" && fmt.Sprint(p["amr"]) == "[pwd]"
		return unless(ok, "%v", p), p["amr"]
	})
	l.step("active, every way", func() (string, any) { return c.verdict(t, s, "active"), "" })
}

func (l *life) goesOn() {
	t, c, s := l.t, l.c, l.s
	l.step("authenticate by token extends", func() (string, any) {
		r := c.do(t, "POST", "/v1/sessions/authenticate", object{"session_token": s.SessionToken, "session_duration_minutes": 90}).want(t, http.StatusOK)
		d := r.Session.ExpiresAt.Sub(s.Session.ExpiresAt).Round(time.Minute)
		return unless(d == 30*time.Minute && r.SessionToken == s.SessionToken, "moved by %v: %s", d, r.raw), d
	})
	l.step("no token for a JWT (native)", func() (string, any) {
		r := c.do(t, "POST", "/v1/sessions/authenticate", object{"session_jwt": s.SessionJWT}).want(t, http.StatusOK)
		return unless(r.SessionToken == "", "a token came back"), ""
	})
	l.step("authenticate merges claims", func() (string, any) {
		r := c.do(t, "POST", "/v1/sessions/authenticate", object{
			"session_token": s.SessionToken, "session_custom_claims": object{"plan": nil, "nested": object{"b": nil, "c": 3}},
		}).want(t, http.StatusOK)
		got := claims(t, r)
		p := part(t, r.SessionJWT, 1)
		return unless(got == `{"big":12345678901234567890,"nested":{"a":1,"c":3}}` && p["plan"] == nil, "%s, JWT %v", got, p), got
	})
	l.step("patch", func() (string, any) {
		r := c.do(t, "PATCH", "/v1/sessions/"+s.Session.SessionID, object{
			"metadata": object{"cart": nil, "seen": true}, "session_custom_claims": object{"big": nil, "nested": nil, "plan": "lead"},
			"add_authentication_factors": []object{{"type": "totp"}},
		}).want(t, http.StatusOK)
		ok := string(r.Session.Metadata) == `{"seen":true}` && claims(t, r) == `{"plan":"lead"}` && len(r.Session.Factors) == 2 &&
			fmt.Sprint(part(t, r.SessionJWT, 1)["amr"]) == "[pwd otp mfa]" && r.SessionToken == ""
		return unless(ok, "%s", r.raw), "2 factors"
	})
	l.step("list", func() (string, any) {
		r := c.do(t, "GET", "/v1/sessions?user_id=ada", nil).want(t, http.StatusOK)
		ok := r.Total == 1 && len(r.Sessions) == 1 && r.Sessions[0].SessionID == s.Session.SessionID && !strings.Contains(string(r.raw), s.SessionToken)
		return unless(ok, "%s", r.raw), r.Total
	})
}

func (l *life) ends() {
	t, c, s := l.t, l.c, l.s
	l.step("revoke, with who and why", func() (string, any) {
		r := c.do(t, "POST", "/v1/sessions/revoke", object{"session_id": s.Session.SessionID, "reason": "logout", "wait": "all"}).want(t, http.StatusOK)
		ok := r.Revoked != nil && *r.Revoked == 1 && r.Revision != "" && r.Receipt != nil && r.Receipt.Status == "complete" &&
			r.Receipt.Revision == r.Revision && len(r.Receipt.Applied) == 1
		return unless(ok, "%s", r.raw) + wrongSafeAfter(r, seconds(t, s.SessionJWT, "exp")), "receipt"
	})
	l.step("revoked, every way", func() (string, any) { return c.verdict(t, s, "revoked"), "" })
	l.step("who and why are shown", func() (string, any) {
		r := c.do(t, "GET", "/v1/sessions/"+s.Session.SessionID, nil)
		return unless(r.Session.RevokedBy != "" && r.Session.RevokeReason == "logout", "%s", r.raw), r.Session.RevokeReason
	})
	l.step("revoke again", func() (string, any) {
		r := c.do(t, "POST", "/v1/sessions/revoke", object{"session_id": s.Session.SessionID}).want(t, http.StatusOK)
		ok := r.Revoked != nil && *r.Revoked == 0 && r.Receipt != nil && r.Receipt.Status == "complete"
		return unless(ok, "%s", r.raw), "revoked 0, receipt"
	})
	l.step("nothing brings it back", func() (string, any) {
		a := c.do(t, "PATCH", "/v1/sessions/"+s.Session.SessionID, object{"session_duration_minutes": 60})
		b := c.do(t, "POST", "/v1/sessions/rotate", object{"session_token": s.SessionToken})
		d := c.do(t, "POST", "/v1/sessions/"+s.Session.SessionID+"/tokens", object{})
		return unless(a.status == 404 && b.status == 404 && d.status == 404, "%d %d %d", a.status, b.status, d.status), "404 404 404"
	})
	l.step("history", func() (string, any) {
		want := []string{"session.created", "session.extended", "session.changed", "session.changed", "session.revoked"}
		got, gaps, last := history(t, c, s.Session.SessionID, len(want))
		trouble := unless(last.Type == "session.revoked" && last.Reason == "logout" && last.By != "", "ends with %v", last)
		return trouble + incomplete(got, want, gaps), strings.Join(got, " ")
	})
}

// wrongSafeAfter says what is wrong with the time after which no JWT of the
// session is good: it is cut to milliseconds, and not before exp of one of them.
func wrongSafeAfter(revoked *reply, exp time.Time) string {
	if revoked.Receipt == nil {
		return "; no receipt"
	}
	text := revoked.Receipt.JWTSafeAfter
	at, err := time.Parse(time.RFC3339, text)
	_, fraction, _ := strings.Cut(text, ".")
	return unless(err == nil && len(fraction) <= len("123Z") && strings.HasSuffix(text, "Z") && !at.Before(exp),
		"; jwt_safe_after %s (%v)", text, err)
}

// claims returns the custom claims with their members in order.
func claims(t *testing.T, r *reply) string {
	t.Helper()
	m := map[string]json.RawMessage{}
	if err := json.Unmarshal(r.Session.CustomClaims, &m); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// archiving waits until the archive follows the log: what was overwritten
// before that is a gap in histories.
func archiving(t *testing.T, c client) {
	t.Helper()
	if types, _, _ := history(t, c, c.create(t, "somebody").Session.SessionID, 1); len(types) != 1 {
		t.Fatalf("the archive does not follow the log within %v", historyWithin)
	}
}

// historyWithin is how long the archive may take for an event.
const historyWithin = 5 * time.Second

// history returns the types of a session's events, once it has as many, how
// many of them name a gap before them, and the last one. The archive is filled
// a moment after the log.
func history(t *testing.T, c client, sid string, count int) (types []string, gaps int, last event) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(historyWithin); ; <-tick.C {
		r := c.do(t, "GET", "/v1/sessions/"+sid+"/events", nil).want(t, http.StatusOK)
		if len(r.Events) < count && time.Now().Before(end) {
			continue
		}
		for _, e := range r.Events {
			types, last = append(types, e.Type), e
			if e.GapAfter != "" {
				gaps++
			}
		}
		return types, gaps, last
	}
}

// incomplete says what a history lacks that it does not admit. A state that
// was overwritten before it was archived may be missing, but the next one must
// say so.
func incomplete(got, want []string, gaps int) string {
	left, missing := got, 0
	for _, w := range want {
		if len(left) > 0 && left[0] == w {
			left = left[1:]
		} else {
			missing++
		}
	}
	return unless(len(left) == 0, "has %v, want %v; ", got, want) + unless((missing > 0) == (gaps > 0), "%d missing, %d gaps named; ", missing, gaps)
}

// TestExtend asks for more life than a session may have: it gets all there is,
// also when that is little.
func TestExtend(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "extend", nil)
	tab := newTable(t, "minutes it had", "asked for", "how", "expires in")
	for _, how := range []string{"authenticate", "patch"} {
		for _, ask := range []struct{ has, minutes int }{
			{10, 61}, {10, 90}, {10, 119}, {10, 121}, {10, 1440}, {10, 43200}, {10, 527040}, {110, 1440}, {110, 527040}, {60, 43200},
		} {
			s := c.do(t, "POST", "/v1/sessions", object{"user_id": "ada", "session_duration_minutes": ask.has, "absolute_lifetime_minutes": 120}).want(t, http.StatusCreated)
			var r *reply
			if how == "patch" {
				r = c.do(t, "PATCH", "/v1/sessions/"+s.Session.SessionID, object{"session_duration_minutes": ask.minutes})
			} else {
				r = c.do(t, "POST", "/v1/sessions/authenticate", object{"session_jwt": s.SessionJWT, "session_duration_minutes": ask.minutes})
			}
			r.want(t, http.StatusOK)
			kept := c.do(t, "GET", "/v1/sessions/"+s.Session.SessionID, nil).want(t, http.StatusOK)
			got := r.Session.ExpiresAt.Sub(s.Session.StartedAt).Round(time.Minute)
			want := time.Duration(min(ask.minutes, 120)) * time.Minute
			tab.row(unless(got == want && !r.Session.ExpiresAt.After(s.Session.AbsoluteExpiresAt) && kept.Session.ExpiresAt.Equal(r.Session.ExpiresAt),
				"want %v, got %v; afterwards it is %v", want, got, kept.Session.ExpiresAt), ask.has, ask.minutes, how, got)
		}
	}
}

// TestExpiredJWT waits for a JWT to expire. Whoever has an API key exchanges it
// for a new one as long as the session lives; /v1/verify does not.
func TestExpiredJWT(t *testing.T) {
	n := shared(t)
	tab := newTable(t, "step", "answer")
	for _, profile := range []string{"native", "stytch"} {
		c := n.newApp(t, "expired-"+profile, object{"jwt_profile": profile})
		s := c.create(t, "ada")
		short := c.do(t, "POST", "/v1/sessions/"+s.Session.SessionID+"/tokens", object{"ttl_seconds": 1}).want(t, http.StatusOK)
		for end := time.Now().Add(10 * time.Second); c.verify(t, short.SessionJWT).status == http.StatusNoContent; {
			if time.Now().After(end) {
				t.Fatal("a JWT with a life of 1 s is still good after 10 s")
			}
		}
		tab.row("", profile+": /v1/verify refuses it", 401)
		r := c.do(t, "POST", "/v1/sessions/authenticate", object{"session_jwt": short.SessionJWT})
		ok := r.status == http.StatusOK && r.SessionJWT != short.SessionJWT && c.verify(t, r.SessionJWT).status == http.StatusNoContent &&
			(r.SessionToken == s.SessionToken) == (profile == "stytch")
		tab.row(unless(ok, "%s", r.raw), profile+": authenticate gives a new one", r.status)
		c.do(t, "POST", "/v1/sessions/revoke", object{"session_jwt": short.SessionJWT}).want(t, http.StatusOK)
		tab.row(c.verdict(t, s, "revoked"), profile+": an expired JWT revokes its session", "revoked")
		r = c.do(t, "POST", "/v1/sessions/authenticate", object{"session_jwt": short.SessionJWT})
		tab.row(r.wrong(http.StatusNotFound, "session_not_found"), profile+": and then gets none", r.status)
	}
}

func TestRotateToken(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "rotate", nil)
	tab := newTable(t, "step", "answer")
	s := c.create(t, "ada")
	first := c.do(t, "POST", "/v1/sessions/rotate", object{"session_token": s.SessionToken, "grace_seconds": 60}).want(t, http.StatusOK)
	again := c.do(t, "POST", "/v1/sessions/rotate", object{"session_token": s.SessionToken, "grace_seconds": 60}).want(t, http.StatusOK)
	tab.row(unless(first.SessionToken != s.SessionToken && first.SessionToken == again.SessionToken, "two successors"), "a replay gets the same successor", "")
	tab.row(unless(first.Session.SessionID == s.Session.SessionID, "%s", first.Session.SessionID), "the session stays", "")
	tab.row(c.verdict(t, s, "active"), "the old token is good in its grace", "active")
	tab.row(c.verdict(t, first, "active"), "so is the new one", "active")
	second := c.do(t, "POST", "/v1/sessions/rotate", object{"session_token": first.SessionToken}).want(t, http.StatusOK)
	r := c.verify(t, first.SessionToken)
	tab.row(unless(r.status == http.StatusUnauthorized, "%d", r.status), "without grace the old token is refused", r.status)
	r = c.do(t, "POST", "/v1/sessions/rotate", object{"session_token": first.SessionToken})
	tab.row(r.wrong(http.StatusNotFound, "session_not_found"), "and rotates nothing", r.status)
	tab.row(c.verdict(t, second, "active"), "its successor is good", "active")
	r = c.verify(t, s.SessionJWT)
	tab.row(unless(r.status == http.StatusNoContent, "%d", r.status), "the JWT from before goes on", r.status)
	c.do(t, "POST", "/v1/sessions/revoke", object{"session_token": second.SessionToken}).want(t, http.StatusOK)
	for name, token := range map[string]string{"original": s.SessionToken, "first": first.SessionToken, "second": second.SessionToken} {
		r = c.verify(t, token)
		tab.row(unless(r.status == http.StatusUnauthorized, "%d", r.status), "revoked: "+name+" token", r.status)
	}
}

func TestTemplates(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "templates", nil)
	tab := newTable(t, "step", "answer")
	s := c.do(t, "POST", "/v1/sessions", object{"user_id": "ada", "session_custom_claims": object{"plan": "gold", "own": 1}}).want(t, http.StatusCreated)
	c.do(t, "PUT", "/v1/apps/templates/templates/hasura", object{
		"ttl_seconds": 60, "audience": "hasura", "claims": object{"plan": "platinum", "role": "user"},
	}).want(t, http.StatusOK)
	r := c.do(t, "POST", "/v1/sessions/"+s.Session.SessionID+"/tokens", object{"template": "hasura"}).want(t, http.StatusOK)
	p := part(t, r.SessionJWT, 1)
	ok := strings.Trim(fmt.Sprint(p["aud"]), "[]") == "hasura" && p["plan"] == "platinum" && p["role"] == "user" && p["own"] == float64(1) &&
		p["exp"].(float64)-p["iat"].(float64) == 60
	tab.row(unless(ok, "%v", p), "minted from a template", p["aud"])
	v := c.verify(t, r.SessionJWT)
	tab.row(unless(v.status == http.StatusUnauthorized, "%d", v.status), "a JWT for another audience authenticates nothing", v.status)
	a := c.do(t, "POST", "/v1/sessions/authenticate", object{"session_jwt": r.SessionJWT})
	tab.row(a.wrong(http.StatusNotFound, "session_not_found"), "nor with an API key", a.status)
	a = c.do(t, "POST", "/v1/sessions/"+s.Session.SessionID+"/tokens", object{"template": "none"})
	tab.row(a.wrong(http.StatusNotFound, "not_found"), "an unknown template", a.status)
	c.do(t, "DELETE", "/v1/apps/templates/templates/hasura", nil).want(t, http.StatusOK)
	a = c.do(t, "POST", "/v1/sessions/"+s.Session.SessionID+"/tokens", object{"template": "hasura"})
	tab.row(a.wrong(http.StatusNotFound, "not_found"), "a deleted template", a.status)
}

func TestIdempotency(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "idem", nil)
	tab := newTable(t, "step", "answer")
	post := func(body object, key string) *reply {
		return c.do(t, "POST", "/v1/sessions", body, "Idempotency-Key", key)
	}
	first := post(object{"user_id": "ada"}, "k1").want(t, http.StatusCreated)
	again := post(object{"user_id": "ada"}, "k1").want(t, http.StatusCreated)
	tab.row(unless(first.SessionToken == again.SessionToken, "two sessions"), "the same again", again.status)
	r := post(object{"user_id": "bob"}, "k1")
	tab.row(r.wrong(http.StatusUnprocessableEntity, "idempotency_key_reused"), "another body", r.status)
	r = post(object{"user_id": "ada"}, "k2").want(t, http.StatusCreated)
	tab.row(unless(r.SessionToken != first.SessionToken, "one session"), "another key", r.status)
	list := c.do(t, "GET", "/v1/sessions?user_id=ada", nil).want(t, http.StatusOK)
	tab.row(unless(list.Total == 2, "%d", list.Total), "sessions there are", list.Total)
	c.do(t, "POST", "/v1/sessions/revoke", object{"session_id": first.Session.SessionID}).want(t, http.StatusOK)
	r = post(object{"user_id": "ada"}, "k1")
	tab.row(r.wrong(http.StatusConflict, "idempotency_session_ended"), "after it was revoked", r.status)
	for _, key := range []string{strings.Repeat("k", 257), "é"} {
		r = post(object{"user_id": "ada"}, key)
		tab.row(r.wrong(http.StatusBadRequest, "invalid_argument"), fmt.Sprintf("a key of %d bytes", len(key)), r.status)
	}
}
