package compat

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// page is a tab of a browser: it keeps cookies, and says which page a request is of.
type page struct {
	t      *testing.T
	http   *http.Client
	base   string // of the node, behind TLS
	origin string
}

// open opens a browser on the application, which is at base as well: a cookie
// __Host- is of one host.
func open(t *testing.T, base, certificate string) *page {
	t.Helper()
	text, err := os.ReadFile(certificate)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &page{t: t, base: base, origin: base, http: &http.Client{
		Jar: jar, Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: 32},
	}}
}

// keep takes a Set-Cookie as if the application had answered with it.
func (p *page) keep(setCookie string) {
	r, err := http.NewRequest("GET", p.base+"/", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := http.ParseSetCookie(setCookie)
	if err != nil {
		p.t.Fatalf("Set-Cookie %q: %v", setCookie, err)
	}
	p.http.Jar.SetCookies(r.URL, []*http.Cookie{c})
}

// cookies returns what the browser would send.
func (p *page) cookies() string {
	r, err := http.NewRequest("GET", p.base+"/", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	var all []string
	for _, c := range p.http.Jar.Cookies(r.URL) {
		all = append(all, c.String())
	}
	return strings.Join(all, "; ")
}

// refreshed is an answer of /v1/client/*.
type refreshed struct {
	status       int
	header       http.Header
	raw          string
	JWT          string         `json:"session_jwt"`
	ExpiresIn    float64        `json:"expires_in"`
	RefreshAfter float64        `json:"refresh_after"`
	Details      map[string]any `json:"error_details"`
}

func (p *page) post(path string, body any) refreshed {
	p.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	r, err := http.NewRequest("POST", p.base+path, bytes.NewReader(text))
	if err != nil {
		p.t.Fatal(err)
	}
	for name, value := range map[string]string{"Content-Type": "application/json", "Origin": p.origin, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"} {
		r.Header.Set(name, value)
	}
	answer, err := p.http.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	out := refreshed{status: answer.StatusCode, header: answer.Header, raw: string(raw)}
	_ = json.Unmarshal(raw, &out)
	return out
}

// TestHybrid is the hybrid model from outside: a backend logs somebody in and sets
// the cookie that it was given, the page refreshes in the background, in many tabs,
// and a revocation, or a log-out, ends it. Its rows are those of the capabilities.
func TestHybrid(t *testing.T) {
	t.Parallel() // a JWT has to expire
	n := newNode(t)
	base, certificate := terminate(t, n, t.TempDir())
	key := n.newApp(t, "web", object{"origins": []string{base}})
	create := func() (*reply, string) {
		r := key.do(t, "POST", "/v1/sessions", object{"user_id": "ada", "session_duration_minutes": 60, "set_cookie": true}).want(t, http.StatusCreated)
		var more struct {
			SetCookie string `json:"set_cookie"`
		}
		_ = json.Unmarshal(r.raw, &more)
		return r, more.SetCookie
	}
	rows := newTable(t, "row", "capability")
	created, setCookie := create()
	p := open(t, base, certificate)
	p.keep(setCookie)

	want := "__Host-session=" + created.SessionToken + "; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=3600"
	rows.row(unless(setCookie == want, "set_cookie %q", setCookie), "U5, S12", "the server sets a cookie with the token: Path=/, Secure, HttpOnly, SameSite, Max-Age")
	rows.row(unless(p.cookies() == "__Host-session="+created.SessionToken, "the browser holds %q", p.cookies()), "C3", "the cookie is sent by itself")
	first := p.post("/v1/client/refresh", object{})
	rows.row(unless(first.status == 200 && first.JWT != "", "%d %s", first.status, first.raw), "C3", "and is looked up")
	rows.row(unless(created.SessionJWT != "" && created.Session.SessionID != "", "%s", created.raw), "C10", "a log-in gives session id and JWT")
	if first.status != 200 {
		t.FailNow()
	}
	claims := part(t, first.JWT, 1)
	rows.row(unless(claims["exp"].(float64)-claims["iat"].(float64) == 60 && claims["azp"] == base, "%v", claims), "C7", "JWTs live 60 s, and are for the page's origin")
	full := part(t, created.SessionJWT, 1)
	rows.row(unless(full["exp"].(float64)-full["iat"].(float64) == 300 && full["sxp"].(float64)-full["iat"].(float64) > 3000, "%v", full), "C15, S14", "lives of JWT and session are apart: 300 s, an hour")
	rows.row(unless(n.app().verify(t, first.JWT).status == 204, "refused"), "C11, U14", "the JWT lets requests in")
	forged := 0
	for i := range first.JWT {
		if first.JWT[i] == '.' {
			continue
		}
		b := []byte(first.JWT)
		if b[i] ^= 1; n.app().verify(t, string(b)).status != 401 {
			forged++
		}
	}
	rows.row(unless(forged == 0, "%d of %d changed characters let in", forged, len(first.JWT)), "C6, S13", "a JWT with a bit flipped is refused")
	rows.row(unless(first.header.Get("Cache-Control") == "no-store" && !strings.Contains(first.raw, created.SessionToken), "%v", first.header), "S13", "no answer with a credential is kept, and no page reads the token")

	jwts := map[string]bool{}
	var mu sync.Mutex
	var tabs sync.WaitGroup
	for range 40 {
		tabs.Go(func() {
			r := p.post("/v1/client/refresh", object{"background": true})
			mu.Lock()
			defer mu.Unlock()
			jwts[fmt.Sprint(r.status, r.JWT)] = true
		})
	}
	tabs.Wait()
	rows.row(unless(len(jwts) == 1 && jwts["200"+first.JWT], "%d different answers", len(jwts)), "C12", "40 tabs at once get the same JWT")
	if !testing.Short() {
		key.do(t, "PATCH", "/v1/apps/web", object{"client_jwt_ttl_seconds": 30}).want(t, http.StatusOK)
		seen := map[string]bool{}
		for range 3 {
			r := p.post("/v1/client/refresh", object{})
			seen[r.JWT] = r.status == 200
			time.Sleep(time.Duration(r.RefreshAfter) * time.Second)
		}
		rows.row(unless(len(seen) == 3, "%d JWTs", len(seen)), "C12", "renewed in the background, a new one each time refresh_after is over")
	}
	rows.row(unless(key.do(t, "PATCH", "/v1/apps/web", object{"jwt_ttl_seconds": 3601}).status == 400, "taken"), "C14", "no JWT lives longer than an hour")

	evil := *p
	evil.origin = "https://evil.example"
	cross := evil.post("/v1/client/refresh", object{})
	rows.row(unless(cross.status == 403 && cross.header.Get("Access-Control-Allow-Origin") == "", "%d %v", cross.status, cross.header), "H4, H5", "a page of another origin gets nothing")
	cross = evil.post("/v1/client/logout", object{})
	rows.row(unless(cross.status == 403 && n.app().verify(t, created.SessionToken).status == 204, "%d", cross.status), "H5", "and logs nobody out")

	key.do(t, "POST", "/v1/sessions/revoke", object{"session_token": created.SessionToken}).want(t, http.StatusOK)
	gone := p.post("/v1/client/refresh", object{})
	rows.row(unless(gone.status == 401 && gone.Details["reason"] == "revoked" && gone.JWT == "", "%d %s", gone.status, gone.raw), "C9, C13", "revoked: no JWT any more")
	rows.row(unless(p.cookies() == "", "the browser holds %q", p.cookies()), "C13", "and the cookie is gone")
	bad := n.app().verify(t, first.JWT)
	rows.row(unless(bad.status == 401 && strings.Contains(bad.header.Get("WWW-Authenticate"), `error="invalid_token"`), "%d %v", bad.status, bad.header), "U15", "401 with invalid_token")

	created, setCookie = create()
	p.keep(setCookie)
	live := p.post("/v1/client/refresh", object{}).JWT
	out := p.post("/v1/client/logout", object{})
	rows.row(unless(out.status == 200 && p.cookies() == "" && n.app().verify(t, created.SessionToken).status == 401 && n.app().verify(t, live).status == 401, "%d %s", out.status, out.raw), "U16", "a log-out ends token, JWT and cookie")
	rows.row(unless(p.post("/v1/client/logout", object{}).status == 200, "refused"), "U16", "again: 200")

	_, setCookie = create()
	p.keep(setCookie)
	held := p.cookies()
	if err := n.kill(); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	again := p.post("/v1/client/refresh", object{})
	rows.row(unless(again.status == 200 && p.cookies() == held, "%d %s", again.status, again.raw), "C2, U9", "kill -9 and a restart log nobody out")
}
