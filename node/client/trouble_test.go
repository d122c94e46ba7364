package client_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/client"
	"github.com/revocast/revocast/signer"
)

// TestForeignToken: the token of another system may have dots. It is no JWT for that,
// and nobody who came along with an import is logged out.
func TestForeignToken(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c, _ := w.following()
		w.ready(c)
		tokens := []string{"s:Vq7.x0Zp", "a.b.c", "ey.x", "a.b.c.d.e"}
		var body bytes.Buffer
		for _, token := range tokens {
			_ = json.NewEncoder(&body).Encode(api.ImportSession{Token: token, UserID: "ada", SessionDurationMinutes: 60, StartedAt: new(time.Now())})
		}
		r, err := http.NewRequestWithContext(t.Context(), "POST", "/v1/sessions/import", &body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+w.access.APIKey)
		r.Header.Set("Content-Type", "application/x-ndjson")
		rec := newRecorder()
		w.nodes[0].all.ServeHTTP(rec, r)
		if !strings.Contains(rec.body.String(), fmt.Sprintf(`"imported":%d`, len(tokens))) {
			t.Fatalf("import: %s", rec.body.String())
		}
		for _, token := range tokens {
			if s, err := c.Verify(t.Context(), token); err != nil || s.User != "ada" {
				t.Errorf("%s: %v, %v", token, s, err)
			}
			if r := get(c.Require(who), "Cookie", "session="+token); r.Code != http.StatusOK {
				t.Errorf("%s in a cookie: %d %s", token, r.Code, r.Body)
			}
		}
		s, err := c.Verify(t.Context(), "s:Vq7.nobody")
		wantErr(t, "another", s, err, client.ErrInvalid)
	})
}

// prover makes proofs of possession of a key.
type prover struct {
	t      *testing.T
	key    *signer.Key
	header string
}

func newProver(t *testing.T) *prover {
	k := mustKey(t)
	jwk := k.JWK()
	return &prover{t, k, fmt.Sprintf(`{"typ":"dpop+jwt","alg":"ES256","jwk":{"kty":"EC","crv":"P-256","x":%q,"y":%q}}`, jwk.X, jwk.Y)}
}

// proof is one for a GET of the URL with the credential.
func (p *prover) proof(url, credential string) string {
	sum := sha256.Sum256([]byte(credential))
	return raw(p.t, p.key, p.header, fmt.Sprintf(`{"jti":%q,"htm":"GET","htu":%q,"iat":%d,"ath":%q}`,
		rand.Text(), url, time.Now().Unix(), base64.RawURLEncoding.EncodeToString(sum[:])))
}

// trip is a RoundTripper that is a function.
type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestProofOnce: a proof counts once, so no request with one is sent twice: neither
// because its user was logged out, nor because an answer was lost.
func TestProofOnce(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		var lose bool
		below := w.http().Transport
		c, _ := w.following(func(c *client.Client) {
			c.HTTP = &http.Client{Transport: trip(func(r *http.Request) (*http.Response, error) {
				answer, err := below.RoundTrip(r)
				if err == nil && lose && strings.HasSuffix(r.URL.Path, "/authenticate") {
					_ = answer.Body.Close()
					return nil, errors.New("the connection is gone")
				}
				return answer, err
			})}
		})
		w.ready(c)
		p := newProver(t)
		bound := func() *api.SessionAnswer {
			made, err := c.Create(t.Context(), &api.CreateSession{UserID: "ada", Bind: &api.Bind{DPoPJKT: p.key.ID}})
			if err != nil {
				t.Fatal(err)
			}
			return made
		}
		shows := func(credential string) (int, string) {
			r := get(c.Require(who), "Authorization", "DPoP "+credential, "DPoP", p.proof("http://shop.example/cart", credential))
			return r.Code, r.Body.String()
		}
		before := bound()
		w.revokes(w.nodes[0], api.Revoke{UserID: "ada"})
		w.revokes(w.nodes[0], api.Revoke{UserID: "eve"})
		w.await("it is heard", func() bool { status, _ := shows(before.SessionJWT); return status == 401 })
		after := bound()
		for _, credential := range []string{after.SessionToken, after.SessionJWT} {
			for range 2 {
				if status, body := shows(credential); status != 200 {
					t.Errorf("logged in again: %d %s", status, body)
				}
			}
		}
		lose = true
		asked := w.nodes[0].asked("/v1/sessions/authenticate")
		if status, body := shows(after.SessionToken); status != 503 {
			t.Errorf("its answer was lost: %d %s", status, body)
		}
		if n := w.nodes[0].asked("/v1/sessions/authenticate") - asked; n != 1 {
			t.Errorf("a proof was sent %d times", n)
		}
	})
}

