package events_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
)

// authority is a certificate authority of one test.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	ca   string // file of its certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.ca, _ = a.issue(t, "ca")
	return a
}

// issue makes a certificate for loopback; the first one is the authority's own.
func (a *authority) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if a.cert == nil {
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
		a.cert, a.key = c, k
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	write := func(file, kind string, der []byte) string {
		file = filepath.Join(a.dir, file)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write(name+".pem", "CERTIFICATE", der), write(name+".key", "PRIVATE KEY", secret)
}

// TestTLS has three servers and a node that trust each other by certificates,
// and nobody else.
func TestTLS(t *testing.T) {
	a := newAuthority(t)
	var urls []string
	for _, env := range region3(t) {
		env["NATS_CA"] = a.ca
		env["NATS_CERT"], env["NATS_KEY"] = a.issue(t, env["NATS_NAME"])
		startFile(t, "region3/server-tls.conf", env)
		urls = append(urls, "tls://operator:operator-pw@"+env["NATS_LISTEN"])
	}
	good := events.ConnectConfig{URL: strings.Join(urls, ","), Name: "tls", CA: a.ca}
	good.Cert, good.Key = a.issue(t, "client")
	nc, err := events.Connect(good)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	awaitMeta(t, nc)
	// Three copies: the servers have found each other.
	err = events.CreateCluster(patient(t), nc, events.ClusterConfig{
		Cluster: "c1", Region: "eu", Keys: newKeys(t), MaxBytes: 64 << 20, ConfigMaxBytes: 1 << 20, Replicas: 3,
	})
	if err != nil {
		t.Fatal(err)
	}

	stranger := newAuthority(t)
	cert, key := stranger.issue(t, "stranger")
	for name, change := range map[string]func(*events.ConnectConfig){
		"no certificate":      func(c *events.ConnectConfig) { c.Cert, c.Key = "", "" },
		"another's":           func(c *events.ConnectConfig) { c.Cert, c.Key = cert, key },
		"another authority":   func(c *events.ConnectConfig) { c.CA = stranger.ca },
		"no key":              func(c *events.ConnectConfig) { c.Key = "" },
		"a missing authority": func(c *events.ConnectConfig) { c.CA = filepath.Join(t.TempDir(), "none") },
		"no credentials":      func(c *events.ConnectConfig) { c.Creds = filepath.Join(t.TempDir(), "none") },
		"a wrong password":    func(c *events.ConnectConfig) { c.URL = strings.ReplaceAll(c.URL, "operator-pw", "wrong-secret") },
		"not an address":      func(c *events.ConnectConfig) { c.URL = "nats://operator:wrong-secret@[::1:4222" },
	} {
		c := good
		change(&c)
		nc, err := events.Connect(c)
		if err == nil {
			nc.Close()
			t.Errorf("%s: connected", name)
			continue
		}
		if text := err.Error(); strings.Contains(text, "operator-pw") || strings.Contains(text, "wrong-secret") || strings.Contains(text, "\n") {
			t.Errorf("%s: a password, or not one line: %q", name, text)
		}
	}
}
