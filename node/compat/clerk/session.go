package clerk

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/compat"
)

// Session is a session as Clerk's clients read it.
type Session struct {
	Object         string          `json:"object"`
	ID             string          `json:"id"`
	ClientID       string          `json:"client_id"`
	UserID         string          `json:"user_id"`
	Status         string          `json:"status"`
	Actor          json.RawMessage `json:"actor"`
	OrganizationID string          `json:"last_active_organization_id,omitempty"`
	LatestActivity activity        `json:"latest_activity"`
	LastActiveAt   int64           `json:"last_active_at"`
	ExpireAt       int64           `json:"expire_at"`
	AbandonAt      int64           `json:"abandon_at"`
	CreatedAt      int64           `json:"created_at"`
	UpdatedAt      int64           `json:"updated_at"`
}

// activity is where the session was last used: here, where it was begun.
type activity struct {
	Object         string `json:"object"`
	ID             string `json:"id"`
	DeviceType     string `json:"device_type,omitempty"`
	IsMobile       bool   `json:"is_mobile"`
	BrowserName    string `json:"browser_name,omitempty"`
	BrowserVersion string `json:"browser_version,omitempty"`
	IPAddress      string `json:"ip_address,omitempty"`
}

// clientPrefix begins the id of a session's client. Clerk's client is a browser
// that may hold several sessions; here each session has one of its own.
const clientPrefix = "client_"

// Clerk's words for sessions that are no longer good.
const (
	ended    = "ended"
	replaced = "replaced"
	revoked  = "revoked"
	expired  = "expired"
)

// wordFor is Clerk's word for a session that was revoked for the reason: its user
// logged out, or began one too many. For all others it is revoked.
var wordFor = map[string]string{"logout": ended, "session_limit": replaced}

// state is how a status of Clerk is asked for natively.
type state struct {
	native string // the native filter; empty: no session is ever in it
	status string // what is taken of that; empty: all
	exact  bool   // native and status are the same
}

var states = map[string]state{
	"":        {native: "all", exact: true},
	"active":  {native: "active", status: "active", exact: true},
	expired:   {native: "all", status: expired}, // by idleness or age
	revoked:   {native: "revoked", status: revoked},
	ended:     {native: "revoked", status: ended},
	replaced:  {native: "revoked", status: replaced},
	"pending": {}, "abandoned": {}, "removed": {},
}

// statusOf is Clerk's word for the status of a session.
func statusOf(s *api.Session) string {
	switch s.Status {
	case "idle", "expired":
		return expired
	case "revoked":
		return cmp.Or(wordFor[s.RevokeReason], revoked)
	}
	return s.Status
}

func view(s *api.Session) *Session {
	a := device(s.Attributes.UserAgent)
	a.Object, a.ID, a.IPAddress = "session_activity", "sess_activity_"+s.SessionID, s.Attributes.IPAddress
	end := s.ExpiresAt
	if s.IdleExpiresAt != nil && s.IdleExpiresAt.Before(end) {
		end = *s.IdleExpiresAt
	}
	return &Session{
		Object: "session", ID: s.SessionID, ClientID: clientPrefix + s.SessionID, UserID: s.UserID, Status: statusOf(s),
		Actor: s.Actor, OrganizationID: s.OrganizationID,
		LatestActivity: a, LastActiveAt: ms(s.LastAccess), ExpireAt: ms(s.ExpiresAt), AbandonAt: ms(end),
		CreatedAt: ms(s.StartedAt), UpdatedAt: ms(s.LastAccess),
	}
}

// ms returns unix milliseconds, 0 for no time.
func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// A word of a User-Agent header and what it says. The first that is found counts:
// browsers name those they descend from as well.
type word struct{ token, means string }

var (
	devices = []word{
		{"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Android", "Android"},
		{"Macintosh", "Macintosh"}, {"Windows", "Windows"}, {"Linux", "Linux"},
	}
	browsers = []word{
		{"Edg/", "Edge"}, {"OPR/", "Opera"}, {"Firefox/", "Firefox"}, {"Chrome/", "Chrome"}, {"Version/", "Safari"},
	}
)

// device tells from a User-Agent what can be told; it is shown to people and
// decides nothing.
func device(agent string) (a activity) {
	a.IsMobile = strings.Contains(agent, "Mobi")
	for _, d := range devices {
		if strings.Contains(agent, d.token) {
			a.DeviceType = d.means
			break
		}
	}
	for _, b := range browsers {
		if _, rest, ok := strings.Cut(agent, b.token); ok {
			a.BrowserName = b.means
			a.BrowserVersion, _, _ = strings.Cut(rest, " ")
			break
		}
	}
	return a
}

// claims are what is read of a JWT that the native route has authenticated.
type claims struct {
	Expires int64  `json:"exp"`
	Party   string `json:"azp"`
}

// claimsOf returns the claims of what has the form of a JWT. They prove nothing.
func claimsOf(jwt string) (c claims, ok bool) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return c, false
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	return c, err == nil
}

// number reads a parameter within limits.
func number(q url.Values, name string, unless, least, most int) (int, error) {
	if !q.Has(name) {
		return unless, nil
	}
	n, err := strconv.Atoi(q.Get(name))
	if err != nil || n < least || n > most {
		return 0, compat.Invalid(name, "want %d to %d", least, most)
	}
	return n, nil
}

// codeOf is Clerk's code for an error type; others keep ours.
var codeOf = map[string]string{
	api.SessionNotFound: "resource_not_found", api.NotFound: "resource_not_found", api.AppNotFound: "resource_not_found",
	api.Unauthorized: "authentication_invalid", api.Forbidden: "authorization_invalid",
	api.InvalidArgument: "request_invalid", api.BodyTooLarge: "request_invalid", api.MediaType: "request_invalid",
	api.Internal: "internal_clerk_error",
}

// refuse returns an error as Clerk's clients read it.
func refuse(e *api.Error) any {
	type item struct {
		Code        string         `json:"code"`
		Message     string         `json:"message"`
		LongMessage string         `json:"long_message"`
		Meta        map[string]any `json:"meta"`
	}
	code, ok := codeOf[e.ErrorType]
	if !ok {
		code = e.ErrorType
	}
	meta := map[string]any{"error_type": e.ErrorType, "error_url": e.ErrorURL}
	for name, value := range e.ErrorDetails {
		if name == "field" {
			name, code = "param_name", "form_param_value_invalid"
		}
		meta[name] = value
	}
	return &struct {
		Errors []item `json:"errors"`
		Trace  string `json:"clerk_trace_id"`
	}{[]item{{code, http.StatusText(e.StatusCode), e.ErrorMessage, meta}}, e.RequestID}
}
