package node_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// imported is the answer to an import.
type imported struct {
	*reply
	lines   []map[string]any
	summary map[string]any
}

// imports sends the body, of which each part is a line unless it is bytes.
func (h *harness) imports(key string, lines ...any) *imported {
	h.t.Helper()
	var body bytes.Buffer
	for _, line := range lines {
		switch l := line.(type) {
		case string:
			body.WriteString(l + "\n")
		case []byte:
			body.Write(l)
		default:
			text, err := json.Marshal(l)
			if err != nil {
				h.t.Fatal(err)
			}
			body.Write(append(text, '\n'))
		}
	}
	return h.importBody(key, &body)
}

func (h *harness) importBody(key string, body io.Reader, headers ...string) *imported {
	h.t.Helper()
	r := httptest.NewRequestWithContext(h.t.Context(), "POST", "/v1/sessions/import", body)
	r.Header.Set("Content-Type", "application/x-ndjson")
	r.Header.Set("Authorization", "Bearer "+key)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	out := &imported{reply: h.send(r)}
	if out.Status != http.StatusOK {
		return out
	}
	for lines := bufio.NewScanner(bytes.NewReader(out.Raw)); lines.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			h.t.Fatalf("answer line %q: %v", lines.Text(), err)
		}
		out.lines = append(out.lines, line)
	}
	if len(out.lines) == 0 || out.lines[len(out.lines)-1]["type"] != "summary" {
		h.t.Fatalf("no summary: %s", out.Raw)
	}
	out.summary = out.lines[len(out.lines)-1]
	return out
}

// wantCounts fails unless the summary is complete and counts so.
func (r *imported) wantCounts(imported, exists, expired, ended, bad int) *imported {
	r.t.Helper()
	r.want(http.StatusOK)
	got := fmt.Sprint(r.summary["imported"], r.summary["exists"], r.summary["expired"], r.summary["ended"], r.summary["bad"], r.summary["complete"])
	if want := fmt.Sprint(imported, exists, expired, ended, bad, true); got != want {
		r.t.Fatalf("imported, exists, expired, ended, bad, complete: %s, want %s\n%s", got, want, r.Raw)
	}
	return r
}

// errorAt returns what was said of a line of the body, nil for nothing.
func (r *imported) errorAt(line int) map[string]any {
	for _, l := range r.lines {
		if l["type"] == "error" && l["line"] == float64(line) {
			return l
		}
	}
	return nil
}

func hexOf(token string) string { h := events.TokenHash(token); return hex.EncodeToString(h[:]) }

func base64Of(token string) string {
	h := events.TokenHash(token)
	return base64.RawURLEncoding.EncodeToString(h[:])
}

func TestImport(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		began := time.Now().Add(-time.Hour).UTC().Truncate(time.Millisecond)
		stepUp := began.Add(30 * time.Minute) // who imports a session may have used it since it began
		rows := []any{
			m{"token_sha256": hexOf("one"), "user_id": "ada", "expires_at": began.Add(48 * time.Hour), "started_at": began},
			m{"token_sha256": strings.ToUpper(hexOf("two")), "user_id": "ada", "session_duration_minutes": 120, "started_at": began},
			m{"token_sha256": base64Of("three"), "user_id": "bob", "idle_timeout_minutes": 60, "absolute_lifetime_minutes": 600},
			m{
				"token": "four", "user_id": "bob", "attributes": m{"ip_address": "192.0.2.1", "user_agent": "x"},
				"started_at": began, "authentication_factors": []any{m{"type": "password", "last_authenticated_at": stepUp}}, "session_custom_claims": m{"role": "admin"}, "metadata": m{"a": 1},
			},
		}
		r := h.imports(h.key, rows...).wantCounts(4, 0, 0, 0, 0)
		if r.summary["last_line"] != 4.0 || r.summary["revision"] == nil {
			t.Errorf("summary %v", r.summary)
		}
		if got := h.do(h.key, "GET", "/v1/apps/"+h.app, nil).want(http.StatusOK).str("app.import_region"); got != "eu" {
			t.Errorf("import_region %q", got)
		}
		one := h.auth(m{"session_token": "one"}).want(http.StatusOK)
		if d := cmp.Diff(map[string]any{"started": began.Format(time.RFC3339Nano), "expires": began.Add(48 * time.Hour).Format(time.RFC3339Nano)},
			map[string]any{"started": one.at("session.started_at"), "expires": one.at("session.expires_at")}); d != "" {
			t.Errorf("times of the first (-want +got):\n%s", d)
		}
		two := h.auth(m{"session_token": "two"}).want(http.StatusOK)
		if got := two.str("session.expires_at"); got != began.Add(2*time.Hour).Format(time.RFC3339Nano) {
			t.Errorf("a duration of 2 h that began %s ends %s", began, got)
		}
		h.verifyIn(h.app, "three").want(http.StatusNoContent)
		four := h.auth(m{"session_token": "four"}).want(http.StatusOK)
		for path, want := range map[string]any{"session.custom_claims.role": "admin", "session.metadata.a": 1.0, "session.attributes.ip_address": "192.0.2.1", "session.authenticated_at": stepUp.Truncate(time.Second).Format(time.RFC3339)} {
			if four.at(path) != want {
				t.Errorf("%s: %v, want %v", path, four.at(path), want)
			}
		}

		// The same again, as after an answer that was lost.
		before := h.stored()
		h.imports(h.key, rows...).wantCounts(0, 4, 0, 0, 0)
		if h.stored() != before {
			t.Error("a repeat was written")
		}
		h.do(h.key, "POST", "/v1/sessions/revoke", m{"user_id": "bob"}).want(http.StatusOK)
		h.imports(h.key, rows...).wantCounts(0, 2, 0, 2, 0)
		h.verifyIn(h.app, "four").wantRefused("revoked")
		time.Sleep(time.Hour)
		h.imports(h.key, rows...).wantCounts(0, 1, 1, 2, 0)
		h.verifyIn(h.app, "two").wantRefused("expired")
	})
}

