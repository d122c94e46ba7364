package node

import (
	"strconv"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/signer"
)

// The attributes of the cookie that bears a token. Without Domain, with Path=/
// and Secure, no other host can set it, nor a page over plain HTTP: that is what
// the prefix __Host- means (RFC 6265bis section 4.1.3.2).
const cookieAttributes = "; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age="

// clearedCookie takes the cookie away.
const clearedCookie = hostCookie + "=" + cookieAttributes + "0"

// sessionCookie returns the value of Set-Cookie for the token, which lasts as
// long as the session does unless it is extended. It reports one that a browser
// would not keep: name and value over 4,096 bytes (RFC 6265bis section 5.6). A
// foreign token that cannot stand in a cookie is reported, and there is none.
func (n *Node) sessionCookie(c *call, f found, token events.Token) string {
	if !cookieValue(token.Reveal()) {
		c.h.Add(warningHeader, "token_is_no_cookie")
		return ""
	}
	left := max(0, date(f.ExpiresAt).Sub(n.conf.Clock.Wall()).Round(time.Second)/time.Second)
	pair := hostCookie + "=" + token.Reveal()
	if len(pair) > signer.CookieLimit {
		c.h.Add(warningHeader, "cookie_over_4096_bytes")
	}
	return pair + cookieAttributes + strconv.FormatInt(int64(left), 10)
}

// cookieValue reports whether s is a cookie's value (RFC 6265 section 4.1.1).
func cookieValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == ',' || c == ';' || c == '\\' {
			return false
		}
	}
	return s != ""
}
