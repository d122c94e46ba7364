package node

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// importSkew is how far the clock of another system may be ahead.
const importSkew = time.Minute

// foreignDraftOf checks a session that another system began and returns it, under
// the key of its token in the stream.
func (n *Node) foreignDraftOf(app *events.App, stream uint8, in *api.ImportSession) (*foreignDraft, error) {
	hash, err := importedHash(in)
	if err != nil {
		return nil, err
	}
	d, err := n.importedDraft(app, in)
	if err != nil {
		return nil, err
	}
	d.state.SID = events.ForeignKey(app.App, stream, hash)
	d.private.Token = events.Token(in.Token)
	return d, nil
}

// importedHash returns the hash of the row's token.
func importedHash(in *api.ImportSession) (hash [32]byte, err error) {
	bad := func(field, format string, args ...any) ([32]byte, error) {
		return hash, fail(api.InvalidArgument, field+": "+format, args...).with("field", field)
	}
	switch {
	case in.Token != "" && in.TokenSHA256 != "":
		return bad("token_sha256", "only one of token and token_sha256 may be given")
	case in.Token == "" && in.TokenSHA256 == "":
		return bad("token_sha256", "one of token and token_sha256 is required")
	case len(in.Token) > events.MaxForeignToken:
		return bad("token", "over %d bytes", events.MaxForeignToken)
	case in.Token != "":
		if err := checkText("token", in.Token, events.MaxForeignToken); err != nil {
			return hash, err
		}
		return events.TokenHash(in.Token), nil
	}
	var n int
	switch text := []byte(in.TokenSHA256); len(text) {
	case hex.EncodedLen(len(hash)):
		n, err = hex.Decode(hash[:], text)
	case base64.RawURLEncoding.EncodedLen(len(hash)):
		n, err = base64.RawURLEncoding.Strict().Decode(hash[:], text)
	default:
		return bad("token_sha256", "%d characters: want 64 hex digits, or 43 of base64url without padding", len(text))
	}
	if err != nil || n != len(hash) {
		return bad("token_sha256", "neither hex nor base64url of 32 bytes")
	}
	return hash, nil
}

// importedDraft is foreignDraftOf without the token.
func (n *Node) importedDraft(app *events.App, in *api.ImportSession) (*foreignDraft, error) {
	if err := checkUser(in.UserID); err != nil {
		return nil, err
	}
	d := &foreignDraft{}
	d.state.App, d.state.User, d.state.Reason = app.App, in.UserID, events.ReasonCreated
	now := n.wall()
	if err := d.began(in, now); err != nil {
		return nil, err
	}
	if err := d.lasts(in, &app.Settings); err != nil {
		return nil, err
	}
	if err := d.describe(&api.CreateSession{
		Factors: in.Factors, Attributes: in.Attributes, CustomClaims: in.CustomClaims, Metadata: in.Metadata,
	}, now); err != nil {
		return nil, err
	}
	idle := (&projection.Session{Idle: d.state.Idle, SeenAt: d.state.SeenAt}).IdleEnd(n.conf.Lease)
	switch {
	case d.state.ExpiresAt <= now, d.state.AbsoluteAt <= now:
		return nil, fail(api.ImportExpired, "the session ended at %s", rfc3339(min(d.state.ExpiresAt, d.state.AbsoluteAt))).with("field", "expires_at")
	case idle <= now:
		return nil, fail(api.ImportExpired, "the session was idle for too long at %s", rfc3339(idle)).with("field", "last_accessed_at")
	}
	return d, nil
}

func rfc3339(ms int64) string { return date(ms).Format(time.RFC3339) }

// began sets when the session began and was used last.
func (d *foreignDraft) began(in *api.ImportSession, now int64) error {
	past := func(field string, t *time.Time) (int64, error) {
		if t == nil {
			return 0, nil
		}
		ms := t.UnixMilli()
		if ms <= 0 || ms > now+importSkew.Milliseconds() {
			return 0, fail(api.InvalidArgument, "%s: %s is before 1970 or lies ahead", field, t.Format(time.RFC3339)).with("field", field)
		}
		return min(ms, now), nil
	}
	var seen int64
	var err error
	if d.start, err = past("started_at", in.StartedAt); err != nil {
		return err
	}
	if seen, err = past("last_accessed_at", in.LastAccessedAt); err != nil {
		return err
	}
	d.state.CreatedAt = cmp.Or(d.start, now)
	d.state.SeenAt = max(cmp.Or(seen, now), d.start)
	return nil
}

// lasts sets how long the session lives: as it says, from when it began, and
// never longer than the app lets any.
func (d *foreignDraft) lasts(in *api.ImportSession, s *events.AppSettings) error {
	until := func(at string, t *time.Time, field string, minutes, seconds int64) (int64, error) {
		if err := checkMinutes(field, minutes); err != nil {
			return 0, err
		}
		switch {
		case t != nil && minutes != 0:
			return 0, fail(api.InvalidArgument, "%s: not together with %s", field, at).with("field", field)
		case t != nil && t.UnixMilli() <= 0:
			return 0, fail(api.InvalidArgument, "%s: before 1970", at).with("field", at)
		case t != nil:
			return t.UnixMilli(), nil
		case minutes != 0:
			seconds = minutes * 60
		}
		return d.state.CreatedAt + seconds*1000, nil
	}
	if err := checkMinutes("idle_timeout_minutes", in.IdleTimeoutMinutes); err != nil {
		return err
	}
	absolute, err := until("absolute_expires_at", in.AbsoluteExpiresAt, "absolute_lifetime_minutes", in.AbsoluteLifetimeMinutes, s.AbsoluteMax)
	if err != nil {
		return err
	}
	expires, err := until("expires_at", in.ExpiresAt, "session_duration_minutes", in.SessionDurationMinutes, s.SessionDuration)
	if err != nil {
		return err
	}
	d.state.AbsoluteAt = min(absolute, d.state.CreatedAt+s.AbsoluteMax*1000)
	d.state.ExpiresAt = min(expires, d.state.AbsoluteAt)
	d.state.Idle = cmp.Or(in.IdleTimeoutMinutes*60, s.Idle)
	return nil
}
