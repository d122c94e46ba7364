package signer_test

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/signer"
)

// TestStreambirdClaims: the whole payload, as Streambird's library reads it.
func TestStreambirdClaims(t *testing.T) {
	c := claims()
	c.Factors, c.Custom = json.RawMessage(`[{"type":"otp","delivery_channel":"sms"}]`), nil
	token := mint(t, keyFor(signer.RS256), signer.Streambird, c)
	want := `{"iss":"https://sessions.example","sub":"user-1@example.com","aud":["shop"],"iat":1795348800,"nbf":1795348790,"exp":1795349100,` +
		`"https://streambird.io/jwt/session":{"id":"AgEBAQEBAQEBAQEBAQEBAQ","user_id":"user-1@example.com","started_at":1795345200,` +
		`"expires_at":1795953600,"last_active_at":1795348800,"factors":[{"type":"otp","delivery_channel":"sms"}],` +
		`"device_fingerprint":{"user_agent":"curl/8","ip":"192.0.2.1"},"updated_at":1795348800,"created_at":1795345200}}`
	if got := body(t, token); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	c.SessionStarted = time.Time{}
	if _, err := signer.Mint(keyFor(signer.RS256), signer.Streambird, c); !errors.Is(err, signer.ErrBadClaims) {
		t.Errorf("without times: %v", err)
	}
}

// TestClerkClaims: the whole payload, as Clerk's libraries read it.
func TestClerkClaims(t *testing.T) {
	const head = `{"iss":"https://sessions.example","sub":"user-1@example.com","aud":["shop"],"iat":1795348800,"nbf":1795348790,"exp":1795349100,` +
		`"sid":"AgEBAQEBAQEBAQEBAQEBAQ","sts":"active","v":2,`
	c := claims()
	c.Custom = json.RawMessage(`{"o":{"rol":"admin"},"fva":[0,0],"FEA":"o:x","plan":"pro"}`)
	check := func(what, want string) {
		t.Helper()
		if got := body(t, mint(t, keyFor(signer.RS256), signer.Clerk, c)); got != head+want {
			t.Errorf("%s:\ngot  %s\nwant %s", what, got, head+want)
		}
	}
	check("bare; custom claims grant nothing of Clerk's", `"fva":[-1,-1],"plan":"pro"}`)
	c.Custom = nil
	c.FirstFactor, c.SecondFactor = now.Add(-125*time.Second), now.Add(time.Minute)
	c.AuthorizedParty, c.Actor = "https://shop.example", json.RawMessage(`{"sub":"support-1"}`)
	c.OrgID, c.OrgSlug, c.Roles = "org_1", "acme", []string{"org:admin", "member"}
	check("all", `"fva":[2,0],"azp":"https://shop.example","act":{"sub":"support-1"},"o":{"id":"org_1","slg":"acme","rol":"admin"}}`)
	c.Actor, c.AuthorizedParty = nil, ""
	c.Permissions = []signer.Permission{
		{Resource: "invoices", Actions: []string{"read", "create", "a,b", "a:b", "", " x"}}, {Resource: "o:x", Actions: []string{"read"}},
		{Resource: "teams", Actions: []string{"manage", "create"}}, {Resource: "invoices", Actions: []string{"delete", "read"}}, {Resource: "none"},
	}
	check("permissions", `"fva":[2,0],"fea":"o:invoices,o:teams","o":{"id":"org_1","slg":"acme","rol":"admin","per":"read,create,manage,delete","fpm":"11,6"}}`)
	many := signer.Permission{Resource: "all"}
	for i := range 60 {
		many.Actions = append(many.Actions, "a"+strconv.Itoa(i))
	}
	c.Permissions = []signer.Permission{many}
	if got := body(t, mint(t, keyFor(signer.RS256), signer.Clerk, c)); !strings.Contains(got, `"fpm":"1125899906842623"`) || !strings.Contains(got, `,a49"`) {
		t.Errorf("60 actions: %s", got)
	}
	c.OrgID = ""
	check("roles without an organization", `"fva":[2,0]}`)
	c.Actor = json.RawMessage(`[]`)
	if _, err := signer.Mint(keyFor(signer.RS256), signer.Clerk, c); !errors.Is(err, signer.ErrBadClaims) {
		t.Errorf("an actor that is no object: %v", err)
	}
}

// TestVendorClaimsForged: what looks a little like a vendor's session names none.
func TestVendorClaimsForged(t *testing.T) {
	k := keyFor(signer.RS256)
	head := `{"alg":"RS256","kid":"` + k.ID + `","typ":"JWT"}`
	frame := `{"iss":"` + issuer + `","sub":"u","aud":"shop","iat":1795348800,"nbf":1795348790,"exp":1795349100,`
	for claims, want := range map[string]signer.Reason{
		`"sid":"` + sid + `","v":2}`:                                "",
		`"sid":"` + sid + `"}`:                                      signer.ErrBadClaims,
		`"sid":"` + sid + `","v":1}`:                                signer.ErrBadClaims,
		`"sid":"` + sid + `","v":"2"}`:                              signer.ErrBadClaims,
		`"sid":"` + sid + `","v":2.0}`:                              signer.ErrBadClaims,
		`"sid":"","v":2}`:                                           signer.ErrBadClaims,
		`"sid":7,"v":2}`:                                            signer.ErrBadClaims,
		`"https://streambird.io/jwt/session":{"id":"` + sid + `"}}`: "",
		`"https://streambird.io/jwt/session":{"id":""}}`:            signer.ErrBadClaims,
		`"https://streambird.io/jwt/session":"` + sid + `"}`:        signer.ErrBadClaims,
	} {
		_, err := signer.NewRing(k).Verify(sign(t, k, head, frame+claims), expect())
		if want == "" && err != nil || want != "" && reason(t, err) != want {
			t.Errorf("%s: %v, want %q", claims, err, want)
		}
	}
}
