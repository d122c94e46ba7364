package node

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
)

// TestSessionCookie: a cookie that a browser would not keep is reported, and a
// token that would say more than a value is not made one. Tokens of ours are
// neither; those of other systems can be.
func TestSessionCookie(t *testing.T) {
	n := &Node{conf: Config{Clock: events.SystemClock{}}}
	f := found{}
	f.ExpiresAt = time.Now().Add(time.Hour).UnixMilli()
	for _, tc := range []struct{ token, warning string }{
		{strings.Repeat("x", 44), ""},
		{strings.Repeat("x", 4096-len("__Host-session=")), ""},
		{strings.Repeat("x", 4097-len("__Host-session=")), "cookie_over_4096_bytes"},
		{"", "token_is_no_cookie"},
		{"a; Domain=evil.example", "token_is_no_cookie"},
		{"a\r\nSet-Cookie: b=c", "token_is_no_cookie"},
		{`"a"`, "token_is_no_cookie"}, {"a b", "token_is_no_cookie"}, {"a,b", "token_is_no_cookie"}, {`a\b`, "token_is_no_cookie"}, {"\xe9", "token_is_no_cookie"},
		{"a.b-c_d~e=!#$%&'()*+/:<>?@[]^`{|}", ""},
	} {
		c := &call{h: http.Header{}}
		value := n.sessionCookie(c, f, events.Token(tc.token))
		if c.h.Get(warningHeader) != tc.warning || (value == "") != (tc.warning == "token_is_no_cookie") {
			t.Errorf("%.40q: %.60q, warning %q; want %q", tc.token, value, c.h.Get(warningHeader), tc.warning)
		}
		if value != "" && value != hostCookie+"="+tc.token+"; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=3600" {
			t.Errorf("%.40q: %q", tc.token, value)
		}
	}
}
