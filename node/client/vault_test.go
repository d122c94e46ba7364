package client_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/revocast/revocast/node/client"
	"github.com/revocast/revocast/signer"
)

// vault has the app's signing keys, so that JWTs can be made that no node would
// make, and serves what is public of them as a node does.
type vault struct {
	t   testing.TB
	now func() time.Time

	mu      sync.Mutex // guards what follows
	keys    []*signer.Key
	status  int // of every answer; 0: 200
	body    string
	fetched int // how often the keys were asked for
	hold    chan struct{}
}

const issuer = "https://id.example.com/v1/apps/acme"

func newVault(t testing.TB, algs ...signer.Alg) *vault {
	v := &vault{t: t, now: time.Now}
	for _, alg := range algs {
		v.add(alg)
	}
	return v
}

func (v *vault) add(alg signer.Alg) *signer.Key {
	k, err := signer.GenerateKey(alg)
	if err != nil {
		v.t.Fatal(err)
	}
	v.set(func() { v.keys = append(v.keys, k) })
	return k
}

// set changes what the vault does.
func (v *vault) set(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
}

func (v *vault) fetches() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.fetched
}

// RoundTrip implements http.RoundTripper.
func (v *vault) RoundTrip(r *http.Request) (*http.Response, error) {
	w := newRecorder()
	v.mu.Lock()
	hold, status, body, keys := v.hold, v.status, v.body, v.keys
	if strings.HasSuffix(r.URL.Path, "/jwks") {
		v.fetched++
	}
	v.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	switch {
	case status != 0:
		w.status = status
	case body != "":
		w.body.WriteString(body)
	case r.URL.Path == "/v1/apps/acme/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": issuer})
	case r.URL.Path == "/v1/apps/acme/jwks":
		_ = json.NewEncoder(w).Encode(signer.NewRing(keys...).JWKS(v.now()))
	default:
		v.t.Errorf("asked for %s", r.URL.Path)
		w.status = http.StatusNotFound
	}
	return w.response(r), nil
}

// client returns one that judges JWTs by the vault's keys alone.
func (v *vault) client(changes ...func(*client.Client)) *client.Client {
	c := &client.Client{Base: "https://vault", App: "acme", OnStale: client.Accept, HTTP: &http.Client{Transport: v}}
	for _, change := range changes {
		change(c)
	}
	return c
}

// claims are those of a JWT that is good for 5 minutes.
func (v *vault) claims() signer.Claims {
	now := v.now()
	return signer.Claims{
		Issuer: issuer, App: "acme", Subject: "ada", SessionID: "Arc7vRFKASUkPSUVNV2IsA",
		IssuedAt: now, Expires: now.Add(5 * time.Minute),
		SessionStarted: now, SessionLastAccessed: now, SessionExpires: now.Add(time.Hour), AuthTime: now,
	}
}

// jwt makes one, after the changes.
func (v *vault) jwt(k *signer.Key, p signer.Profile, changes ...func(*signer.Claims)) string {
	v.t.Helper()
	c := v.claims()
	if p != signer.Native {
		c.Issuer = publicURL
	}
	for _, change := range changes {
		change(&c)
	}
	jwt, err := signer.Mint(k, p, c)
	if err != nil {
		v.t.Fatalf("mint: %v", err)
	}
	return jwt
}