// Only what is known can be handed back to who shows a JWT alone.
func TestImportedTokenIsHandedBack(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.do(h.key, "PATCH", "/v1/apps/"+h.app, m{"return_token": true}).want(http.StatusOK)
		h.imports(h.key, m{"token": "whole", "user_id": "ada"}, m{"token_sha256": hexOf("hashed"), "user_id": "ada"}).wantCounts(2, 0, 0, 0, 0)
		for token, want := range map[string]string{"whole": "whole", "hashed": ""} {
			jwt := h.auth(m{"session_token": token}).want(http.StatusOK).str("session_jwt")
			if got := h.auth(m{"session_jwt": jwt}).want(http.StatusOK).str("session_token"); got != want {
				t.Errorf("%s: token %q, want %q", token, got, want)
			}
		}
	})
}

func TestImportBadRows(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		good := func(i int) m { return m{"token": fmt.Sprint("good", i), "user_id": "ada"} }
		row := func(more m) m {
			r := m{"token": "x", "user_id": "ada"}
			for k, v := range more {
				if r[k] = v; v == nil {
					delete(r, k)
				}
			}
			return r
		}
		big := strings.Repeat("x", 5000)
		for name, c := range map[string]struct {
			line       any
			kind       string
			field, has string
		}{
			"no JSON":          {`{"token": "x"`, "invalid_argument", "", "JSON"},
			"array":            {`["x"]`, "invalid_argument", "", "object"},
			"two values":       {`{"token":"x","user_id":"a"} {}`, "invalid_argument", "", "JSON"},
			"unknown field":    {row(m{"usr": "a"}), "invalid_argument", "usr", "unknown"},
			"twice":            {`{"user_id":"a","user_id":"b","token":"x"}`, "invalid_argument", "user_id", "twice"},
			"number":           {row(m{"user_id": 7}), "invalid_argument", "user_id", "string"},
			"fraction":         {row(m{"session_duration_minutes": 1.5}), "invalid_argument", "session_duration_minutes", "integer"},
			"time":             {row(m{"expires_at": "tomorrow"}), "invalid_argument", "expires_at", "RFC 3339"},
			"epoch":            {row(m{"expires_at": 1700000000}), "invalid_argument", "expires_at", "RFC 3339"},
			"no token":         {row(m{"token": nil}), "invalid_argument", "token_sha256", "required"},
			"both tokens":      {row(m{"token_sha256": hexOf("x")}), "invalid_argument", "token_sha256", "only one"},
			"short hash":       {row(m{"token": nil, "token_sha256": "abcd"}), "invalid_argument", "token_sha256", "64 hex digits"},
			"hash not hex":     {row(m{"token": nil, "token_sha256": strings.Repeat("g", 64)}), "invalid_argument", "token_sha256", "hex"},
			"hash with break":  {row(m{"token": nil, "token_sha256": base64Of("x")[:42] + "\n"}), "invalid_argument", "token_sha256", "base64url"},
			"hash with spares": {row(m{"token": nil, "token_sha256": strings.Repeat("_", 43)}), "invalid_argument", "token_sha256", "base64url"},
			"long token":       {row(m{"token": strings.Repeat("t", events.MaxForeignToken+1)}), "invalid_argument", "token", "over"},
			"no user":          {row(m{"user_id": nil}), "invalid_argument", "user_id", "required"},
			"long user":        {row(m{"user_id": strings.Repeat("u", 257)}), "invalid_argument", "user_id", "256"},
			"control in user":  {row(m{"user_id": "a\u0007"}), "invalid_argument", "user_id", "control"},
			"not UTF-8":        {"{\"token\":\"x\",\"user_id\":\"\xff\"}", "invalid_argument", "", "UTF-8"},
			"surrogate":        {`{"token":"x","user_id":"\ud800"}`, "invalid_argument", "", "surrogate"},
			"two ends":         {row(m{"expires_at": "2100-01-01T00:00:00Z", "session_duration_minutes": 5}), "invalid_argument", "session_duration_minutes", "not together"},
			"two last ends":    {row(m{"absolute_expires_at": "2100-01-01T00:00:00Z", "absolute_lifetime_minutes": 5}), "invalid_argument", "absolute_lifetime_minutes", "not together"},
			"negative":         {row(m{"session_duration_minutes": -1}), "invalid_argument", "session_duration_minutes", "want 1"},
			"began ahead":      {row(m{"started_at": time.Now().Add(time.Hour)}), "invalid_argument", "started_at", "ahead"},
			"began never":      {row(m{"started_at": "0001-01-01T00:00:00Z"}), "invalid_argument", "started_at", "1970"},
			"used ahead":       {row(m{"last_accessed_at": time.Now().Add(time.Hour)}), "invalid_argument", "last_accessed_at", "ahead"},
			"reserved claim":   {row(m{"session_custom_claims": m{"exp": 1}}), "invalid_argument", "session_custom_claims", "reserved"},
			"big claims":       {row(m{"session_custom_claims": m{"a": big}}), "claims_too_large", "", "over"},
			"big metadata":     {row(m{"metadata": m{"a": big + big}}), "claims_too_large", "", "over"},
			"claims no object": {row(m{"session_custom_claims": []int{1}}), "invalid_argument", "session_custom_claims", "object"},
			"factor":           {row(m{"authentication_factors": []any{m{"no": 1}}}), "invalid_argument", "authentication_factors[0].type", "required"},
			"factor's time":    {row(m{"authentication_factors": []any{m{"type": "pin", "last_authenticated_at": 1700000000}}}), "invalid_argument", "authentication_factors[0].last_authenticated_at", "RFC 3339"},
			"factor ahead":     {row(m{"authentication_factors": []any{m{"type": "pin", "last_authenticated_at": time.Now().Add(time.Hour)}}}), "invalid_argument", "authentication_factors[0].last_authenticated_at", "future"},
			"long line":        {`{"token":"` + strings.Repeat("x", 17<<10) + `"}`, "body_too_large", "", "over"},
			"longest line":     {`{"token":"` + strings.Repeat("x", 300<<10) + `"}`, "body_too_large", "", "over"},
			"expired":          {row(m{"expires_at": "2000-01-01T00:00:00Z"}), "imported_session_expired", "expires_at", "ended"},
			"over absolutely":  {row(m{"started_at": "1999-01-01T00:00:00Z"}), "imported_session_expired", "expires_at", "ended"},
			"idle": {row(m{"started_at": time.Now().Add(-5 * time.Hour), "last_accessed_at": time.Now().Add(-3 * time.Hour), "idle_timeout_minutes": 60}),
				"imported_session_expired", "last_accessed_at", "idle"},
		} {
			before := h.stored()
			r := h.imports(h.key, "", c.line)
			got := r.errorAt(2)
			if got == nil || got["error_type"] != c.kind || !strings.Contains(fmt.Sprint(got["error_message"]), c.has) || r.summary["complete"] != true || r.summary["last_line"] != 2.0 {
				t.Fatalf("%s: want %s with %q at line 2\n%s", name, c.kind, c.has, r.Raw)
			}
			details, _ := got["error_details"].(map[string]any)
			if field, _ := details["field"].(string); field != c.field {
				t.Errorf("%s: field %q, want %q", name, field, c.field)
			}
			if r.summary["bad"] == 0.0 && r.summary["expired"] == 0.0 {
				t.Errorf("%s: not counted: %v", name, r.summary)
			}
			if got := h.stored() - before; got != 0 {
				t.Errorf("%s: %d events were written", name, got)
			}
			// Its neighbours are imported.
			if r := h.imports(h.key, good(1), c.line, good(2)); r.summary["last_line"] != 3.0 || r.errorAt(2) == nil {
				t.Errorf("%s: between others: %s", name, r.Raw)
			}
		}
		for i := range 2 {
			h.verifyIn(h.app, fmt.Sprint("good", i+1)).want(http.StatusNoContent)
		}
		h.verifyIn(h.app, "x").wantRefused("unknown")
	})
}