// TestProofElsewhere: of a question with a proof the node must know what concerns the
// session, and no more: another region may be out of its reach.
func TestProofElsewhere(t *testing.T) {
	play(t, func(t *testing.T, a *act) {
		at := time.Now()
		for _, e := range []api.Event{
			{Region: "eu", Stream: 2, Revision: "eu:0:7", UserHash: events.UserHash("acme", "eve")},
			{Region: "us", Stream: 3, Revision: "us:0:3", UserHash: events.UserHash("acme", "eve")},
			{Region: "eu", Stream: 2, Revision: "us:0:2", UserHash: events.UserHash("acme", "bob")}, // recorded there
		} {
			kind := api.EventUserRevoked
			e.AppID, e.At, e.RevokedAt = "acme", at, &at
			a.say(event(kind, "eu:0:7,us:0:3", e))
		}
		a.set(func() { a.says = &api.Session{SessionID: a.ids[0], AppID: "acme", UserID: "ada", StartedAt: at} })
		jwt := a.jwt(a.keys[0], signer.Native, func(c *signer.Claims) { c.SessionID = a.ids[0] })
		for _, one := range []struct{ credential, want string }{
			{events.NewToken(2).Reveal(), `{"at_least":"eu:0:7,us:0:2"}`}, {jwt, `{"at_least":"eu:0:7,us:0:2"}`},
			{events.NewToken(3).Reveal(), `{"at_least":"us:0:3"}`}, {"foreign", `{"at_least":"eu:0:7,us:0:3"}`},
		} {
			a.set(func() { a.asked = nil })
			_, _ = a.c.VerifyWith(t.Context(), one.credential, client.Options{Proof: &api.DPoPProof{Proof: "x"}})
			a.set(func() {
				if len(a.asked) != 1 || a.asked[0] != one.want {
					t.Errorf("asked with %q, want %s", a.asked, one.want)
				}
			})
		}
	})
}

// TestProofBelowPrefix: a proof is about the URL that the client asked for, whatever
// a mux took off it before.
func TestProofBelowPrefix(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c, _ := w.following()
		p := newProver(t)
		made, err := c.Create(t.Context(), &api.CreateSession{UserID: "ada", Bind: &api.Bind{DPoPJKT: p.key.ID}})
		if err != nil {
			t.Fatal(err)
		}
		h := http.StripPrefix("/cart", c.Require(who))
		r := get(h, "Authorization", "DPoP "+made.SessionToken, "DPoP", p.proof("http://shop.example/cart", made.SessionToken))
		if r.Code != 200 {
			t.Errorf("%d %s", r.Code, r.Body)
		}
	})
}

// TestOwnMistake: what the API refuses because of how this service asks, or of what
// the node asked does not know, says nothing of who is logged in.
func TestOwnMistake(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c, _ := w.following()
		w.ready(c)
		made := login(t, c, "ada")
		for name, need := range map[string]api.Require{"no such level": {AAL: "aal9"}, "nothing": {}, "no such method": {AMR: []string{"a b"}}} {
			r := get(c.RequireLogin(need, who), "Authorization", "Bearer "+made.SessionJWT)
			if r.Code != 503 {
				t.Errorf("%s: %d %s", name, r.Code, r.Body)
			}
		}
	})
	play(t, func(t *testing.T, a *act) {
		// The node that is asked has not heard of the region us.
		at := time.Now()
		a.say(event(api.EventUserRevoked, "eu:0:6,us:0:3", api.Event{
			AppID: "acme", Region: "eu", Stream: 2, Revision: "us:0:3", At: at, RevokedAt: &at, UserHash: events.UserHash("acme", "ada"),
		}))
		a.set(func() {
			a.refuses = &api.Error{
				StatusCode: 400, ErrorType: api.InvalidArgument, ErrorMessage: `consistency.at_least: no stream "us"`,
				ErrorDetails: map[string]any{"field": "consistency"},
			}
		})
		a.expect("logged out, recorded in a region of which the node does not know", a.ids[0], client.ErrStale)
	})
}

