package compat

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// statusEntry is what status_list.mjs finds of a JWT.
type statusEntry struct {
	Status int    `json:"status"`
	TTL    int    `json:"ttl"`
	Life   int    `json:"life"`
	URI    string `json:"uri"`
	Idx    int    `json:"idx"`
	Size   int    `json:"size"`
}

// TestStatusList: a verifier that has a JOSE library and a reader of Token Status
// Lists, and nothing of ours, knows which JWTs are revoked.
func TestStatusList(t *testing.T) {
	needPackages(t, "jose", "@sd-jwt/jwt-status-list")
	n := shared(t)
	tab := newTable(t, "alg", "case", "statuses", "result")
	var after []func() // of all algorithms together: a list is handed out for some seconds
	for _, alg := range algs {
		app := "status-" + strings.ToLower(alg)
		c := n.newApp(t, app, object{"jwt_alg": alg, "status_list": true})
		var jwts []string
		var made []*reply
		for i := range 3 {
			r := c.create(t, fmt.Sprint("user-", i))
			made, jwts = append(made, r), append(jwts, r.SessionJWT)
		}
		read := func(name, want string, until any) {
			t.Helper()
			in := object{"jwks": n.base + "/v1/apps/" + app + "/jwks", "issuer": n.base + "/v1/apps/" + app, "audience": app, "typ": "at+jwt", "jwts": jwts}
			if until != nil {
				in["until"] = until
			}
			var out []statusEntry
			runScript(t, "status_list.mjs", in, &out)
			got, trouble := "", ""
			for i, l := range out {
				got += fmt.Sprint(l.Status)
				if l.URI != n.base+"/v1/apps/"+app+"/status/"+made[i].region(t)+"/0" || l.TTL != 15 || l.Life != 60 {
					trouble = fmt.Sprintf("list %+v", l)
				}
			}
			if trouble == "" {
				trouble = unless(got == want, "want %s", want)
			}
			tab.row(trouble, alg, name, got, fmt.Sprintf("%d bytes", out[0].Size))
		}
		read("all good", "000", nil)
		c.do(t, "POST", "/v1/sessions/revoke", object{"session_id": made[1].Session.SessionID}).want(t, http.StatusOK)
		after = append(after, func() {
			read("one revoked", "010", 1)
			n.admin().do(t, "POST", "/v1/apps/"+app+"/suspend", nil).want(t, http.StatusOK)
			read("app suspended", "222", nil)
		})
	}
	for _, then := range after {
		then()
	}
}

// region returns the region of the session's stream, which its revision names.
func (r *reply) region(t testing.TB) string {
	t.Helper()
	region, _, ok := strings.Cut(r.Revision, ":")
	if !ok {
		t.Fatalf("revision %q", r.Revision)
	}
	return region
}
