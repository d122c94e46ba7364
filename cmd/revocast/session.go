package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

type sessionCmd struct {
	Create sessionCreate `cmd:"" help:"Create a session and print its token."`
	Verify sessionVerify `cmd:"" help:"Is the session of this token or JWT good? Exit code 0: yes, 3: no, 4: no answer now."`
	Get    sessionGet    `cmd:"" help:"Show a session."`
	List   sessionList   `cmd:"" help:"List the sessions of a user, or of the whole app."`
	Revoke sessionRevoke `cmd:"" help:"Revoke a session."`
}

type sessionCreate struct {
	remote
	inApp
	UserID         string        `arg:"" name:"user" help:"The user's id, any text up to 256 bytes."`
	Duration       time.Duration `env:"-" placeholder:"TIME" help:"Life of the session until extended, such as 12h (default: the app's)."`
	Idle           time.Duration `env:"-" placeholder:"TIME" help:"Ends the session when it is not used for so long (default: the app's)."`
	Claims         string        `env:"-" placeholder:"JSON" help:"Custom claims of its JWTs: a JSON object."`
	Metadata       string        `env:"-" placeholder:"JSON" help:"Metadata kept with it: a JSON object."`
	IP             string        `env:"-" name:"ip" placeholder:"ADDR" help:"Address the log-in came from."`
	UserAgent      string        `env:"-" placeholder:"TEXT" help:"User agent the log-in came from."`
	IdempotencyKey string        `env:"-" placeholder:"KEY" help:"Repeating the command with the same key gives the same session."`
	TokenOnly      bool          `env:"-" short:"t" help:"Print the token and nothing else."`
}

// Run implements the command.
func (s *sessionCreate) Run(e *env) error {
	c, err := s.inApp.connectFor(e, &s.remote)
	if err != nil {
		return err
	}
	in := api.CreateSession{UserID: s.UserID}
	if in.SessionDurationMinutes, err = minutes("duration", s.Duration); err != nil {
		return err
	}
	if in.IdleTimeoutMinutes, err = minutes("idle", s.Idle); err != nil {
		return err
	}
	if in.CustomClaims, err = rawJSON("claims", s.Claims); err != nil {
		return err
	}
	if in.Metadata, err = rawJSON("metadata", s.Metadata); err != nil {
		return err
	}
	if s.IP != "" || s.UserAgent != "" {
		in.Attributes = &api.Attributes{IPAddress: s.IP, UserAgent: s.UserAgent}
	}
	c.idempotencyKey = s.IdempotencyKey
	var out api.SessionAnswer
	raw, err := c.call(e, http.MethodPost, "/v1/sessions", &in, &out)
	if err != nil {
		return err
	}
	if s.TokenOnly {
		_, err := fmt.Fprintln(e.stdout, out.SessionToken)
		return err
	}
	return c.show(raw, func(w io.Writer) {
		describe(w, &out.Session)
		row(w, "token", out.SessionToken)
		row(w, "jwt", out.SessionJWT)
	})
}

type sessionVerify struct {
	remote
	Credential string `arg:"" optional:"" name:"token" help:"Session token or JWT; absent or -: the first line of stdin."`
	App        string `env:"-" filled:"" placeholder:"APP" help:"The app it must belong to (default: any)."`
}

// Run implements the command. It needs no API key: the session's own
// credential authorises the question.
func (s *sessionVerify) Run(e *env) error {
	c, err := s.connect(e)
	if err != nil {
		return err
	}
	if c.apiKey, err = e.secretArg(s.Credential, "token"); err != nil {
		return err
	}
	path := "/v1/verify?body=1"
	if s.App != "" {
		path += "&app=" + url.QueryEscape(s.App)
	}
	var out api.VerifyAnswer
	raw, err := c.call(e, http.MethodPost, path, nil, &out)
	if err != nil {
		return notGood(err)
	}
	return c.show(raw, func(w io.Writer) {
		row(w, "session", out.SessionID)
		row(w, "status", "active")
		row(w, "app", out.AppID)
		row(w, "user", out.UserID)
		row(w, "expires", stamp(out.ExpiresAt))
		row(w, "staleness", strconv.FormatInt(out.StalenessMS, 10)+" ms")
	})
}

