package compat

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// client speaks to a node with one API key; an empty key sends none.
type client struct {
	base string
	key  string
}

func (n *node) app() client   { return client{n.base, n.boot.APIKey} }
func (n *node) admin() client { return client{n.base, n.boot.AdminKey} }

// reply is an answer, read in full. Members that an answer lacks stay zero.
type reply struct {
	status int
	header http.Header
	raw    []byte

	StatusCode   int            `json:"status_code"`
	RequestID    string         `json:"request_id"`
	ErrorType    string         `json:"error_type"`
	ErrorMessage string         `json:"error_message"`
	ErrorURL     string         `json:"error_url"`
	ErrorDetails map[string]any `json:"error_details"`

	Session      session   `json:"session"`
	SessionToken string    `json:"session_token"`
	SessionJWT   string    `json:"session_jwt"`
	Sessions     []session `json:"sessions"`
	Total        int       `json:"total"`
	NextCursor   string    `json:"next_cursor"`
	Events       []event   `json:"events"`
	Revision     string    `json:"revision"`
	Revoked      *int      `json:"revoked"`
	Receipt      *receipt  `json:"receipt"`

	App    json.RawMessage `json:"app"`
	Apps   []app           `json:"apps"`
	APIKey string          `json:"api_key"`
	Keys   []key           `json:"keys"`

	// Of /v1/verify?body=1.
	SessionID string `json:"session_id"`
	UserID    string `json:"user_id"`
	AppID     string `json:"app_id"`
}

type session struct {
	SessionID         string            `json:"session_id"`
	AppID             string            `json:"app_id"`
	UserID            string            `json:"user_id"`
	Status            string            `json:"status"`
	StartedAt         time.Time         `json:"started_at"`
	ExpiresAt         time.Time         `json:"expires_at"`
	AbsoluteExpiresAt time.Time         `json:"absolute_expires_at"`
	IdleExpiresAt     *time.Time        `json:"idle_expires_at"`
	Attributes        map[string]string `json:"attributes"`
	Factors           []json.RawMessage `json:"authentication_factors"`
	CustomClaims      json.RawMessage   `json:"custom_claims"`
	Metadata          json.RawMessage   `json:"metadata"`
	RevokedBy         string            `json:"revoked_by"`
	RevokeReason      string            `json:"revoke_reason"`
}

type event struct {
	Type     string `json:"type"`
	By       string `json:"by"`
	Reason   string `json:"reason"`
	GapAfter string `json:"gap_after"`
}

type receipt struct {
	Revision     string `json:"revision"`
	Status       string `json:"status"`
	JWTSafeAfter string `json:"jwt_safe_after"`
	Applied      []any  `json:"applied"`
}

type app struct {
	AppID  string `json:"app_id"`
	State  string `json:"state"`
	Issuer string `json:"issuer"`
}

// key is a JWK, a signing key or an API key.
type key struct {
	KID   string `json:"kid"`
	Alg   string `json:"alg"`
	State string `json:"state"`
	ID    string `json:"id"`
}

// object is a JSON object to send.
type object map[string]any

