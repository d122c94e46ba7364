package signer

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// writeStreambird adds the session object in Streambird's shape, the one claim
// its library reads. Factors are expected in that shape, too.
func writeStreambird(o *object, c *Claims) error {
	if c.SessionStarted.IsZero() || c.SessionLastAccessed.IsZero() || c.SessionExpires.IsZero() {
		return refuse(ErrBadClaims, "a streambird JWT needs the times of its session")
	}
	s := object{buf: []byte{'{'}}
	s.text("id", c.SessionID)
	s.text("user_id", c.Subject)
	s.date("started_at", c.SessionStarted)
	s.date("expires_at", c.SessionExpires)
	s.date("last_active_at", c.SessionLastAccessed)
	factors := c.Factors
	if len(factors) == 0 {
		factors = json.RawMessage("[]")
	}
	if err := s.raw("factors", factors, '['); err != nil {
		return err
	}
	device := object{buf: []byte{'{'}}
	device.text("user_agent", c.Attributes.UserAgent)
	device.text("ip", c.Attributes.IPAddress)
	s.nested("device_fingerprint", &device)
	s.date("updated_at", c.SessionLastAccessed)
	s.date("created_at", c.SessionStarted)
	o.nested(streambirdSession, &s)
	return nil
}

func readStreambird(list []member, p *content) bool { return readNested(list, streambirdSession, p) }

// clerkVersion is the version of Clerk's session tokens that is written.
const clerkVersion = "2"

// writeClerk adds the claims of Clerk's session tokens, version 2. No address,
// no device, no factor; of factors only how old they are.
func writeClerk(o *object, c *Claims) error {
	o.text("sid", c.SessionID)
	o.text("sts", "active")
	o.number("v", clerkVersion)
	o.number("fva", "["+minutesSince(c.FirstFactor, c.IssuedAt)+","+minutesSince(c.SecondFactor, c.IssuedAt)+"]")
	o.optional("azp", c.AuthorizedParty)
	if err := o.raw("act", c.Actor, '{'); err != nil {
		return err
	}
	if c.OrgID != "" {
		org := object{buf: []byte{'{'}}
		org.text("id", c.OrgID)
		org.optional("slg", c.OrgSlug)
		if len(c.Roles) > 0 {
			// Their libraries know one role, and put the prefix before it.
			org.text("rol", strings.TrimPrefix(c.Roles[0], "org:"))
		}
		o.nested("o", &org)
	}
	return nil
}

// minutesSince returns the whole minutes since t, or -1 for none.
func minutesSince(t, now time.Time) string {
	if t.IsZero() {
		return "-1"
	}
	return strconv.FormatInt(int64(max(0, now.Sub(t))/time.Minute), 10)
}

// readClerk demands v, so that no other vendor's JWT with a sid is taken for one.
func readClerk(list []member, p *content) bool {
	version, ok := find(list, "v")
	if !ok || string(version) != clerkVersion {
		return false
	}
	p.sessionID, ok = findText(list, "sid")
	return ok && p.sessionID != ""
}
