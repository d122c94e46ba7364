package outbound

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestPublic(t *testing.T) {
	for text, want := range map[string]bool{
		"1.1.1.1": true, "8.8.8.8": true, "172.15.0.1": true, "172.32.0.1": true, "100.63.0.1": true, "100.128.0.1": true,
		"2606:4700::1111": true, "::ffff:1.1.1.1": true,
		"0.0.0.0": false, "10.1.2.3": false, "100.64.0.1": false, "100.100.100.200": false, "127.0.0.1": false, "127.255.255.254": false,
		"169.254.169.254": false, "172.16.0.1": false, "172.31.255.255": false, "192.0.0.8": false, "192.168.1.1": false,
		"198.18.0.1": false, "224.0.0.1": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "::127.0.0.1": false, "::ffff:10.0.0.1": false, "::ffff:127.0.0.1": false, "64:ff9b::a00:1": false,
		"64:ff9b:1::1": false, "100::1": false, "2001::1": false, "2001:db8::1": false, "2002:7f00:1::": false, "fc00::1": false,
		"fd00:ec2::254": false, "fe80::1": false, "fec0::1": false, "ff02::1": false, "4000::1": false,
	} {
		if got := public(netip.MustParseAddr(text)); got != want {
			t.Errorf("public(%s) = %v", text, got)
		}
	}
}

func TestCheck(t *testing.T) {
	strict, lenient := New(), New(netip.MustParsePrefix("127.0.0.0/8"))
	for text, want := range map[string]struct{ strict, lenient bool }{
		"https://example.com/hook":           {true, true},
		"https://example.com:8443/hook?a=b":  {true, true},
		"https://1.1.1.1/":                   {true, true},
		"https://[2606:4700::1111]/":         {true, true},
		"https://example.com:22/":            {false, true}, // may turn out to be in the operator's network
		"http://example.com/":                {false, true}, // likewise; dialling decides
		"http://1.1.1.1/":                    {false, false},
		"https://1.1.1.1:22/":                {false, false},
		"https://127.0.0.1/":                 {false, true},
		"http://127.0.0.1:8080/":             {false, true},
		"http://[::ffff:127.0.0.1]:8080/":    {false, true},
		"https://169.254.169.254/latest":     {false, false},
		"https://[::1]/":                     {false, false},
		"https://[::ffff:10.0.0.1]/":         {false, false},
		"https://[fe80::1%25eth0]/":          {false, false},
		"https://0x7f.1/":                    {false, false},
		"https://2130706433/":                {false, false},
		"https://0177.0.0.1/":                {false, false},
		"https://127.1/":                     {false, false},
		"https://example.com:/":              {false, false},
		"https://example.com:0/":             {false, false},
		"https://example.com:70000/":         {false, false},
		"https://user:secret@example.com/":   {false, false},
		"https://example.com/#fragment":      {false, false},
		"https:example.com":                  {false, false},
		"https:///path":                      {false, false},
		"ftp://example.com/":                 {false, false},
		"file:///etc/passwd":                 {false, false},
		"gopher://example.com/":              {false, false},
		"//example.com/":                     {false, false},
		"example.com":                        {false, false},
		"":                                   {false, false},
		"https://example.com/" + long("a"):   {false, false},
		"https://example.com/#":              {false, false},
		"https://exa mple.com/":              {false, false},
		"https://example.com/hook ":          {false, false}, // as it is pasted
		"https://example.com/a\u00a0b":       {false, false},
		"https://example.com/\r\nHost: evil": {false, false},
	} {
		if err := strict.Check(text); (err == nil) != want.strict {
			t.Errorf("strict: %q: %v", text, err)
		}
		if err := lenient.Check(text); (err == nil) != want.lenient {
			t.Errorf("lenient: %q: %v", text, err)
		}
	}
}

func long(s string) string { return strings.Repeat(s, maxURL) }

// A name is judged by what it means when it is dialled.
func TestDialled(t *testing.T) {
	var asked atomic.Int64
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/inner", http.StatusFound)
		case "/large":
			_, _ = w.Write([]byte(long("x")))
		default:
			_, _ = w.Write([]byte("here"))
		}
	})
	plain, secure := httptest.NewServer(h), httptest.NewTLSServer(h)
	defer plain.Close()
	defer secure.Close()
	local := netip.MustParsePrefix("127.0.0.0/8")
	named := strings.Replace(plain.URL, "127.0.0.1", "localhost", 1)
	namedTLS := strings.Replace(secure.URL, "127.0.0.1", "localhost", 1)
	// No network of these holds the loopback address, though each lets the URL through.
	other := New(netip.MustParsePrefix("192.0.2.0/24"))
	for _, url := range []string{named, namedTLS} {
		if _, err := get(t, other, url, 100); !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: %v", url, err)
		}
	}
	if _, err := get(t, New(), plain.URL, 100); err == nil {
		t.Errorf("%s was reached", plain.URL)
	}
	if n := asked.Load(); n != 0 {
		t.Fatalf("%d requests came through", n)
	}
	c := New(local, netip.MustParsePrefix("::1/128"))
	if a, err := get(t, c, named, 100); err != nil || string(a.Body) != "here" {
		t.Errorf("allowed: %v, %v", a, err)
	}
	before := asked.Load()
	if a, err := get(t, c, plain.URL+"/redirect", 100); err != nil || a.Status != http.StatusFound || asked.Load() != before+1 {
		t.Errorf("redirect: %v, %v, %d requests", a, err, asked.Load()-before)
	}
	if _, err := get(t, c, plain.URL+"/large", 100); err == nil {
		t.Error("an answer over the limit was taken")
	}
}

// Of an answer that does not end in time there is what came of it: its status.
func TestAnswerWithoutEnd(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write([]byte("x"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The time is up once the header is there.
	r = r.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotFirstResponseByte: func() {
		time.AfterFunc(100*time.Millisecond, cancel)
	}}))
	a, err := New(netip.MustParsePrefix("127.0.0.0/8")).Do(r.Context(), r, 100)
	if err == nil || a == nil || a.Status != http.StatusAccepted || a.Body != nil {
		t.Errorf("%+v, %v", a, err)
	}
}

// What an error says must not hold the URL, which may be secret.
func TestErrorHidesURL(t *testing.T) {
	c := New(netip.MustParsePrefix("127.0.0.0/8"))
	s := httptest.NewServer(http.NotFoundHandler())
	url := s.URL + "/hidden?key=hidden"
	s.Close()
	if _, err := get(t, c, url, 100); err == nil || strings.Contains(err.Error(), "hidden") {
		t.Errorf("%v", err)
	}
}

func get(t *testing.T, c *Client, url string, limit int64) (*Answer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	defer cancel()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Do(ctx, r, limit)
}
