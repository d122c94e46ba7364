package node_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/node/api"
)

// wantClerk fails the test unless the reply is an error in Clerk's shape.
func (r *reply) wantClerk(status int, code string) *reply {
	r.t.Helper()
	r.want(status)
	list, _ := r.JSON["errors"].([]any)
	if len(list) != 1 || r.str("clerk_trace_id") != r.Header.Get("X-Request-Id") || r.Header.Get("Content-Type") != "application/json" {
		r.t.Fatalf("%s: not an error of Clerk's: %s", r.call, r.Raw)
	}
	e := list[0].(map[string]any)
	if e["code"] != code || e["message"] == "" || e["long_message"] == "" || e["meta"] == nil {
		r.t.Fatalf("%s: want code %s: %s", r.call, code, r.Raw)
	}
	return r
}

// clerkSession creates a session by Clerk's API and returns its path.
func (a vendorApp) clerkSession(user string) (path string, r *reply) {
	a.h.t.Helper()
	r = a.do("POST", "/clerk/v1/sessions", m{"user_id": user}).want(200)
	return "/clerk/v1/sessions/" + r.str("id"), r
}

// TestClerk: the rows of what Clerk's documentation says.
func TestClerk(t *testing.T) {
	rows := map[string]func(t *testing.T, h *harness, a vendorApp){
		"C1": func(t *testing.T, _ *harness, a vendorApp) {
			path, r := a.clerkSession("ada")
			now := float64(time.Now().UnixMilli())
			want := m{
				"object": "session", "id": r.str("id"), "client_id": "client_" + r.str("id"), "user_id": "ada", "status": "active", "actor": nil,
				"latest_activity": m{"object": "session_activity", "id": "sess_activity_" + r.str("id"), "is_mobile": false},
				"created_at":      now, "updated_at": now, "last_active_at": now, "expire_at": now + 43200*60_000, "abandon_at": now + 43200*60_000,
			}
			if diff := cmp.Diff(want, r.JSON); diff != "" {
				t.Errorf("create: %s", diff)
			}
			if diff := cmp.Diff(want, a.do("GET", path, nil).want(200).JSON); diff != "" {
				t.Errorf("get: %s", diff)
			}
		},
		"C3": func(t *testing.T, h *harness, a vendorApp) {
			h.do("", "GET", "/v1/verify", nil, "Cookie", "session="+a.login(nil).str("session_token")).want(204)
		},
		"C4": func(t *testing.T, h *harness, a vendorApp) {
			s := a.login(nil)
			path := "/clerk/v1/sessions/" + s.str("session.session_id")
			if r := a.do("POST", path+"/revoke", nil).want(200); r.str("status") != "revoked" || r.str("user_id") != "ada" {
				t.Errorf("%s", r.Raw)
			}
			a.do("POST", path+"/revoke", " null\n").want(200) // once more, as Clerk's client for Go
			h.do(s.str("session_token"), "GET", "/v1/verify", nil).want(401)
			h.do(s.str("session_jwt"), "GET", "/v1/verify", nil).want(401)
			a.do("POST", path+"/verify", m{"token": s.str("session_jwt")}).wantClerk(404, "resource_not_found")
		},
		"C6": func(t *testing.T, h *harness, a vendorApp) {
			jwt := a.login(nil).str("session_jwt")
			for i := 0; i < len(jwt); i += 7 {
				b := []byte(jwt)
				if b[i] == 'A' {
					b[i] = 'B'
				} else {
					b[i] = 'A'
				}
				h.do(string(b), "GET", "/v1/verify", nil).want(401)
			}
		},
		"C7+C11": func(t *testing.T, h *harness, a vendorApp) {
			jwt := a.login(nil).str("session_jwt")
			c, head := jwtPart(t, jwt, 1), jwtPart(t, jwt, 0)
			if c["exp"].(float64)-c["iat"].(float64) != 60 || head["alg"] != "RS256" || head["typ"] != "JWT" {
				t.Errorf("header %v, claims %v", head, c)
			}
			if !rsaVerifies(t, a.do("GET", "/clerk/v1/jwks", nil).want(200), jwt) {
				t.Error("does not verify")
			}
		},
		"C8": func(t *testing.T, h *harness, a vendorApp) {
			path, s := a.clerkSession("ada")
			r := a.do("POST", path+"/tokens", nil).want(200)
			c := jwtPart(t, r.str("jwt"), 1)
			if r.str("object") != "token" || c["sid"] != s.str("id") || c["sub"] != "ada" || c["v"] != 2.0 || c["sts"] != "active" || c["iss"] != publicURL {
				t.Errorf("claims %v", c)
			}
			h.do(r.str("jwt"), "GET", "/v1/verify", nil).want(204)
		},
		"templates": testClerkTemplates,
		"C9": func(t *testing.T, _ *harness, a vendorApp) {
			path, _ := a.clerkSession("ada")
			a.do("POST", path+"/revoke", m{}).want(200)
			a.do("POST", path+"/tokens", m{}).wantClerk(404, "resource_not_found")
			short := a.login(m{"session_duration_minutes": 1})
			time.Sleep(61 * time.Second)
			path = "/clerk/v1/sessions/" + short.str("session.session_id")
			a.do("POST", path+"/tokens", nil).wantClerk(404, "resource_not_found")
			if r := a.do("GET", path, nil).want(200); r.str("status") != "expired" {
				t.Errorf("%s", r.Raw)
			}
		},
		"C10": func(t *testing.T, _ *harness, a vendorApp) {
			s := a.login(nil)
			if s.str("session.session_id") == "" || s.str("session_token") == "" || s.str("session_jwt") == "" {
				t.Errorf("%s", s.Raw)
			}
		},
		"C14": func(t *testing.T, h *harness, a vendorApp) {
			h.do(a.key, "PATCH", "/v1/apps/"+a.id, m{"jwt_ttl_seconds": 3601}).wantError(400, api.InvalidArgument)
			path, _ := a.clerkSession("ada")
			a.do("POST", path+"/tokens", m{"expires_in_seconds": 61}).wantClerk(400, "form_param_value_invalid")
			jwt := a.do("POST", path+"/tokens", m{"expires_in_seconds": 30}).want(200).str("jwt")
			if c := jwtPart(t, jwt, 1); c["exp"].(float64)-c["iat"].(float64) != 30 {
				t.Errorf("claims %v", c)
			}
		},
		"C15": func(t *testing.T, _ *harness, a vendorApp) {
			s := a.login(m{"session_duration_minutes": 7 * 24 * 60})
			r := a.do("GET", "/clerk/v1/sessions/"+s.str("session.session_id"), nil).want(200)
			c := jwtPart(t, s.str("session_jwt"), 1)
			if r.at("expire_at").(float64)-r.at("created_at").(float64) != 604800_000 || c["exp"].(float64)-c["iat"].(float64) != 60 {
				t.Errorf("%s %v", r.Raw, c)
			}
		},
		"lists":        testClerkLists,
		"verify":       testClerkVerify,
		"organization": testClerkOrganization,
		"refresh":      testClerkRefresh,
		"fva":          testClerkFactorAges,
		"bad":          testClerkBadInput,
		"device":       testClerkDevice,
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		for row := range strings.SplitSeq(name, "+") { // each row by its name
			t.Run(row, func(t *testing.T) {
				bubble(t, func(t *testing.T, h *harness) { rows[name](t, h, h.newVendorApp("clerk", nil)) })
			})
		}
	}
}