// TestNewIssuer: nodes whose public URL was changed make JWTs that are good; nobody is
// logged out until the client happens to ask for the keys again.
func TestNewIssuer(t *testing.T) {
	keyTest(t, func(t *testing.T, v *vault, c *client.Client) {
		k := v.keys[0]
		if err := v.good(c, k); err != nil {
			t.Fatal(err)
		}
		const moved = "https://login.example.com/v1/apps/acme"
		keys, err := json.Marshal(signer.NewRing(k).JWKS(time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		at := func(issuer string) string {
			return v.jwt(k, signer.Native, func(c *signer.Claims) { c.Issuer = issuer })
		}
		if s, err := c.Verify(t.Context(), at(moved)); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("before: %v, %v", s, err)
		}
		time.Sleep(10 * time.Second)
		v.set(func() { v.body = `{"issuer":"` + moved + `",` + string(keys[1:]) })
		if _, err := c.Verify(t.Context(), at(moved)); err != nil {
			t.Errorf("after: %v", err)
		}
		fetches := v.fetches()
		for range 100 {
			s, err := c.Verify(t.Context(), at("https://elsewhere.example.com"))
			wantErr(t, "of another", s, err, client.ErrInvalid)
		}
		if n := v.fetches() - fetches; n > 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

// TestStolenKeyStays: the JWTs of a key that was stolen are refused here also once no
// list has the key any more: a node that is behind would take them.
func TestStolenKeyStays(t *testing.T) {
	play(t, func(t *testing.T, a *act) {
		stolen := a.keys[0]
		jwt := a.jwt(stolen, signer.Native, func(c *signer.Claims) { c.SessionID = a.ids[0] })
		if _, err := a.c.Verify(t.Context(), jwt); err != nil {
			t.Fatal(err)
		}
		a.say(event(api.EventKeyCompromised, "_config:0:2,eu:0:5", api.Event{AppID: "acme", KID: stolen.ID, Revision: "_config:0:2"}))
		next := a.add(signer.ES256)
		a.set(func() {
			a.keys = []*signer.Key{next}
			a.says = &api.Session{SessionID: a.ids[0], AppID: "acme", UserID: "ada", StartedAt: time.Now()}
		})
		for _, wait := range []time.Duration{0, 6 * time.Minute} { // the second, once the list is new
			time.Sleep(wait)
			s, err := a.c.Verify(t.Context(), a.jwt(stolen, signer.Native, func(c *signer.Claims) { c.SessionID = a.ids[0] }))
			wantErr(t, fmt.Sprintf("after %v", wait), s, err, client.ErrInvalid)
		}
		a.set(func() {
			if len(a.asked) != 0 {
				t.Errorf("the API was asked %d times", len(a.asked))
			}
		})
	})
}

// TestNoNode: whatever answers 200 to everything is no node. Nobody was logged in or
// out by it.
func TestNoNode(t *testing.T) {
	for _, body := range []string{"{}", "null", `{"status":"ok"}`, "[]", "<html>", ""} {
		c := &client.Client{Base: "https://elsewhere", App: "acme", APIKey: "sk_x", HTTP: &http.Client{
			Transport: trip(func(r *http.Request) (*http.Response, error) {
				w := newRecorder()
				w.body.WriteString(body)
				return w.response(r), nil
			}),
		}}
		_, create := c.Create(t.Context(), &api.CreateSession{UserID: "ada"})
		_, revoke := c.Revoke(t.Context(), &api.Revoke{UserID: "ada"})
		_, authenticate := c.Authenticate(t.Context(), &api.Authenticate{SessionToken: "x"})
		_, get := c.Get(t.Context(), "Arc7vRFKASUkPSUVNV2IsA")
		_, list := c.List(t.Context(), "ada", client.ListOptions{})
		for name, err := range map[string]error{"create": create, "revoke": revoke, "authenticate": authenticate, "get": get, "list": list} {
			if err == nil {
				t.Errorf("%q: %s has no error", body, name)
			}
		}
		s, err := c.Verify(t.Context(), "token")
		wantErr(t, body, s, err, client.ErrStale)
	}
}

// TestTokenInPath: a token that is taken for the id of a session reaches neither the
// URL of a request nor an error.
func TestTokenInPath(t *testing.T) {
	token := events.NewToken(2).Reveal()
	c := &client.Client{Base: "https://n1", App: "acme", APIKey: "sk_x", HTTP: &http.Client{
		Transport: trip(func(r *http.Request) (*http.Response, error) {
			t.Errorf("asked for %s", r.URL)
			return nil, errors.New("no answer")
		}),
	}}
	for _, id := range []string{token, "", "x", "../apps"} {
		_, err := c.Get(t.Context(), id)
		if e, ok := errors.AsType[*api.Error](err); !ok || e.ErrorType != api.SessionNotFound || id != "" && strings.Contains(err.Error(), id) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// TestResumedUnheard: that an app is suspended counts for as long as the feed would say
// that it is so no more. Without one a node is asked that knows at least as much.
func TestResumedUnheard(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c, _ := w.following()
		w.ready(c)
		made := login(t, c, "ada")
		w.must(w.nodes[0], w.admin, "POST", "/v1/apps/acme/suspend", nil, nil)
		w.refuses("suspended", c, made.SessionJWT, client.ErrSuspended)
		w.nodes[0].fails("/v1/events", http.StatusServiceUnavailable)
		w.nodes[0].cut()
		time.Sleep(20 * time.Second)
		for _, credential := range []string{made.SessionToken, made.SessionJWT} {
			s, err := c.Verify(t.Context(), credential)
			wantErr(t, "suspended, without a feed", s, err, client.ErrSuspended)
		}
		w.must(w.nodes[0], w.admin, "POST", "/v1/apps/acme/resume", nil, nil)
		for _, credential := range []string{made.SessionJWT, made.SessionToken} {
			if _, err := c.Verify(t.Context(), credential); err != nil && !errors.Is(err, client.ErrStale) || err != nil && credential == made.SessionToken {
				t.Errorf("resumed: %v", err)
			}
		}
	})
	play(t, func(t *testing.T, a *act) {
		jwt := a.jwt(a.keys[0], signer.Native, func(c *signer.Claims) { c.SessionID = a.ids[0] })
		verify := func(name, credential string, want error, asked ...string) {
			t.Helper()
			a.set(func() { a.asked = nil })
			_, err := a.c.Verify(t.Context(), credential)
			a.set(func() {
				if !errors.Is(err, want) || !slices.Equal(a.asked, asked) {
					t.Errorf("%s: %v, want %v; asked with %q, want %q", name, err, want, a.asked, asked)
				}
			})
		}
		a.set(func() {
			a.refuses = &api.Error{StatusCode: 403, ErrorType: api.AppSuspended}
			a.says = &api.Session{SessionID: a.ids[0], AppID: "acme", UserID: "ada", StartedAt: time.Now()}
		})
		const knows = `{"at_least":"_config:0:1"}`
		verify("suspended, JWT", jwt, client.ErrSuspended, knows)
		verify("suspended, token", "token", client.ErrSuspended, "")
		a.set(func() { a.refuses = nil })
		verify("resumed, token", "token", nil, "", knows)
		verify("resumed, token again", "token", nil, "")
		verify("resumed, JWT", jwt, client.ErrStale) // there is no lease, and the policy is Refuse
	}, func(s *script) { s.know.AppState, s.status["/v1/events"] = "suspended", 503 })
	play(t, func(t *testing.T, a *act) {
		jwt := a.jwt(a.keys[0], signer.Native, func(c *signer.Claims) { c.SessionID = a.ids[0] })
		a.say(event(api.EventAppSuspended, "_config:0:2,eu:0:5", api.Event{AppID: "acme", Revision: "_config:0:2"}))
		if _, err := a.c.Verify(t.Context(), jwt); !errors.Is(err, client.ErrSuspended) {
			t.Errorf("with a lease: %v", err)
		}
		a.set(func() {
			a.mute = true
			a.says = &api.Session{SessionID: a.ids[0], AppID: "acme", UserID: "ada", StartedAt: time.Now()}
		})
		time.Sleep(20 * time.Second)
		if _, err := a.c.Verify(t.Context(), jwt); err != nil {
			t.Errorf("without one, and a node says that it is good: %v", err)
		}
	})
}