// do sends a request. A body that is a string is sent as it is, nil sends
// none, anything else is sent as JSON. header holds names and values in turn.
func (c client) do(t testing.TB, method, path string, body any, header ...string) *reply {
	t.Helper()
	r, err := c.try(method, path, body, header...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

// try is do for those who expect that no answer may come.
func (c client) try(method, path string, body any, header ...string) (*reply, error) {
	var sent io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		sent = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		sent = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, c.base+path, sent)
	if err != nil {
		return nil, err
	}
	if sent != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	answer, err := noRedirects.Do(req)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	r := &reply{status: answer.StatusCode, header: answer.Header}
	if r.raw, err = io.ReadAll(answer.Body); err != nil {
		return nil, err
	}
	if strings.HasPrefix(r.header.Get("Content-Type"), "application/json") {
		// A member may be of another type, or a time of another form, where the API of
		// somebody else is answered.
		if err := json.Unmarshal(r.raw, r); err != nil && !json.Valid(r.raw) {
			return nil, fmt.Errorf("read the answer %s: %w", r.raw, err)
		}
	}
	return r, nil
}

// noRedirects shows redirects as they are: the API has none.
var noRedirects = &http.Client{
	Timeout:       30 * time.Second,
	Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// want fails the test at once unless the reply has the status.
func (r *reply) want(t testing.TB, status int) *reply {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d, want %d: %s", r.status, status, r.raw)
	}
	return r
}

// wrong says what is wrong with the reply as an error of that status and type,
// "" if nothing is.
func (r *reply) wrong(status int, errorType string) string {
	var bad []string
	check := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	check(r.status == status && r.ErrorType == errorType, "got %d %s, want %d %s", r.status, r.ErrorType, status, errorType)
	check(r.StatusCode == r.status, "status_code %d in the body", r.StatusCode)
	check(r.RequestID != "" && r.RequestID == r.header.Get("X-Request-Id"), "request_id %q, X-Request-Id %q", r.RequestID, r.header.Get("X-Request-Id"))
	check(r.ErrorMessage != "", "no error_message")
	check(strings.HasSuffix(r.ErrorURL, "#"+r.ErrorType), "error_url %q", r.ErrorURL)
	check(r.header.Get("Content-Type") == "application/json", "Content-Type %q", r.header.Get("Content-Type"))
	if status == http.StatusUnauthorized {
		check(r.header.Get("WWW-Authenticate") != "", "no WWW-Authenticate")
	}
	return strings.Join(bad, "; ")
}

// verify asks /v1/verify with the credential as a Bearer token.
func (c client) verify(t testing.TB, credential string) *reply {
	t.Helper()
	return client{c.base, credential}.do(t, "GET", "/v1/verify", nil)
}

// create makes a session of the user.
func (c client) create(t testing.TB, user string) *reply {
	t.Helper()
	return c.do(t, "POST", "/v1/sessions", object{"user_id": user}).want(t, http.StatusCreated)
}

// newApp makes an app and returns a client with its first API key.
func (n *node) newApp(t testing.TB, id string, settings object) client {
	t.Helper()
	body := object{"app_id": id}
	for k, v := range settings {
		body[k] = v
	}
	r := n.admin().do(t, "POST", "/v1/apps", body).want(t, http.StatusCreated)
	if r.APIKey == "" {
		t.Fatalf("create app %s: no api_key in %s", id, r.raw)
	}
	return client{n.base, r.APIKey}
}

// part decodes a part of a JWT without verifying anything.
func part(t testing.TB, jwt string, i int) map[string]any {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("a JWT has three parts, this has %d", len(parts))
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[i])
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{}
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// table collects rows and logs them all when the test ends, aligned. A row
// with trouble fails the test.
type table struct {
	t    *testing.T
	buf  bytes.Buffer
	w    *tabwriter.Writer
	rows int
	bad  int
}

func newTable(t *testing.T, columns ...string) *table {
	tab := &table{t: t}
	tab.w = tabwriter.NewWriter(&tab.buf, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab.w, "\t"+strings.Join(columns, "\t"))
	t.Cleanup(func() {
		tab.w.Flush()
		t.Logf("%d rows, %d wrong\n%s", tab.rows, tab.bad, tab.buf.Bytes())
	})
	return tab
}

// row adds a row; trouble says what is wrong, "" if nothing is.
func (tab *table) row(trouble string, cells ...any) {
	tab.t.Helper()
	tab.rows++
	mark := "ok"
	if trouble != "" {
		mark = "WRONG"
		tab.bad++
		tab.t.Errorf("%v: %s", cells, trouble)
	}
	texts := []string{mark}
	for _, c := range cells {
		texts = append(texts, strings.ReplaceAll(fmt.Sprint(c), "\t", " "))
	}
	fmt.Fprintln(tab.w, strings.Join(texts, "\t"))
}

// unless returns "" if ok, else the text.
func unless(ok bool, format string, args ...any) string {
	if ok {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// encodePart decodes a part of a JWT, changes it, and encodes it again.
func encodePart(t *testing.T, text string, change func(map[string]any)) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{}
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	if raw, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// sameBits returns base64url text with another last character that a lenient
// decoder reads as the same bytes, "" when there is none.
func sameBits(text string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(text)%4 == 0 {
		return ""
	}
	last := strings.IndexByte(alphabet, text[len(text)-1])
	return text[:len(text)-1] + string(alphabet[last^1])
}

// basic returns the Authorization header of a user and a password.
func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}
