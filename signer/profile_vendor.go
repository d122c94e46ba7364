package signer

import (
	"encoding/json"
	"slices"
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
		if features, actions, masks := clerkPermissions(c.Permissions); features != "" {
			org.text("per", actions)
			org.text("fpm", masks)
			o.text("fea", features)
		}
		o.nested("o", &org)
	}
	return nil
}

// maxClerkActions is how many different actions fit into a mask that all of
// Clerk's libraries can read.
const maxClerkActions = 50

// clerkPermissions returns permissions as the texts fea, per and fpm: the features
// with their scope, all actions, and for each feature the mask of its actions. A
// name that the form cannot hold is left out, and so permits nothing.
func clerkPermissions(all []Permission) (features, actions, masks string) {
	var names, verbs []string
	var bits []uint64
	for _, p := range all {
		for _, action := range p.Actions {
			if !clerkName(p.Resource) || !clerkName(action) {
				continue
			}
			j := slices.Index(verbs, action)
			if j < 0 && len(verbs) == maxClerkActions {
				continue
			} else if j < 0 {
				j, verbs = len(verbs), append(verbs, action)
			}
			i := slices.Index(names, p.Resource)
			if i < 0 {
				i, names, bits = len(names), append(names, p.Resource), append(bits, 0)
			}
			bits[i] |= 1 << j
		}
	}
	for i, name := range names {
		if i > 0 {
			features, masks = features+",", masks+","
		}
		features, masks = features+"o:"+name, masks+strconv.FormatUint(bits[i], 10)
	}
	return features, strings.Join(verbs, ","), masks
}

// clerkName reports whether the name means the same to all of Clerk's libraries,
// which cut at commas and colons, and some at white space.
func clerkName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
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