type sessionGet struct {
	remote
	inApp
	SID string `arg:"" name:"sid" help:"The session's id."`
}

// Run implements the command.
func (s *sessionGet) Run(e *env) error {
	c, err := s.inApp.connectFor(e, &s.remote)
	if err != nil {
		return err
	}
	var out api.SessionAnswer
	raw, err := c.call(e, http.MethodGet, "/v1/sessions/"+url.PathEscape(s.SID), nil, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) { describe(w, &out.Session) })
}

type sessionList struct {
	remote
	inApp
	UserID string `arg:"" optional:"" filled:"" name:"user" help:"The user's id; absent: the sessions of the whole app."`
	Status string `env:"-" enum:"active,idle,expired,revoked,all" default:"active" placeholder:"STATUS" help:"Sessions that are active (default), idle, expired, revoked, or all."`
	Limit  int    `env:"-" placeholder:"N" help:"Sessions on a page (default: the node's)."`
	Cursor string `env:"-" placeholder:"TEXT" help:"Where the page begins, as the last one said."`
}

// Run implements the command.
func (s *sessionList) Run(e *env) error {
	c, err := s.inApp.connectFor(e, &s.remote)
	if err != nil {
		return err
	}
	q := url.Values{"status": {s.Status}}
	if s.UserID != "" {
		q.Set("user_id", s.UserID)
	}
	if s.Limit != 0 {
		q.Set("limit", strconv.Itoa(s.Limit))
	}
	if s.Cursor != "" {
		q.Set("cursor", s.Cursor)
	}
	var out api.SessionList
	raw, err := c.call(e, http.MethodGet, "/v1/sessions?"+q.Encode(), nil, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) {
		row(w, "SESSION", "USER", "STATUS", "STARTED", "LAST ACCESS", "EXPIRES", "FROM")
		for _, x := range out.Sessions {
			row(w, x.SessionID, x.UserID, x.Status, stamp(x.StartedAt), stamp(x.LastAccess), stamp(x.ExpiresAt), cmp.Or(x.Attributes.IPAddress, "-"))
		}
		fmt.Fprintf(w, "%d of %d\n", len(out.Sessions), out.Total)
		if len(out.Incomplete) > 0 {
			fmt.Fprintf(w, "without those of %s: out of reach of this node\n", strings.Join(out.Incomplete, ", "))
		}
		if out.NextCursor != "" {
			fmt.Fprintf(w, "next page: --cursor %s\n", out.NextCursor)
		}
	})
}

// revocation is what all revoking commands share.
type revocation struct {
	Reason string `env:"-" placeholder:"TEXT" help:"Why; kept in the history."`
	Wait   string `env:"-" enum:"none,all" default:"none" placeholder:"none|all" help:"all: return once every node has applied it or has fenced itself (default: none, once it is committed)."`
}

func (r *revocation) send(e *env, c *client, in *api.Revoke) error {
	in.Reason = r.Reason
	if r.Wait != "none" {
		in.Wait = r.Wait
	}
	var out api.RevokeAnswer
	raw, err := c.call(e, http.MethodPost, "/v1/sessions/revoke", in, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) {
		row(w, "revoked", out.Revoked)
		row(w, "revision", cmp.Or(out.Revision, "-"))
		if out.Receipt != nil {
			receipt(w, out.Receipt)
		}
	})
}

func receipt(w io.Writer, r *api.Receipt) {
	row(w, "receipt", r.Status)
	for _, a := range r.Applied {
		row(w, "applied", a.Node+" after "+strconv.FormatInt(a.MS, 10)+" ms")
	}
	if len(r.Pending) > 0 {
		row(w, "pending for", strings.Join(r.Pending, ", "))
		return
	}
	row(w, "JWTs safe after", stamp(r.JWTSafeAfter))
}

type sessionRevoke struct {
	remote
	inApp
	revocation
	Session string `arg:"" optional:"" name:"session" help:"Session id, token or JWT; absent or -: the first line of stdin."`
}

