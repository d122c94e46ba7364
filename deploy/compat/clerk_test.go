package compat

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/clerk/clerk-sdk-go/v2"
	clerkhttp "github.com/clerk/clerk-sdk-go/v2/http"
	"github.com/clerk/clerk-sdk-go/v2/jwks"
	"github.com/clerk/clerk-sdk-go/v2/jwt"
	clerksession "github.com/clerk/clerk-sdk-go/v2/session"
)

// clerkHost is where Clerk's libraries believe without being told that an issuer
// is one of Clerk's.
const clerkHost = "clerk.example.com"

// TestClerkNode runs all session calls of @clerk/backend: rows C1, C4, C6 to C11
// and C15.
func TestClerkNode(t *testing.T) {
	needPackages(t, "@clerk/backend")
	n := shared(t)
	t.Parallel() // a JWT has to expire
	c := n.newApp(t, "clerk-node", object{"jwt_profile": "clerk"})
	c.do(t, "PUT", "/v1/apps/clerk-node/templates/billing", object{"ttl_seconds": 600, "claims": object{"plan": "pro"}}).want(t, http.StatusOK)
	elsewhere := newNode(t, "--public-url", "https://"+clerkHost)
	shop := elsewhere.newApp(t, "shop", object{"jwt_profile": "clerk", "jwt_ttl_seconds": 30})
	var results []struct{ Name, Trouble string }
	runScript(t, "clerk.mjs", object{
		"base": n.base, "secretKey": c.key, "adminKey": n.boot.AdminKey, "app": "clerk-node", "user": "ada", "pem": publicPEM(t, c.jwks(t)), "slow": !testing.Short(),
		"cookie": object{
			"base": elsewhere.base, "secretKey": shop.key,
			"publishableKey": "pk_live_" + base64.StdEncoding.EncodeToString([]byte(clerkHost+"$")),
		},
	}, &results)
	tab := newTable(t, "call of @clerk/backend")
	for _, r := range results {
		tab.row(r.Trouble, r.Name)
	}
	if len(results) < 25 {
		t.Errorf("only %d calls were made", len(results))
	}
}

// jwks returns the keys of the client's app, where Clerk's libraries look.
func (c client) jwks(t *testing.T) *clerk.JSONWebKeySet {
	t.Helper()
	set, err := (&jwks.Client{Backend: c.clerk()}).Get(t.Context(), &jwks.GetParams{})
	if err != nil {
		t.Fatalf("get the JWKS: %v", err)
	}
	return set
}

// clerk returns the client as a backend of Clerk's library for Go.
func (c client) clerk() clerk.Backend {
	return clerk.NewBackend(&clerk.BackendConfig{URL: clerk.String(c.base + "/clerk/v1"), Key: clerk.String(c.key)})
}