func testClerkTemplates(t *testing.T, h *harness, a vendorApp) {
	h.do(a.key, "PUT", "/v1/apps/"+a.id+"/templates/billing", m{"ttl_seconds": 600, "claims": m{"plan": "pro"}}).want(200)
	path, _ := a.clerkSession("ada")
	c := jwtPart(t, a.do("POST", path+"/tokens/billing", m{"expires_in_seconds": 300}).want(200).str("jwt"), 1)
	if c["plan"] != "pro" || c["exp"].(float64)-c["iat"].(float64) != 300 {
		t.Errorf("claims %v", c)
	}
	a.do("POST", path+"/tokens/nothing", nil).wantClerk(404, "resource_not_found")
}

// TestClerkReplaced: a session that had to go for a newer one is Clerk's replaced.
func TestClerkReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		a := h.newVendorApp("clerk", m{"max_sessions_per_user": 1})
		first, _ := a.clerkSession("ada")
		time.Sleep(time.Second)
		a.clerkSession("ada")
		if r := a.do("GET", first, nil).want(200); r.str("status") != "replaced" {
			t.Errorf("%s", r.Raw)
		}
		for status, want := range map[string]float64{"replaced": 1, "revoked": 0, "active": 1} {
			if r := a.do("GET", "/clerk/v1/sessions?paginated=true&user_id=ada&status="+status, nil).want(200); r.at("total_count") != want {
				t.Errorf("%s: %s", status, r.Raw)
			}
		}
	})
}

