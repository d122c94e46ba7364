package node

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

// FuzzScanCredential: what the scan reads, decodeStrict reads just so. It may
// decline any body.
func FuzzScanCredential(f *testing.F) {
	for _, b := range []string{
		`{"session_token":"abc"}`, ` { "session_jwt" : "a.b.c" } `, `{"session_token":""}`, `{"session_jwt":""}`, `{}`, `{`, `}`, ``, `null`,
		`{"session_token":"a\u0062"}`, `{"session_token":"é"}`, `{"session_token":"a","session_jwt":"b"}`, `{"session_token":"a"}{}`,
		`{"session_token":"a",}`, `{"Session_Token":"a"}`, `{"session_token":null}`, `{"session_token":"a}`, "{\"session_token\":\"\x7f\"}",
		"{\v\"session_token\":\"a\"}", `{"session_token""a"}`, `{"session_token":"a"]}`, `{{"session_token":"a"}}`, "\ufeff{\"session_jwt\":\"a\"}",
	} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		cr, ok := scanCredential(bytes.Clone(b))
		if !ok {
			return
		}
		var in credentialBody
		if err := decodeStrict(b, &in); err != nil {
			t.Fatalf("%q was read, and decodeStrict says %v", b, err)
		}
		want := shown{text: in.SessionToken}
		if in.SessionJWT != "" {
			want = shown{in.SessionJWT, true}
		}
		if cr != want {
			t.Fatalf("%q is %+v, and %+v for decodeStrict", b, cr, want)
		}
	})
}

// TestUsualBodiesAreScanned: the scan is no use if it declines what everybody sends.
func TestUsualBodiesAreScanned(t *testing.T) {
	for _, b := range []string{`{"session_token":"abc"}`, "{\n  \"session_jwt\": \"a.b_-c\"\n}\n", ` {"session_token" : "abc" }`} {
		if _, ok := scanCredential([]byte(b)); !ok {
			t.Errorf("%q is not scanned", b)
		}
	}
	body := []byte(`{"session_token":"abc"}`)
	if allocs := testing.AllocsPerRun(100, func() { scanCredential(body) }); allocs > 1 { // the copy
		t.Errorf("%v allocations", allocs)
	}
	cr, _ := scanCredential(body)
	copy(body, bytes.Repeat([]byte("x"), len(body)))
	if cr.text != "abc" {
		t.Errorf("the credential changed with the buffer: %q", cr.text)
	}
}

// FuzzVerifyQuery: a plain query means what net/url makes of it.
func FuzzVerifyQuery(f *testing.F) {
	for _, q := range []string{
		"", "app=acme", "app=", "app", "app=a&app=a", "app=a&app=b", "app=a&app=", "jwt=1", "jwt=0&jwt=1", "jwt=true&body=1&background=1", "&&", "=", "app==a",
		"jwt=1&app=a&app=b", "a=b=c&jwt=1", "JWT=1", "é=1&jwt=1", "a&b&jwt", "?app=x",
		"max_age=60", "max_age=", "max_age=-1", "max_age=1&max_age=1", "acr=aal2&amr=otp,pwd", "acr=aal4", "acr=aal2&acr=aal1", "amr=otp,otp", "amr=,",
	} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if !plainQuery(raw) {
			return
		}
		var q, want verifyQuery
		bad, wantBad := q.parse(raw), false
		all, err := url.ParseQuery(raw)
		if wantBad = err != nil; !wantBad {
			for i, app := range all["app"] {
				wantBad = wantBad || app == "" || i > 0 && app != want.app
				want.app = app
			}
			for _, name := range []string{"max_age", "amr", "acr"} {
				for _, value := range all[name] {
					wantBad = want.demand(name, value) || wantBad
				}
			}
			want.jwt, want.body, want.background = isOn(all.Get("jwt")), isOn(all.Get("body")), isOn(all.Get("background"))
		}
		if bad != wantBad || !bad && !reflect.DeepEqual(q, want) {
			t.Fatalf("%q is %+v, bad %v; want %+v, %v", raw, q, bad, want, wantBad)
		}
	})
}

// TestReadBody: a body of a known length is read as one of an unknown length is.
func TestReadBody(t *testing.T) {
	for _, size := range []int{1, 44, pooledBody - 1, pooledBody, pooledBody + 1, maxBody, maxBody + 1} {
		content := strings.Repeat("x", size)
		for _, length := range []int64{int64(size), -1} {
			r := httptest.NewRequest("POST", "/v1/verify", strings.NewReader(content))
			r.ContentLength = length
			var buf [pooledBody]byte
			b, err := readBody(httptest.NewRecorder(), r, buf[:])
			if fits := size <= maxBody; fits != (err == nil) || fits && string(b) != content {
				t.Errorf("%d bytes, Content-Length %d: %d bytes, %v", size, length, len(b), err)
			}
		}
	}
	r := httptest.NewRequest("POST", "/v1/verify", http.NoBody)
	r.Body, r.ContentLength = failing{}, 10
	var buf [pooledBody]byte
	if _, err := readBody(httptest.NewRecorder(), r, buf[:]); err == nil {
		t.Error("a body that breaks off was read")
	}
}

// failing is a body that breaks off.
type failing struct{}

func (failing) Read(p []byte) (int, error) { return copy(p, `{"ses`), http.ErrBodyReadAfterClose }
func (failing) Close() error               { return nil }