// Twice in one file is one session, and who has it does not change.
func TestImportDuplicates(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		var rows []any
		for range 100 {
			rows = append(rows, m{"token": "same", "user_id": "ada"})
		}
		h.imports(h.key, rows...).wantCounts(1, 99, 0, 0, 0)
		r := h.imports(h.key, m{"token": "same", "user_id": "eve"}).wantCounts(0, 0, 0, 0, 1)
		if r.errorAt(1)["error_type"] != "foreign_session_conflict" {
			t.Errorf("another user: %s", r.Raw)
		}
		r = h.imports(h.key, m{"token": "new", "user_id": "eve"}, m{"token": "new", "user_id": "ada"})
		if r.summary["imported"] != 1.0 || r.summary["bad"] != 1.0 {
			t.Errorf("two users in one file: %s", r.Raw)
		}
		if v := h.verifyIn(h.app, "same").want(http.StatusNoContent); v.Header.Get("X-Session-User") != "ada" {
			t.Errorf("user %s", v.Header.Get("X-Session-User"))
		}
	})
}

func TestImportRefused(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		line := `{"token":"x","user_id":"ada"}` + "\n"
		var zipped bytes.Buffer
		z := gzip.NewWriter(&zipped)
		_, _ = z.Write([]byte(line))
		_ = z.Close()
		h.importBody(h.key, &zipped, "Content-Encoding", "gzip").wantError(http.StatusUnsupportedMediaType, "unsupported_media_type")
		h.importBody(h.key, strings.NewReader(line), "Content-Type", "text/csv").wantError(http.StatusUnsupportedMediaType, "unsupported_media_type")
		h.importBody("sk_wrong", strings.NewReader(line)).wantError(http.StatusUnauthorized, "unauthorized_credentials")
		narrow := h.do(h.key, "POST", "/v1/apps/"+h.app+"/api-keys", m{"scopes": []string{"create", "verify", "read", "revoke"}}).want(http.StatusCreated).str("api_key")
		h.importBody(narrow, strings.NewReader(line)).wantError(http.StatusForbidden, "forbidden")
		// What was unpacked as it came is bytes, and bad rows.
		if r := h.importBody(h.key, bytes.NewReader(zipped.Bytes())); r.summary["imported"] != 0.0 {
			t.Errorf("gzip without a word: %s", r.Raw)
		}
		h.imports(h.key).wantCounts(0, 0, 0, 0, 0)
		h.imports(h.key, []byte(strings.TrimSpace(line))).wantCounts(1, 0, 0, 0, 0) // the last line may have no end
		h.imports(h.key, []byte("{\"token\":\"crlf\",\"user_id\":\"a\"}\r\n\r\n\n")).wantCounts(1, 0, 0, 0, 0)
	})
}

