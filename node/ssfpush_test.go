package node_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/outbound"
)

// pushed is where SETs are pushed to. It is an Outbound of its own.
type pushed struct {
	mu     sync.Mutex // guards the fields below
	got    []pushedSET
	answer func(token string) (status int, body string) // nil: 202
}

// pushedSET is what came, and how it was answered.
type pushedSET struct {
	token, authorization string
	status               int
	header               http.Header
}

func (p *pushed) Check(text string) error {
	if !strings.HasPrefix(text, "https://") {
		return errors.New("want https")
	}
	return nil
}

func (p *pushed) Do(_ context.Context, r *http.Request, _ int64) (*outbound.Answer, error) {
	body, _ := io.ReadAll(r.Body)
	p.mu.Lock()
	defer p.mu.Unlock()
	g := pushedSET{token: string(body), authorization: r.Header.Get("Authorization"), status: http.StatusAccepted, header: r.Header.Clone()}
	text := ""
	if p.answer != nil {
		g.status, text = p.answer(g.token)
	}
	p.got = append(p.got, g)
	if g.status == 0 {
		return nil, errors.New("no answer")
	}
	return &outbound.Answer{Status: g.status, Header: http.Header{}, Body: []byte(text)}, nil
}

func (p *pushed) answers(status int, body string) {
	p.set(func(string) (int, string) { return status, body })
}

