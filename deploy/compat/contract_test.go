package compat

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Traefik and Envoy are in no package of Debian. These tests do what each of them
// does to a request, with the lists of its configuration, so that the two halves of
// the contract, the answers of a node and the configuration, are tested together.

// listed returns the items below the key in a configuration: of a list in one line,
// the names of a map, or the lines that begin with a dash.
func listed(t *testing.T, name, key string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "proxy", name))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	item := regexp.MustCompile(`^ *(?:- exact: |- |)([A-Za-z_-]+)(?:: "")?$`)
	for i, line := range lines {
		line, _, _ = strings.Cut(line, " #")
		indent := len(line) - len(strings.TrimLeft(line, " "))
		value, ok := strings.CutPrefix(strings.TrimLeft(line, " "), key+":")
		if !ok {
			continue
		}
		if value = strings.TrimSpace(value); value != "" {
			return strings.Split(strings.Trim(value, "[]"), ", ")
		}
		for _, below := range lines[i+1:] {
			if strings.TrimSpace(below) == "patterns:" {
				continue
			}
			m := item.FindStringSubmatch(below)
			if len(below)-len(strings.TrimLeft(below, " ")) <= indent || m == nil {
				break
			}
			all = append(all, m[1])
		}
	}
	if len(all) == 0 {
		t.Fatalf("%s has no %s", name, key)
	}
	return all
}

// contract serves what pass lets through to the application.
func (f *front) contract(t *testing.T, pass func(w http.ResponseWriter, r *http.Request) bool) {
	t.Helper()
	to, err := url.Parse("http://" + f.app)
	if err != nil {
		t.Fatal(err)
	}
	application := httputil.NewSingleHostReverseProxy(to)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if pass(w, r) {
			application.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(proxy.Close)
	f.addr = proxy.Listener.Addr().String()
}

// TestTraefik: GET of one address, with the headers of authRequestHeaders and
// X-Forwarded-*; of an answer that is good those of authResponseHeaders are set in
// the request, any other is handed to the client.
func TestTraefik(t *testing.T) {
	f := newFront(t)
	const conf = "traefik/dynamic.yaml"
	strip, sent, set := listed(t, conf, "customRequestHeaders"), listed(t, conf, "authRequestHeaders"), listed(t, conf, "authResponseHeaders")
	address := strings.Replace(strings.TrimPrefix(listed(t, conf, "address")[0], "http://"), "127.0.0.1:8080", f.node.addr, 1)
	f.contract(t, func(w http.ResponseWriter, r *http.Request) bool {
		for _, name := range strip {
			r.Header.Del(name)
		}
		ask, err := http.NewRequest("GET", "http://"+address, nil)
		if err != nil {
			t.Error(err)
			return false
		}
		for _, name := range sent {
			if values := r.Header.Values(name); len(values) > 0 {
				ask.Header[http.CanonicalHeaderKey(name)] = values
			}
		}
		for name, value := range map[string]string{"Method": r.Method, "Proto": "http", "Host": r.Host, "Uri": r.URL.RequestURI(), "For": "192.0.2.1"} {
			ask.Header.Set("X-Forwarded-"+name, value)
		}
		answer, err := noRedirects.Do(ask)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return false
		}
		defer answer.Body.Close()
		if answer.StatusCode < 200 || answer.StatusCode > 299 {
			for name, values := range answer.Header {
				w.Header()[name] = values
			}
			w.WriteHeader(answer.StatusCode)
			_, _ = io.Copy(w, answer.Body)
			return false
		}
		for _, name := range set {
			r.Header.Del(name)
			if values := answer.Header.Values(name); len(values) > 0 {
				r.Header[http.CanonicalHeaderKey(name)] = values
			}
		}
		return true
	})
	f.suite(t, http.StatusInternalServerError, 0)
}

// TestEnvoy: the method of the request, with its path and query behind path_prefix;
// nothing but 200 is good, a status of 500 and more is an error, which has
// status_on_error, and any other is handed to the client.
func TestEnvoy(t *testing.T) {
	f := newFront(t)
	const conf = "envoy/envoy.yaml"
	sent, set, shown := listed(t, conf, "allowed_headers"), listed(t, conf, "allowed_upstream_headers"), listed(t, conf, "allowed_client_headers")
	remove := listed(t, conf, "request_headers_to_remove")
	prefix := strings.Replace(listed(t, conf, "path_prefix")[0], "/shop", "/"+f.node.boot.App, 1)
	f.contract(t, func(w http.ResponseWriter, r *http.Request) bool {
		for name := range r.Header {
			if strings.Contains(name, "_") { // headers_with_underscores_action
				delete(r.Header, name)
			}
		}
		c, err := net.Dial("tcp", f.node.addr)
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return false
		}
		defer c.Close()
		fmt.Fprintf(c, "%s %s%s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\n", r.Method, prefix, r.RequestURI, r.Host)
		for _, name := range append(sent, "authorization") {
			for _, value := range r.Header.Values(name) {
				fmt.Fprintf(c, "%s: %s\r\n", name, value)
			}
		}
		fmt.Fprint(c, "\r\n")
		answer, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: r.Method})
		if err != nil || answer.StatusCode >= 500 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return false
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			for _, name := range shown {
				for _, value := range answer.Header.Values(name) {
					w.Header().Add(name, value)
				}
			}
			w.WriteHeader(answer.StatusCode)
			return false
		}
		for _, name := range set {
			if value := answer.Header.Get(name); value != "" {
				r.Header.Set(name, value)
			}
		}
		for _, name := range remove {
			r.Header.Del(name)
		}
		return true
	})
	f.suite(t, http.StatusServiceUnavailable, 0)
}
