package compat

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// capability is a row of the table: something that Streambird (S), Stytch (Y),
// Clerk (C) or the usual tutorial (U) has, and a check of it over HTTP.
type capability struct {
	id, text string
	check    func(t *testing.T, w *world)
	// at is when the check can be made.
	at phase
	// shown is where it is shown instead, or as well.
	shown string
}

type phase int

const (
	now        phase = iota
	inAMinute        // sessions of a minute, made at the beginning, have expired
	idle             // one that nobody used has expired
	withNobody       // the node was killed
	after            // and started again
)

// world is what the rows look at: a node with an app of each vendor's profile.
type world struct {
	n                                *node
	streambird, stytch, clerk, plain client
	began                            time.Time

	// Made at the beginning, in the app plain unless it says otherwise.
	minute, used, unused, lasting *reply
	clerkMinute                   *reply
	keys                          map[string]jose.JSONWebKeySet // by app, as fetched once
	jwts                          map[string]string             // by app
}

func newWorld(t *testing.T) *world {
	n := newNode(t)
	w := &world{n: n, began: time.Now(), keys: map[string]jose.JSONWebKeySet{}, jwts: map[string]string{}}
	w.streambird = n.newApp(t, "streambird", object{"jwt_profile": "streambird"})
	w.stytch = n.newApp(t, "stytch", object{"jwt_profile": "stytch", "jwt_alg": "RS256"})
	w.clerk = n.newApp(t, "clerk", object{"jwt_profile": "clerk", "jwt_ttl_seconds": 60})
	w.plain = n.newApp(t, "plain", nil)
	w.minute = w.login(t, w.plain, object{"session_duration_minutes": 1})
	w.clerkMinute = w.login(t, w.clerk, object{"session_duration_minutes": 1})
	w.used = w.login(t, w.plain, object{"idle_timeout_minutes": 1})
	w.unused = w.login(t, w.plain, object{"idle_timeout_minutes": 1})
	w.lasting = w.login(t, w.plain, nil)
	for app, c := range map[string]client{"streambird": w.streambird, "stytch": w.stytch, "clerk": w.clerk, "plain": w.plain} {
		w.keys[app] = jwksOf(t, n, "/v1/apps/"+app+"/jwks")
		w.jwts[app] = w.login(t, c, nil).SessionJWT
	}
	return w
}

// login makes a session of ada.
func (w *world) login(t *testing.T, c client, more object) *reply {
	t.Helper()
	body := object{"user_id": "ada"}
	for k, v := range more {
		body[k] = v
	}
	return c.do(t, "POST", "/v1/sessions", body).want(t, http.StatusCreated)
}

// again is the session of a token or a JWT, as authenticate has it.
func authenticate(t *testing.T, c client, by string, value any) *reply {
	t.Helper()
	return c.do(t, "POST", "/v1/sessions/authenticate", object{by: value})
}

// anonymous asks without an API key.
func (w *world) anonymous(t *testing.T, method, path string, header ...string) *reply {
	t.Helper()
	return client{base: w.n.base}.do(t, method, path, nil, header...)
}

func jwksOf(t *testing.T, n *node, path string) (set jose.JSONWebKeySet) {
	t.Helper()
	r := client{base: n.base}.do(t, "GET", path, nil).want(t, http.StatusOK)
	if err := json.Unmarshal(r.raw, &set); err != nil || len(set.Keys) == 0 {
		t.Fatalf("%s: %d keys, %v", path, len(set.Keys), err)
	}
	return set
}

// verifies checks the JWT with a library of others, by the keys alone.
func verifies(set jose.JSONWebKeySet, jwt string) (claims map[string]any, err error) {
	obj, err := jose.ParseSigned(jwt, []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA})
	if err != nil {
		return nil, err
	}
	keys := set.Key(obj.Signatures[0].Header.KeyID)
	if len(keys) != 1 {
		return nil, fmt.Errorf("%d keys of that kid", len(keys))
	}
	data, err := obj.Verify(keys[0])
	if err != nil {
		return nil, err
	}
	return claims, json.Unmarshal(data, &claims)
}