// brokenBody breaks off in the middle of a line.
type brokenBody struct{ io.Reader }

func (b brokenBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// What a client sent before it went away is imported, and half a line is not.
func TestImportBreaksOff(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		body := `{"token":"a","user_id":"ada"}` + "\n" + `{"token":"b","user_id":"ada"}`
		r := h.importBody(h.key, brokenBody{strings.NewReader(body)}).want(http.StatusOK)
		_ = r
		h.verifyIn(h.app, "a").want(http.StatusNoContent)
		h.verifyIn(h.app, "b").wantRefused("unknown")
	})
}

// An import that cannot go on says so, and from where; nothing is lost by sending
// all of it again.
func TestImportStops(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		var rows []any
		for i := range 3000 {
			rows = append(rows, m{"token": fmt.Sprint("t", i), "user_id": fmt.Sprint("u", i), "metadata": m{"a": strings.Repeat("x", 500)}})
		}
		h.home.SetMaxBytes(1 << 20)
		time.Sleep(2 * time.Second)
		r := h.imports(h.key, rows...)
		if r.summary["complete"] != false || r.summary["error_type"] != "log_full" {
			t.Fatalf("the log was filled: %v", r.summary)
		}
		line := int(r.summary["last_line"].(float64))
		// Chunks are written beside each other, so which one found the log full first is open.
		if line >= 3000 || !strings.Contains(fmt.Sprint(r.summary["error_message"]), fmt.Sprintf("go on from line %d", line+1)) {
			t.Errorf("summary %v", r.summary)
		}
		if r.summary["imported"] != float64(line) {
			t.Errorf("%v of %d lines imported", r.summary["imported"], line)
		}
		h.imports(h.key, rows[0]).wantError1(t, "log_full")
		h.home.SetMaxBytes(1 << 30)
		time.Sleep(2 * time.Second)
		again := h.imports(h.key, rows[line:]...)
		if again.summary["complete"] != true || again.summary["imported"].(float64)+again.summary["exists"].(float64) != float64(3000-line) {
			t.Errorf("the rest: %v", again.summary)
		}
		h.imports(h.key, rows...).wantCounts(0, 3000, 0, 0, 0)
		if total := h.do(h.key, "GET", "/v1/sessions?limit=1", nil).want(http.StatusOK).at("total"); total != 3000.0 {
			t.Errorf("%v sessions", total)
		}
	})
}