// testClerkOrganization: organization, role and actor of a session are Clerk's o
// and act.
func testClerkOrganization(t *testing.T, h *harness, a vendorApp) {
	s := a.do("POST", "/clerk/v1/sessions", m{"user_id": "ada", "active_organization_id": "org_1"}).want(200)
	path := s.str("id")
	if s.str("last_active_organization_id") != "org_1" {
		t.Errorf("%s", s.Raw)
	}
	claims := func(id string) m {
		return jwtPart(t, a.do("POST", "/clerk/v1/sessions/"+id+"/tokens", nil).want(200).str("jwt"), 1)
	}
	if diff := cmp.Diff(m{"id": "org_1"}, claims(path)["o"]); diff != "" {
		t.Error(diff)
	}
	a.do("POST", "/v1/sessions/"+path+"/organization", m{"organization_id": "org_2", "slug": "acme", "roles": []string{"org:admin"}}).want(200)
	if diff := cmp.Diff(m{"id": "org_2", "slg": "acme", "rol": "admin"}, claims(path)["o"]); diff != "" {
		t.Error(diff)
	}
	// What the app's policy lets its roles do, from the moment it does.
	h.do(a.key, "PUT", "/v1/rbac/policy", m{
		"resources": []m{{"resource_id": "invoices", "actions": []string{"read", "create"}}, {"resource_id": "teams", "actions": []string{"manage"}}},
		"roles": []m{
			{"role_id": "org:admin", "permissions": []m{{"resource_id": "invoices", "actions": []string{"*"}}}},
			{"role_id": "other", "permissions": []m{{"resource_id": "teams", "actions": []string{"manage"}}}},
		},
	}).want(200)
	c := claims(path)
	if diff := cmp.Diff(m{"id": "org_2", "slg": "acme", "rol": "admin", "per": "read,create", "fpm": "3"}, c["o"]); diff != "" || c["fea"] != "o:invoices" {
		t.Errorf("%v %s", c["fea"], diff)
	}
	h.do(a.key, "PUT", "/v1/rbac/policy", m{"roles": []m{}}).want(200)
	if c := claims(path); c["fea"] != nil || c["o"].(map[string]any)["per"] != nil {
		t.Errorf("after the policy permits nothing: %v", c)
	}
	s = h.do(h.admin, "POST", "/v1/sessions/impersonate?app="+a.id, m{"user_id": "ada", "actor": m{"sub": "support", "reason": "a call"}}).want(201)
	id := s.str("session.session_id")
	if diff := cmp.Diff(m{"sub": "support"}, claims(id)["act"]); diff != "" {
		t.Error(diff)
	}
	if r := a.do("GET", "/clerk/v1/sessions/"+id, nil).want(200); r.str("actor.sub") != "support" {
		t.Errorf("%s", r.Raw)
	}
}

