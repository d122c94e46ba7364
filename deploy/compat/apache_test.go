package compat

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const apacheModules = "/usr/lib/apache2/modules"

// terminate ends TLS before the node, as something in front of it does in earnest,
// and returns the URL and the file of the certificate: mod_auth_openidc speaks to
// nothing else.
func terminate(t *testing.T, n *node, dir string) (base, certificate string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate = filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(n.base)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(to))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, certificate
}

// startApache runs Apache with a configuration of deploy/proxy/apache. The API key
// has no more than the scope verify.
func startApache(t *testing.T, conf, module string, edits func(f *front, dir string) []string) *front {
	t.Helper()
	needs(t, "Apache with "+module, "apache", "apache2", filepath.Join(apacheModules, "mod_"+module+".so"))
	f, dir := newFront(t), t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) { // for the user that Apache becomes
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	all := append([]string{":8000>", f.port() + ">", "Define app      shop", "Define app " + f.node.boot.App, "127.0.0.1:3000", f.app}, edits(f, dir)...)
	site := configuration(t, dir, "apache/"+conf, all...)
	var main strings.Builder
	fmt.Fprintf(&main, "ServerRoot %s\nServerName localhost\nListen %s\nPidFile %s/pid\nErrorLog /dev/stderr\nLogLevel warn\n", dir, f.addr, dir)
	for _, m := range []string{"mpm_event", "authn_core", "authz_core", "authz_user", "headers", "env", "proxy", "proxy_http", module} {
		fmt.Fprintf(&main, "LoadModule %s_module %s/mod_%s.so\n", m, apacheModules, m)
	}
	if os.Getuid() == 0 {
		if _, err := user.Lookup("www-data"); err != nil {
			t.Fatal(err)
		}
		main.WriteString("User www-data\nGroup www-data\n")
	}
	fmt.Fprintf(&main, "Mutex file:%s default\nInclude %s\n", dir, site)
	file := filepath.Join(dir, "apache2.conf")
	if err := os.WriteFile(file, []byte(main.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	f.run(t, dir, "apache2", "-d", dir, "-f", file, "-DFOREGROUND")
	return f
}

func (f *front) verifyKey(t *testing.T) string {
	t.Helper()
	r := f.node.app().do(t, "POST", "/v1/apps/"+f.node.boot.App+"/api-keys", object{"name": "apache", "scopes": []string{"verify"}}).want(t, http.StatusCreated)
	if r.APIKey == "" {
		t.Fatalf("no API key in %s", r.raw)
	}
	return r.APIKey
}

// TestApache: what deploy/proxy/apache/README.md promises of introspection.conf:
// a revoked session is refused at once.
func TestApache(t *testing.T) {
	f := startApache(t, "introspection.conf", "auth_openidc", func(f *front, dir string) []string {
		base, ca := terminate(t, f.node, dir)
		return []string{"https://sessions.example.com", base, "Define api_key  sk_...", "Define api_key " + f.verifyKey(t),
			"OIDCOAuthClientID", "OIDCCABundlePath " + ca + "\n    OIDCOAuthClientID"}
	})
	f.suite(t, http.StatusUnauthorized, 0)
}

// TestApacheKeeps: without the line marked (1) Apache lets a revoked session in,
// which is why it stands there, and no longer than introspection_max_exp_seconds.
func TestApacheKeeps(t *testing.T) {
	f := startApache(t, "introspection.conf", "auth_openidc", func(f *front, dir string) []string {
		base, ca := terminate(t, f.node, dir)
		return []string{"https://sessions.example.com", base, "Define api_key  sk_...", "Define api_key " + f.verifyKey(t),
			"OIDCOAuthClientID", "OIDCCABundlePath " + ca + "\n    OIDCOAuthClientID", "OIDCOAuthTokenIntrospectionInterval -1", "OIDCOAuthTokenIntrospectionInterval 0"}
	})
	f.node.app().do(t, "PATCH", "/v1/apps/"+f.node.boot.App, object{"introspection_max_exp_seconds": 3}).want(t, http.StatusOK)
	token := f.node.app().create(t, "ada").SessionToken
	bearer := "Authorization: Bearer " + token
	if a := f.ask(t, "GET", "/", "", bearer); a.status != 200 {
		t.Fatalf("%d", a.status)
	}
	f.node.app().do(t, "POST", "/v1/sessions/revoke", object{"session_token": token}).want(t, http.StatusOK)
	if a := f.ask(t, "GET", "/", "", bearer); a.status != 200 {
		t.Errorf("the README warns of an answer that is kept, and there was none: %d", a.status)
	}
	time.Sleep(5 * time.Second)
	if a := f.ask(t, "GET", "/", "", bearer); a.status != 401 {
		t.Errorf("the cap on exp did not end what Apache kept: %d", a.status)
	}
}

// TestApacheOAuth2: what the README promises of oauth2.conf: a revoked session is
// let in for a second at most.
func TestApacheOAuth2(t *testing.T) {
	f := startApache(t, "oauth2.conf", "oauth2", func(f *front, dir string) []string {
		return []string{"http://127.0.0.1:8080", f.node.base, "Define api_key  sk_...", "Define api_key " + f.verifyKey(t)}
	})
	f.suite(t, http.StatusUnauthorized, 2100*time.Millisecond)
}

// TestApacheJWT: what the README promises of jwt.conf.
func TestApacheJWT(t *testing.T) {
	f := startApache(t, "jwt.conf", "auth_openidc", func(f *front, dir string) []string {
		base, ca := terminate(t, f.node, dir)
		return []string{"OIDCOAuthVerifyJwksUri ${revocast}", "OIDCCABundlePath " + ca + "\n    OIDCOAuthVerifyJwksUri " + base, "https://sessions.example.com", f.node.base}
	})
	app := f.node.app()
	s := app.create(t, "ada löve")
	a := f.ask(t, "POST", "/page", withBody, append([]string{"Authorization: Bearer " + s.SessionJWT}, spoofs...)...)
	if a.status != 200 || a.body != "POST /page "+withBody {
		t.Fatalf("%d %s", a.status, a.body)
	}
	f.wantSession(t, "JWT", a, s.Session.SessionID)
	other := f.node.newApp(t, "other", nil).create(t, "ada").SessionJWT
	forged := s.SessionJWT[:len(s.SessionJWT)-8] + "AAAAAAAA"
	for name, credential := range map[string]string{"token": s.SessionToken, "another app": other, "forged": forged, "junk": "a.b.c", "API key": f.node.boot.APIKey} {
		if a := f.ask(t, "GET", "/page", "", "Authorization: Bearer "+credential); a.status != 401 {
			t.Errorf("%s: %d", name, a.status)
		}
	}
	for _, path := range strange {
		if a := f.ask(t, "GET", path, "", spoofs...); a.status == 200 {
			t.Errorf("%s: let in without a credential", path)
		}
	}
}