func (p *pushed) set(answer func(string) (int, string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer, p.got = answer, nil
}

// all returns what came since the answer was set, and accepted what of it was taken.
func (p *pushed) all() []pushedSET {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

func (p *pushed) accepted() (tokens []string) {
	for _, g := range p.all() {
		if g.status == http.StatusAccepted {
			tokens = append(tokens, g.token)
		}
	}
	return tokens
}

// pushTo makes a receiver that is pushed to.
func pushTo(t *testing.T, change func(*node.Config), test func(t *testing.T, h *harness, r *ssfReceiver, p *pushed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := new(pushed)
		h := newHarness(t, change, func(c *node.Config) { c.Outbound = p })
		r := h.receive(m{
			"delivery":         m{"method": pushing, "endpoint_url": "https://rcv.example.com/in", "authorization_header": "Basic c2VjcmV0"},
			"events_requested": []string{caep + "session-revoked"},
		})
		test(t, h, r, p)
	})
}

// revokes ends a session of each user, a second apart.
func (r *ssfReceiver) revokes(users ...string) {
	r.t.Helper()
	for _, user := range users {
		r.do(r.harness.key, "POST", "/v1/sessions/revoke", m{"session_id": r.login(user).str("session.session_id")}).want(200)
		time.Sleep(time.Second)
	}
}

// usersOf returns of whom the SETs tell.
func (r *ssfReceiver) usersOf(tokens []string) (users []string) {
	r.t.Helper()
	for _, token := range tokens {
		if u, ok := r.read(token).sub["user"].(map[string]any); ok {
			users = append(users, u["sub"].(string))
		}
	}
	return users
}

func (r *ssfReceiver) status() *reply {
	r.t.Helper()
	return r.do(r.key, "GET", "/ssf/status?stream_id="+r.id, nil).want(200)
}

func TestSSFPush(t *testing.T) {
	pushTo(t, func(*node.Config) {}, func(t *testing.T, h *harness, r *ssfReceiver, p *pushed) {
		r.revokes("a", "b")
		if got := r.usersOf(p.accepted()); !slices.Equal(got, []string{"a", "b"}) {
			t.Fatalf("told of %v", got)
		}
		for _, g := range p.all() {
			if g.authorization != "Basic c2VjcmV0" || g.header.Get("Content-Type") != "application/secevent+jwt" || g.header.Get("Accept") != "application/json" {
				t.Errorf("headers %v", g.header)
			}
		}
		// In trouble, each in another way that says nothing of the SET: it comes again, as
		// it was, and the next after it.
		for name, answer := range map[string]struct {
			status int
			body   string
		}{
			"down": {0, ""}, "500": {500, ""}, "429": {429, ""}, "no key": {400, `{"err":"invalid_key"}`}, "stranger": {400, `{"err":"authentication_failed"}`},
			"401": {401, ""}, "404": {404, "not here"}, "400 of a proxy": {400, "<html>"}, "redirect": {302, ""},
		} {
			p.answers(answer.status, answer.body)
			r.revokes("first", "second")
			time.Sleep(20 * time.Second)
			tries := p.all()
			if len(tries) < 4 || slices.ContainsFunc(tries, func(g pushedSET) bool { return g.token != tries[0].token }) {
				t.Errorf("%s: %d tries", name, len(tries))
			}
			p.answers(202, "")
			time.Sleep(30 * time.Second)
			if got := r.usersOf(p.accepted()); !slices.Equal(got, []string{"first", "second"}) || p.accepted()[0] != tries[0].token {
				t.Errorf("%s: then told of %v", name, got)
			}
		}
		if s := r.status(); s.str("status") != "enabled" || s.at("reason") != nil {
			t.Errorf("%s", s.Raw)
		}
	})
}

// What a receiver says of a SET itself counts, after some tries; and then the next is
// told.
func TestSSFPushRefused(t *testing.T) {
	pushTo(t, slowBeats, func(t *testing.T, h *harness, r *ssfReceiver, p *pushed) {
		p.set(func(token string) (int, string) {
			if slices.Equal(r.usersOf([]string{token}), []string{"bad"}) {
				return 400, `{"err":"invalid_request","description":"no such user"}`
			}
			return 202, ""
		})
		time.Sleep(time.Minute)
		r.revokes("bad", "good")
		time.Sleep(2 * time.Hour)
		if got := r.usersOf(p.accepted()); !slices.Equal(got, []string{"good"}) {
			t.Errorf("told of %v", got)
		}
		if d := r.status().at("delivery").([]any)[0].(map[string]any); d["dead_letters"] != 1.0 {
			t.Errorf("delivery %v", d)
		}
		// 410: the receiver is gone. It is told so, as far as that goes, and asks for more.
		p.answers(410, "")
		r.revokes("later")
		time.Sleep(time.Minute)
		if s := r.status(); s.str("status") != "disabled" || s.str("reason") == "" {
			t.Fatalf("%s", s.Raw)
		}
		p.answers(202, "")
		time.Sleep(5 * time.Minute)
		if all := p.accepted(); len(all) != 1 || r.read(all[0]).event != ssfEvent+"stream-updated" || r.read(all[0]).payload["status"] != "disabled" {
			t.Fatalf("told of %v", all)
		}
		h.do(r.key, "POST", "/ssf/status", m{"stream_id": r.id, "status": "enabled"}).want(200)
		time.Sleep(time.Minute)
		if got := r.usersOf(p.accepted()); !slices.Equal(got, []string{"later"}) || r.status().str("status") != "enabled" {
			t.Errorf("told of %v", got)
		}
	})
}

func TestSSFPushStatus(t *testing.T) {
	pushTo(t, func(*node.Config) {}, func(t *testing.T, h *harness, r *ssfReceiver, p *pushed) {
		set := func(status string) {
			h.do(r.key, "POST", "/ssf/status", m{"stream_id": r.id, "status": status}).want(200)
			time.Sleep(2 * time.Second)
		}
		wantUsers := func(when string, want ...string) {
			t.Helper()
			if got := r.usersOf(p.accepted()); !slices.Equal(got, want) {
				t.Errorf("%s: told of %v, want %v", when, got, want)
			}
			p.answers(202, "")
		}
		set("paused")
		r.revokes("kept")
		h.do(r.key, "POST", "/ssf/verify", m{"stream_id": r.id, "state": "hello"}).want(204)
		time.Sleep(5 * time.Second)
		if len(p.all()) != 0 {
			t.Errorf("paused, and told of %v", p.all())
		}
		set("enabled")
		var verified bool
		for _, token := range p.accepted() {
			e := r.read(token)
			verified = verified || e.event == ssfEvent+"verification" && e.payload["state"] == "hello"
		}
		if !verified {
			t.Error("no verification")
		}
		wantUsers("enabled", "kept")
		set("disabled")
		r.revokes("dropped")
		set("enabled")
		r.revokes("new")
		wantUsers("enabled anew", "new")
		// What was not pushed is polled, and the other way around.
		p.answers(500, "")
		r.revokes("x", "y")
		h.do(r.key, "PATCH", "/ssf/streams", m{"stream_id": r.id, "delivery": m{"method": polling}}).want(200)
		time.Sleep(5 * time.Second)
		p.answers(202, "")
		tokens := r.now()
		order := byPosition(tokens)
		if len(order) != 2 || !slices.Equal(r.usersOf([]string{tokens[order[0]], tokens[order[1]]}), []string{"x", "y"}) {
			t.Fatalf("polled %v", order)
		}
		if left := r.now(order[0]); len(left) != 1 {
			t.Errorf("%d left", len(left))
		}
		h.do(r.key, "PATCH", "/ssf/streams", m{"stream_id": r.id, "delivery": m{"method": pushing, "endpoint_url": "https://new.example.com/"}}).want(200)
		time.Sleep(5 * time.Second)
		if g := p.all(); len(g) != 1 || g[0].authorization != "" {
			t.Errorf("the header of the old address: %v", g)
		}
		wantUsers("pushed again", "y")
		from := h.login("x").str("revision")
		r.revokes("again")
		wantUsers("before the replay", "again")
		h.do(r.key, "POST", "/ssf/replay", m{"stream_id": r.id, "from": from}).want(200)
		time.Sleep(5 * time.Second)
		wantUsers("replayed", "again")
		// Who takes the key away has the receiver told no more.
		for _, k := range h.do(h.key, "GET", "/v1/apps/acme/api-keys", nil).want(200).at("keys").([]any) {
			if k := k.(map[string]any); slices.Equal(k["scopes"].([]any), []any{api.ScopeSSF}) {
				h.do(h.key, "DELETE", "/v1/apps/acme/api-keys/"+k["id"].(string), nil).want(200)
			}
		}
		r.revokes("secret")
		time.Sleep(time.Minute)
		wantUsers("after its key was revoked")
	})
}