func testClerkLists(t *testing.T, h *harness, a vendorApp) {
	var paths []string // newest first
	for range 5 {
		path, _ := a.clerkSession("ada")
		paths = slices.Insert(paths, 0, path)
		time.Sleep(time.Second)
	}
	bob, _ := a.clerkSession("bob")
	id := func(path string) string { return path[strings.LastIndex(path, "/")+1:] }
	a.do("POST", paths[0]+"/revoke", nil).want(200)
	h.do(a.key, "POST", "/v1/sessions/revoke", m{"session_id": id(paths[1]), "reason": "logout"}).want(200)
	short := a.login(m{"user_id": "ada", "session_duration_minutes": 1})
	idle := a.login(m{"user_id": "ada", "idle_timeout_minutes": 1})
	if r := a.do("GET", "/clerk/v1/sessions/"+idle.str("session.session_id"), nil).want(200); r.at("abandon_at").(float64)-r.at("created_at").(float64) != 60_000 {
		t.Errorf("%s", r.Raw)
	}
	time.Sleep(2 * time.Minute)
	ends := []string{idle.str("session.session_id"), short.str("session.session_id")}
	slices.SortFunc(ends, func(x, y string) int { return -strings.Compare(x, y) }) // those of one moment in any order
	status := func(ids []string) []string { return slices.Sorted(slices.Values(ids)) }
	for query, want := range map[string][]string{
		"user_id=ada&status=active":                           {id(paths[2]), id(paths[3]), id(paths[4])},
		"user_id=ada&status=active&limit=2":                   {id(paths[2]), id(paths[3])},
		"user_id=ada&status=active&limit=2&offset=1":          {id(paths[3]), id(paths[4])},
		"user_id=ada&status=active&offset=3":                  {},
		"user_id=ada&status=revoked":                          {id(paths[0])},
		"user_id=ada&status=ended":                            {id(paths[1])},
		"user_id=ada&status=expired":                          ends,
		"user_id=ada&status=pending":                          {},
		"user_id=nobody":                                      {},
		"user_id=bob":                                         {id(bob)},
		"client_id=client_" + id(bob):                         {id(bob)},
		"client_id=client_" + id(bob) + "&user_id=ada":        {},
		"client_id=client_" + id(paths[0]) + "&status=active": {},
		"client_id=client_AgAAAAAAAAAAAAAAAAAAAA":             {},
		"user_id=ada":                                         slices.Concat(ends, idsOf(paths)),
		"status=active":                                       {id(bob), id(paths[2]), id(paths[3]), id(paths[4])},
	} {
		r := a.do("GET", "/clerk/v1/sessions?paginated=true&"+query, nil).want(200)
		var got []string
		for _, s := range r.JSON["data"].([]any) {
			got = append(got, s.(map[string]any)["id"].(string))
		}
		sorted := strings.Contains(query, "expired") || query == "user_id=ada"
		if sorted {
			got, want = status(got), status(want)
		}
		if diff := cmp.Diff(append([]string{}, want...), append([]string{}, got...)); diff != "" {
			t.Errorf("%s: %s", query, diff)
		}
		total := len(want)
		if strings.Contains(query, "limit") || strings.Contains(query, "offset") {
			total = 3
		}
		if r.at("total_count") != float64(total) {
			t.Errorf("%s: total_count %v, want %d", query, r.at("total_count"), total)
		}
	}
	if r := a.do("GET", "/clerk/v1/sessions?user_id=bob", nil).want(200); r.Raw[0] != '[' {
		t.Errorf("without paginated it is no array: %s", r.Raw)
	}
}

func idsOf(paths []string) (ids []string) {
	for _, p := range paths {
		ids = append(ids, p[strings.LastIndex(p, "/")+1:])
	}
	return ids
}