// wantError1 fails unless the import stopped for that reason, or had nothing to do.
func (r *imported) wantError1(t *testing.T, kind string) {
	t.Helper()
	if r.summary["exists"] != 1.0 && r.summary["error_type"] != kind {
		t.Errorf("summary %v, want %s", r.summary, kind)
	}
}

// While the memory is full nothing is imported.
func TestImportMemoryFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Bool
		h := newHarness(t, func(c *node.Config) {
			c.Memory = func() (uint64, uint64) {
				if full.Load() {
					return 90, 100
				}
				return 10, 100
			}
		})
		full.Store(true)
		time.Sleep(time.Second)
		r := h.imports(h.key, m{"token": "a", "user_id": "ada"})
		if r.summary["error_type"] != "memory_full" || r.summary["last_line"] != 0.0 {
			t.Errorf("summary %v", r.summary)
		}
	})
}

// A key that is revoked while the import runs ends it.
func TestImportWithRevokedKey(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		made := h.do(h.key, "POST", "/v1/apps/"+h.app+"/api-keys", m{"scopes": []string{"admin"}}).want(http.StatusCreated)
		r, w := io.Pipe()
		go func() {
			defer w.Close()
			for i := range 6000 {
				if i == 4000 {
					h.do(h.key, "DELETE", "/v1/apps/"+h.app+"/api-keys/"+made.str("key.id"), nil).want(http.StatusOK)
				}
				if _, err := fmt.Fprintf(w, `{"token":"t%d","user_id":"u"}`+"\n", i); err != nil {
					return
				}
			}
		}()
		out := h.importBody(made.str("api_key"), r)
		_ = r.Close()
		if out.summary["error_type"] != "unauthorized_credentials" || out.summary["last_line"].(float64) < 3000 || out.summary["last_line"].(float64) > 5500 {
			t.Errorf("summary %v", out.summary)
		}
	})
}

// Two nodes that import the same at once make each session once.
func TestImportTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		b := h.far()
		var rows []any
		for i := range 500 {
			rows = append(rows, m{"token": fmt.Sprint("t", i), "user_id": fmt.Sprint("u", i)})
		}
		h.imports(h.key, rows[0]).wantCounts(1, 0, 0, 0, 0)
		answers := make(chan *imported, 2)
		for _, n := range []*harness{h, b.harness} {
			go func() { answers <- n.imports(n.key, rows...) }()
		}
		for range 2 {
			if r := <-answers; r.summary["complete"] != true || r.summary["bad"] != 0.0 || r.summary["ended"] != 0.0 {
				t.Errorf("summary %v", r.summary)
			}
		}
		time.Sleep(10 * time.Second)
		for _, n := range []*harness{h, b.harness} {
			if total := n.do(n.key, "GET", "/v1/sessions?limit=1", nil).want(http.StatusOK).at("total"); total != 500.0 {
				t.Errorf("%v sessions", total)
			}
		}
	})
}