// at reads a path of members from a raw answer.
func (r *reply) at(path string) any {
	var v any
	_ = json.Unmarshal(r.raw, &v) // what is no JSON has no members
	for name := range strings.SplitSeq(path, ".") {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

// isOpaque fails the test unless the token says nothing of its session.
func isOpaque(t *testing.T, token, user, sid string) {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || strings.Contains(token, ".") || strings.Contains(string(raw), user) || strings.Contains(token, sid) {
		t.Errorf("the token says something: %v", err)
	}
	if id, err := base64.RawURLEncoding.DecodeString(sid); err != nil || strings.Contains(string(raw), string(id)) {
		t.Errorf("the token has the session id in it (%v)", err)
	}
}

// TestCapabilities is the table of what the systems it replaces can do, held
// against a running program.
func TestCapabilities(t *testing.T) {
	t.Parallel() // sessions have to fall idle, and JWTs to expire
	all := slices.Concat(streambirdRows, stytchRows, clerkRows, tutorialRows)
	w := newWorld(t)
	result := map[string]string{}
	wait := func(d time.Duration) { time.Sleep(time.Until(w.began.Add(d))) }
	for p := now; p <= after; p++ {
		switch {
		case testing.Short() && (p == inAMinute || p == idle):
			continue
		case p == inAMinute:
			// Meanwhile one of the two idle sessions is used.
			for range 6 {
				time.Sleep(9 * time.Second)
				w.plain.verify(t, w.used.SessionToken).want(t, http.StatusNoContent)
			}
			wait(61 * time.Second)
		case p == idle:
			w.plain.verify(t, w.used.SessionToken).want(t, http.StatusNoContent)
			wait(84 * time.Second) // a minute, a tenth of it, and the lease
		case p == withNobody:
			if err := w.n.kill(); err != nil {
				t.Fatal(err)
			}
		case p == after:
			w.n.start(t)
		}
		for _, c := range all {
			if c.check != nil && c.at == p {
				result[c.id] = map[bool]string{true: "pass", false: "FAIL"}[t.Run(c.id, func(t *testing.T) { c.check(t, w) })]
			}
		}
	}
	printCapabilities(t, all, result)
}

func printCapabilities(t *testing.T, all []capability, result map[string]string) {
	var out strings.Builder
	count := map[string]int{}
	for _, c := range all {
		verdict := result[c.id]
		switch {
		case c.check != nil && verdict == "":
			verdict = "NOT TESTED: -short"
		case c.check == nil:
			verdict = "see " + c.shown
		case c.shown != "":
			verdict += "; see also " + c.shown
		}
		count[strings.SplitN(strings.SplitN(verdict, ":", 2)[0], ";", 2)[0]]++
		fmt.Fprintf(&out, "%-4s %-78s %s\n", c.id, c.text, verdict)
	}
	t.Logf("%d capabilities: %d pass, %d FAIL\n%s", len(all), count["pass"], count["FAIL"], &out)
}

// TestCapabilityRows: no row is missing, twice, or without anything to show.
func TestCapabilityRows(t *testing.T) {
	var got []string
	for _, c := range slices.Concat(streambirdRows, stytchRows, clerkRows, tutorialRows) {
		got = append(got, c.id)
		if c.check == nil && c.shown == "" || c.text == "" {
			t.Errorf("%s shows nothing", c.id)
		}
	}
	var want []string
	for _, v := range []struct {
		letter string
		rows   int
	}{{"S", 24}, {"Y", 17}, {"C", 15}, {"U", 18}} {
		for i := range v.rows {
			want = append(want, fmt.Sprint(v.letter, i+1))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("rows %v, want %v", got, want)
	}
}