// publicPEM returns the first key of the set as SPKI.
func publicPEM(t *testing.T, set *clerk.JSONWebKeySet) string {
	t.Helper()
	key, ok := set.Keys[0].Key.(*rsa.PublicKey)
	if !ok {
		t.Fatalf("the key is a %T", set.Keys[0].Key)
	}
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).Set(key.N), E: key.E})
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// TestClerkGo runs all session calls of clerk-sdk-go, its verification of JWTs and
// its HTTP middleware.
func TestClerkGo(t *testing.T) {
	n := shared(t)
	c := n.newApp(t, "clerk-go", object{"jwt_profile": "clerk"})
	backend := c.clerk()
	sessions := &clerksession.Client{Backend: backend}
	ctx := t.Context()
	tab := newTable(t, "call of clerk-sdk-go")

	s, err := sessions.Create(ctx, &clerksession.CreateParams{UserID: "ada"})
	if err != nil {
		t.Fatalf("session.Create: %v", err)
	}
	tab.row(unless(s.Object == "session" && s.UserID == "ada" && s.Status == "active" && s.ExpireAt > s.CreatedAt &&
		time.Since(time.UnixMilli(s.CreatedAt)).Abs() < time.Minute, "%+v", s), "session.Create")
	got, err := sessions.Get(ctx, s.ID)
	tab.row(unless(err == nil && got.ID == s.ID && got.UserID == "ada" && got.LatestActivity != nil, "%+v, %v", got, err), "session.Get")
	_, err = sessions.Get(ctx, "sess_24tZ6tlJ7CxlTwB6Zoj6SHQ9vU3")
	tab.row(wantClerkError(err, http.StatusNotFound, "resource_not_found"), "session.Get: nobody knows it")
	list, err := sessions.List(ctx, &clerksession.ListParams{UserID: clerk.String("ada"), Status: clerk.String("active"), ListParams: clerk.ListParams{Limit: clerk.Int64(5), Offset: clerk.Int64(0)}})
	tab.row(unless(err == nil && list.TotalCount == 1 && len(list.Sessions) == 1 && list.Sessions[0].ID == s.ID, "%+v, %v", list, err), "session.List")
	minted, err := sessions.CreateToken(ctx, &clerksession.CreateTokenParams{ID: s.ID})
	if err != nil {
		t.Fatalf("session.CreateToken: %v", err)
	}
	tab.row(unless(minted.Object == "token", "%+v", minted), "session.CreateToken")

	verify := func(token string, more ...func(*jwt.VerifyParams)) (*clerk.SessionClaims, error) {
		p := &jwt.VerifyParams{Token: token, JWKSClient: &jwks.Client{Backend: backend}, ProxyURL: clerk.String(n.base)}
		for _, change := range more {
			change(p)
		}
		return jwt.Verify(ctx, p)
	}
	claims, err := verify(minted.JWT)
	tab.row(unless(err == nil && claims.Subject == "ada" && claims.SessionID == s.ID && claims.Issuer == n.base, "%+v, %v", claims, err), "jwt.Verify with ProxyURL")
	_, err = verify(minted.JWT, func(p *jwt.VerifyParams) { p.ProxyURL = nil })
	tab.row(unless(err != nil && strings.Contains(err.Error(), "issuer"), "got %v", err), "jwt.Verify without: the issuer is not Clerk's")
	_, err = verify(minted.JWT[:len(minted.JWT)-4] + "AAAA")
	tab.row(unless(err != nil, "a forged JWT is accepted"), "jwt.Verify: forged")
	set := c.jwks(t)
	claims, err = verify(minted.JWT, func(p *jwt.VerifyParams) { p.JWK = set.Keys[0] })
	tab.row(unless(err == nil && claims.SessionID == s.ID, "%+v, %v", claims, err), "jwt.Verify with a JWK, without network")
	tab.row(unless(err == nil && claims.HasRole("org:admin") == false && claims.HasPermission("org:x:read") == false, "has more than was granted"), "HasRole, HasPermission")

	c.do(t, "PUT", "/v1/rbac/policy", object{
		"resources": []object{{"resource_id": "invoices", "actions": []string{"read", "create"}}, {"resource_id": "teams", "actions": []string{"create"}}},
		"roles":     []object{{"role_id": "org:admin", "permissions": []object{{"resource_id": "invoices", "actions": []string{"read"}}, {"resource_id": "teams", "actions": []string{"*"}}}}},
	}).want(t, http.StatusOK)
	inOrg := c.do(t, "POST", "/v1/sessions", object{"user_id": "ada", "organization_id": "org_1", "organization_slug": "acme", "roles": []string{"org:admin"}}).want(t, http.StatusCreated)
	claims, err = verify(inOrg.SessionJWT)
	tab.row(unless(err == nil && claims.ActiveOrganizationID == "org_1" && claims.ActiveOrganizationSlug == "acme" && claims.HasRole("org:admin") && !claims.HasRole("org:owner") &&
		claims.HasPermission("org:invoices:read") && claims.HasPermission("org:teams:create") && !claims.HasPermission("org:invoices:create"), "%+v, %v", claims, err),
		"HasRole, HasPermission in an organization")

	// Go's Verify leaves the token out, so nothing could be verified.
	_, err = sessions.Verify(ctx, &clerksession.VerifyParams{ID: s.ID, Token: &minted.JWT})
	tab.row(wantClerkError(err, http.StatusBadRequest, "form_param_value_invalid"), "session.Verify: sends no token")

	protected := clerkhttp.RequireHeaderAuthorization(clerkhttp.JWKSClient(&jwks.Client{Backend: backend}), clerkhttp.ProxyURL(n.base))(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			claims, _ := clerk.SessionClaimsFromContext(r.Context())
			_, _ = w.Write([]byte(claims.Subject))
		}))
	ask := func(token string) *httptest.ResponseRecorder {
		r, w := httptest.NewRequestWithContext(ctx, "GET", "/", nil), httptest.NewRecorder()
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		protected.ServeHTTP(w, r)
		return w
	}
	for range 2 { // the second time from its cache
		w := ask(minted.JWT)
		tab.row(unless(w.Code == http.StatusOK && w.Body.String() == "ada", "%d %s", w.Code, w.Body), "http.RequireHeaderAuthorization")
	}
	tab.row(unless(ask("").Code == http.StatusForbidden && ask(minted.JWT[:len(minted.JWT)-4]+"AAAA").Code == http.StatusUnauthorized, "let in"),
		"http.RequireHeaderAuthorization: without, and forged")

	revoked, err := sessions.Revoke(ctx, &clerksession.RevokeParams{ID: s.ID})
	tab.row(unless(err == nil && revoked.ID == s.ID && revoked.Status == "revoked", "%+v, %v", revoked, err), "session.Revoke")
	_, err = sessions.CreateToken(ctx, &clerksession.CreateTokenParams{ID: s.ID})
	tab.row(wantClerkError(err, http.StatusNotFound, "resource_not_found"), "session.CreateToken: revoked (C9)")
	_, err = (&clerksession.Client{Backend: client{n.base, "sk_wrong"}.clerk()}).Get(ctx, s.ID)
	tab.row(wantClerkError(err, http.StatusUnauthorized, "authentication_invalid"), "a wrong key")
	_, err = (&clerksession.Client{Backend: n.newApp(t, "clerk-off", nil).clerk()}).Get(ctx, s.ID)
	tab.row(wantClerkError(err, http.StatusForbidden, "facade_not_enabled"), "an app without the facade")
}

// TestClerkGoIssuer: an issuer below clerk.<domain> is believed without ProxyURL.
func TestClerkGoIssuer(t *testing.T) {
	n := newNode(t, "--public-url", "https://"+clerkHost)
	c := n.newApp(t, "shop", object{"jwt_profile": "clerk"})
	claims, err := jwt.Verify(context.Background(), &jwt.VerifyParams{
		Token: c.create(t, "ada").SessionJWT, JWKSClient: &jwks.Client{Backend: c.clerk()},
	})
	if err != nil || claims.Subject != "ada" || claims.Issuer != "https://"+clerkHost {
		t.Errorf("%+v, %v", claims, err)
	}
}

// wantClerkError says what is wrong with an error of Clerk's library.
func wantClerkError(err error, status int, code string) string {
	var refused *clerk.APIErrorResponse
	if !errors.As(err, &refused) || len(refused.Errors) != 1 {
		return unless(false, "got %v, want an error of the API", err)
	}
	return unless(refused.HTTPStatusCode == status && refused.Errors[0].Code == code && refused.TraceID != "", "got %v, want %d %s", err, status, code)
}