func testClerkVerify(t *testing.T, h *harness, a vendorApp) {
	s, other := a.login(nil), a.login(nil)
	path := "/clerk/v1/sessions/" + s.str("session.session_id") + "/verify"
	for _, credential := range []string{"session_jwt", "session_token"} {
		if r := a.do("POST", path, m{"token": s.str(credential)}).want(200); r.str("id") != s.str("session.session_id") || r.str("status") != "active" {
			t.Errorf("%s", r.Raw)
		}
		a.do("POST", path, m{"token": other.str(credential)}).wantClerk(404, "resource_not_found")
	}
	a.do("POST", path, nil).wantClerk(400, "form_param_value_invalid")
	a.do("POST", path, m{"token": ""}).wantClerk(400, "form_param_value_invalid")
	a.do("POST", path, m{"token": "a.b.c"}).wantClerk(404, "resource_not_found")
	a.do("POST", path, m{"token": s.str("session_jwt") + "A"}).wantClerk(404, "resource_not_found")
	time.Sleep(59 * time.Second)
	a.do("POST", path, m{"token": s.str("session_jwt")}).want(200)
	time.Sleep(time.Second)
	a.do("POST", path, m{"token": s.str("session_jwt")}).wantClerk(401, api.JWTExpired)
	a.do("POST", path, m{"token": s.str("session_token")}).want(200)
}

func testClerkRefresh(t *testing.T, h *harness, a vendorApp) {
	s, other := a.login(nil), a.login(nil)
	path := "/clerk/v1/sessions/" + s.str("session.session_id") + "/refresh"
	jwt, token := s.str("session_jwt"), s.str("session_token")
	time.Sleep(2 * time.Minute)
	good := m{
		"expired_token": jwt, "refresh_token": token, "request_origin": "https://shop.example",
		"request_originating_ip": "192.0.2.1", "request_headers": m{"cookie": []string{"a=b"}, "user-agent": []string{"x"}},
	}
	with := func(more m) m {
		all := maps.Clone(good)
		maps.Copy(all, more)
		return all
	}
	fresh := a.do("POST", path, good).want(200).str("jwt")
	h.do(fresh, "GET", "/v1/verify", nil).want(204)
	r := a.do("POST", path+"?suffixed_cookies=false", with(m{"format": "cookie"})).want(200)
	if want := "__session=" + fresh + "; Path=/; Secure; SameSite=Lax"; r.JSON["cookies"].([]any)[0] != want || r.str("object") != "cookies" {
		t.Errorf("%s", r.Raw)
	}
	for field, body := range map[string]m{
		"expired_token": with(m{"expired_token": ""}), "refresh_token": with(m{"refresh_token": ""}), "format": with(m{"format": "xml"}),
		"authorized_parties": with(m{"authorized_parties": []string{"x"}}),
	} {
		r := a.do("POST", path, body).wantClerk(400, "form_param_value_invalid")
		if meta := r.JSON["errors"].([]any)[0].(map[string]any)["meta"].(map[string]any); meta["param_name"] != field {
			t.Errorf("%s: %s", field, r.Raw)
		}
	}
	a.do("POST", path+"?suffixed_cookies=true", with(m{"format": "cookie"})).wantClerk(400, "form_param_value_invalid")
	for name, body := range map[string]m{
		"another session's JWT":   with(m{"expired_token": other.str("session_jwt")}),
		"another session's token": with(m{"refresh_token": other.str("session_token")}),
		"a JWT as token":          with(m{"refresh_token": fresh}),
		"a forged JWT":            with(m{"expired_token": jwt + "A"}),
	} {
		if r := a.do("POST", path, body); r.Status != 404 {
			t.Errorf("%s: %d %s", name, r.Status, r.Raw)
		}
	}
	a.do("POST", strings.TrimSuffix(path, "refresh")+"revoke", nil).want(200)
	a.do("POST", path, good).wantClerk(404, "resource_not_found")
}