// Run implements the command.
func (s *sessionRevoke) Run(e *env) error {
	c, err := s.inApp.connectFor(e, &s.remote)
	if err != nil {
		return err
	}
	text, err := e.secretArg(s.Session, "session id or token")
	if err != nil {
		return err
	}
	in := new(api.Revoke)
	_, bad := events.ParseSID(text)
	switch {
	case bad == nil:
		in.SessionID = text
	case strings.Count(text, ".") == 2:
		in.SessionJWT = text
	default:
		in.SessionToken = text
	}
	return s.send(e, c, in)
}

type userCmd struct {
	Revoke userRevoke `cmd:"" help:"Revoke all sessions of a user."`
	Forget userForget `cmd:"" help:"Revoke all sessions of a user, and erase what they held and their history. Cannot be undone."`
}

type userForget struct {
	remote
	inApp
	UserID string `arg:"" name:"user" help:"The user's id."`
	Reason string `env:"-" placeholder:"TEXT" help:"Why; it stands in the revocation (default: erased)."`
}

// Run implements the command.
func (u *userForget) Run(e *env) error {
	c, err := u.inApp.connectFor(e, &u.remote)
	if err != nil {
		return err
	}
	var out api.EraseAnswer
	raw, err := c.call(e, http.MethodPost, "/v1/users/erase", &api.EraseUser{UserID: u.UserID, Reason: u.Reason}, &out)
	if err != nil {
		return err
	}
	if err := c.show(raw, func(w io.Writer) {
		row(w, "revoked", out.Revoked)
		row(w, "erased", out.Erased)
		row(w, "history erased in", cmp.Or(strings.Join(out.History, ", "), "-"))
		for _, r := range out.Remains {
			row(w, "remains until "+stampOr(r.Until, "?"), r.What+": "+r.Where)
		}
	}); err != nil {
		return err
	}
	if len(out.Pending) > 0 {
		p := out.Pending[0]
		return &api.Error{StatusCode: http.StatusServiceUnavailable, ErrorType: "pending",
			ErrorMessage: fmt.Sprintf("%s of region %s: %s; run it again", p.What, p.Region, p.Why)}
	}
	return nil
}

type userRevoke struct {
	remote
	inApp
	revocation
	UserID string `arg:"" name:"user" help:"The user's id."`
	Except string `env:"-" filled:"" placeholder:"SID" help:"Spare this session."`
}

// Run implements the command.
func (u *userRevoke) Run(e *env) error {
	c, err := u.inApp.connectFor(e, &u.remote)
	if err != nil {
		return err
	}
	return u.send(e, c, &api.Revoke{UserID: u.UserID, ExceptSessionID: u.Except})
}

// describe prints a session as lines of name and value.
func describe(w io.Writer, s *api.Session) {
	row(w, "session", s.SessionID)
	row(w, "status", s.Status)
	row(w, "app", s.AppID)
	row(w, "user", s.UserID)
	row(w, "started", stamp(s.StartedAt))
	row(w, "last access", stamp(s.LastAccess))
	row(w, "expires", stamp(s.ExpiresAt))
	if s.IdleExpiresAt != nil {
		row(w, "idle until", stamp(*s.IdleExpiresAt))
	}
	row(w, "revision", s.Revision)
	if s.Attributes.IPAddress != "" {
		row(w, "address", s.Attributes.IPAddress)
	}
	if s.Attributes.UserAgent != "" {
		row(w, "user agent", s.Attributes.UserAgent)
	}
	if s.RevokedAt != nil {
		row(w, "revoked", stamp(*s.RevokedAt)+" by "+cmp.Or(s.RevokedBy, "-"))
		row(w, "reason", cmp.Or(s.RevokeReason, "-"))
	}
}

// minutes returns a flag's duration in the API's unit.
func minutes(flag string, d time.Duration) (int64, error) {
	if d < 0 || d%time.Minute != 0 {
		return 0, &usageError{fmt.Errorf("--%s %v: want whole minutes", flag, d)}
	}
	return int64(d / time.Minute), nil
}

// rawJSON returns a flag's JSON as it is, nil for none.
func rawJSON(flag, text string) (json.RawMessage, error) {
	if text == "" {
		return nil, nil
	}
	if !json.Valid([]byte(text)) {
		return nil, &usageError{fmt.Errorf("--%s: not JSON", flag)}
	}
	return json.RawMessage(text), nil
}