// testClerkFactorAges: fva says how many minutes ago the user showed a first and
// a second factor.
func testClerkFactorAges(t *testing.T, _ *harness, a vendorApp) {
	ago := func(d time.Duration) string { return time.Now().Add(-d).UTC().Format(time.RFC3339) }
	for name, c := range map[string]struct {
		factors []m
		want    []any
	}{
		"none":                     {nil, []any{0.0, -1.0}},
		"one":                      {[]m{{"type": "password", "last_authenticated_at": ago(0)}}, []any{0.0, -1.0}},
		"one, without time":        {[]m{{"type": "magic_link"}}, []any{0.0, -1.0}},
		"the same again":           {[]m{{"type": "password"}, {"type": "password"}}, []any{0.0, -1.0}},
		"two of one method":        {[]m{{"type": "otp"}, {"type": "totp"}}, []any{0.0, -1.0}},
		"password, then one-timer": {[]m{{"type": "password"}, {"type": "totp"}}, []any{0.0, 0.0}},
		"a link, then a key":       {[]m{{"type": "magic_link"}, {"type": "webauthn"}}, []any{0.0, -1.0}},
		"elsewhere, then a link":   {[]m{{"type": "oauth"}, {"type": "magic_link"}}, []any{0.0, 0.0}},
		"one nobody knows":         {[]m{{"type": "password"}, {"type": "ask-grandma"}}, []any{0.0, -1.0}},
		"the second only, and old": {[]m{{"type": "totp", "last_authenticated_at": ago(5 * time.Minute)}}, []any{5.0, -1.0}},
	} {
		body := m{}
		if c.factors != nil {
			body["authentication_factors"] = c.factors
		}
		if diff := cmp.Diff(c.want, jwtPart(t, a.login(body).str("session_jwt"), 1)["fva"]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	// They grow older, until one is shown again.
	s := a.login(m{"authentication_factors": []m{{"type": "password"}, {"type": "totp"}}})
	path := "/v1/sessions/" + s.str("session.session_id")
	time.Sleep(7 * time.Minute)
	fva := func() any {
		return jwtPart(t, a.do("POST", "/clerk"+path+"/tokens", nil).want(200).str("jwt"), 1)["fva"]
	}
	if got := fva(); !cmp.Equal(got, any([]any{7.0, 7.0})) {
		t.Errorf("after 7 minutes: %v", got)
	}
	a.do("PATCH", path, m{"add_authentication_factors": []m{{"type": "totp", "last_authenticated_at": ago(0)}}}).want(200)
	if got := fva(); !cmp.Equal(got, any([]any{7.0, 0.0})) {
		t.Errorf("after a second factor: %v", got)
	}
	time.Sleep(3 * time.Minute)
	a.do("PATCH", path, m{"add_authentication_factors": []m{{"type": "password"}}}).want(200)
	if got := fva(); !cmp.Equal(got, any([]any{0.0, 3.0})) {
		t.Errorf("after the password again, which is no second factor: %v", got)
	}
}

func testClerkBadInput(t *testing.T, h *harness, a vendorApp) {
	path, _ := a.clerkSession("ada")
	for _, query := range []string{
		"limit=0", "limit=501", "limit=x", "offset=-1", "offset=10001", "status=idle", "userid=ada", "user_id=a&user_id=b",
		"client_id=x", "user_id=", "%zz",
	} {
		r := a.do("GET", "/clerk/v1/sessions?"+query, nil).want(400)
		if r.JSON["errors"] == nil {
			t.Errorf("%s: %s", query, r.Raw)
		}
	}
	for _, body := range []any{nil, m{}, m{"user_id": ""}, m{"user_id": 7}, m{"user_id": "a", "actor": m{}}, "[]", "x"} {
		r := a.do("POST", "/clerk/v1/sessions", body).want(400)
		if r.JSON["errors"] == nil {
			t.Errorf("%v: %s", body, r.Raw)
		}
	}
	a.do("POST", "/clerk/v1/sessions", m{"user_id": "a", "locale": "en"}).want(200)
	a.do("POST", path+"/tokens", m{"expires_in_seconds": 0}).wantClerk(400, "form_param_value_invalid")
	a.do("POST", path+"/tokens", m{"expires_in_seconds": -1}).wantClerk(400, "form_param_value_invalid")
	a.do("POST", path+"/revoke", m{"session_id": "x"}).wantClerk(400, "form_param_value_invalid")
	for _, id := range []string{"sess_24tZ6tlJ7CxlTwB6Zoj6SHQ9vU3", "AgAAAAAAAAAAAAAAAAAAAA", "x%2Fy"} {
		a.do("GET", "/clerk/v1/sessions/"+id, nil).wantClerk(404, "resource_not_found")
		a.do("POST", "/clerk/v1/sessions/"+id+"/tokens", nil).wantClerk(404, "resource_not_found")
		a.do("POST", "/clerk/v1/sessions/"+id+"/revoke", nil).wantClerk(404, "resource_not_found")
	}
	a.do("GET", "/clerk/v1/users/user_1", nil).wantClerk(404, "resource_not_found")
	a.do("PUT", path, nil).wantClerk(405, api.MethodNotAllowed)
	h.do("", "GET", path, nil).wantClerk(401, "authentication_invalid")
	h.do("sk_wrong", "GET", "/clerk/v1/jwks", nil).wantClerk(401, "authentication_invalid")
	a.do("GET", path, nil, "Cookie", strings.Repeat("x", 9<<10)).wantClerk(431, api.HeaderTooLarge)
	// Another app's session is one that nobody knows.
	other := h.newApp("other", m{"compat": []string{"clerk"}})
	h.do(other, "GET", path, nil).wantClerk(404, "resource_not_found")
	h.do(other, "POST", path+"/revoke", nil).wantClerk(404, "resource_not_found")
	a.do("GET", path, nil).want(200)
	// What is refused natively for its scope is refused here.
	key := h.do(a.key, "POST", "/v1/apps/"+a.id+"/api-keys", m{"scopes": []string{"revoke"}}).want(201).str("api_key")
	h.do(key, "GET", path, nil).wantClerk(403, "authorization_invalid")
	h.do(key, "POST", path+"/tokens", nil).wantClerk(403, "authorization_invalid")
	if r := h.do(key, "POST", path+"/revoke", nil).want(200); r.str("status") != "revoked" || r.str("user_id") != "" {
		t.Errorf("revoked by a key that may not read: %s", r.Raw)
	}
	a.do("POST", path+"/tokens", nil).wantClerk(404, "resource_not_found")
}

func testClerkDevice(t *testing.T, _ *harness, a vendorApp) {
	for agent, want := range map[string][]any{
		"Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Mobile/15E148 Safari/604.1": {"iPhone", true, "Safari", "17.0"},
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 Edg/126.0.2592.56":       {"Windows", false, "Edge", "126.0.2592.56"},
		"Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0":                                                                  {"Linux", false, "Firefox", "127.0"},
		"curl/8": {nil, false, nil, nil},
	} {
		s := a.login(m{"attributes": m{"user_agent": agent, "ip_address": "192.0.2.1"}})
		r := a.do("GET", "/clerk/v1/sessions/"+s.str("session.session_id"), nil).want(200)
		got := []any{r.at("latest_activity.device_type"), r.at("latest_activity.is_mobile"), r.at("latest_activity.browser_name"), r.at("latest_activity.browser_version")}
		if diff := cmp.Diff(want, got); diff != "" || r.str("latest_activity.ip_address") != "192.0.2.1" {
			t.Errorf("%s: %s", agent, diff)
		}
	}
}

// TestClerkIdempotency: a repeat names the same session, another body is refused.
func TestClerkIdempotency(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		a := h.newVendorApp("clerk", nil)
		first := a.do("POST", "/clerk/v1/sessions", m{"user_id": "ada"}, "Idempotency-Key", "k").want(200)
		if again := a.do("POST", "/clerk/v1/sessions", m{"user_id": "ada"}, "Idempotency-Key", "k").want(200); again.str("id") != first.str("id") {
			t.Errorf("%s, then %s", first.Raw, again.Raw)
		}
		a.do("POST", "/clerk/v1/sessions", m{"user_id": "bob"}, "Idempotency-Key", "k").wantClerk(422, api.IdempotencyReused)
	})
}
