package node

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/mail"
	"slices"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
	"github.com/revocast/revocast/signer"
)

// Events of CAEP 1.0 section 3, and those of SSF 1.0 about a stream.
const (
	caepBase        = "https://schemas.openid.net/secevent/caep/event-type/"
	caepRevoked     = caepBase + "session-revoked"
	caepEstablished = caepBase + "session-established"
	caepCredential  = caepBase + "credential-change"
	caepAssurance   = caepBase + "assurance-level-change"
	caepClaims      = caepBase + "token-claims-change"
	ssfBase         = "https://schemas.openid.net/secevent/ssf/event-type/"
	ssfVerification = ssfBase + "verification"
	ssfUpdated      = ssfBase + "stream-updated"
)

// caepEvents are those that a stream can tell.
var caepEvents = []string{caepRevoked, caepEstablished, caepCredential, caepAssurance, caepClaims}

// caepOf are the events by the type of ours that can become them.
var caepOf = map[string][]string{
	api.EventRevoked: {caepRevoked}, api.EventUserRevoked: {caepRevoked}, api.EventAppRevoked: {caepRevoked}, api.EventExpired: {caepRevoked},
	api.EventCreated: {caepEstablished}, api.EventChanged: {caepCredential, caepAssurance, caepClaims},
}

// caepPayload is what there is to say of an event (CAEP 1.0 sections 2 and 3).
type caepPayload struct {
	Timestamp  int64             `json:"event_timestamp"` // seconds
	Initiating string            `json:"initiating_entity,omitempty"`
	Admin      map[string]string `json:"reason_admin,omitempty"`
	// Of a credential-change.
	Credential string `json:"credential_type,omitempty"`
	Change     string `json:"change_type,omitempty"`
	// Of an assurance-level-change.
	Namespace string `json:"namespace,omitempty"`
	Level     string `json:"current_level,omitempty"`
	Before    string `json:"previous_level,omitempty"`
	Direction string `json:"change_direction,omitempty"`
	// Of a token-claims-change.
	Claims json.RawMessage `json:"claims,omitempty"`
}

// controlPayload is that of an event about a stream.
type controlPayload struct {
	State  *string `json:"state,omitempty"`
	Status string  `json:"status,omitempty"`
	Reason string  `json:"reason,omitempty"`
}

// The places of SETs of one event, in their jti: an event becomes several.
const (
	placeRevoked = iota
	placeEstablished
	placeAssurance
	placeClaims
	placeCredential // of the first factor, and so on
)

// setID says of what a SET tells. Its text is the jti, by which any node knows what
// a receiver acknowledges.
type setID struct {
	stream uint8 // number of the log's stream; 0: about the SSF stream itself
	gen    uint32
	seq    uint64 // in the log, or the number of the event about the stream
	place  uint8
	// at is when the log took the event, in seconds, or 0: a log that was brought back
	// from a backup gives sequences a second time.
	at uint32
}

const setIDLen = 2 + 4 + 8 + 1 + 4 + 6

// jti returns the id as it stands in a SET of the SSF stream: the same however often
// the event is told. Events about the stream itself are counted anew in each epoch.
func (i setID) jti(s *ssfStream) string {
	epoch := int64(0)
	if i.stream == 0 {
		epoch = s.Epoch
	}
	b := make([]byte, 0, setIDLen)
	b = append(b, 2, i.stream)
	b = binary.BigEndian.AppendUint32(b, i.gen)
	b = binary.BigEndian.AppendUint64(b, i.seq)
	b = append(b, i.place)
	b = binary.BigEndian.AppendUint32(b, i.at)
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", s.App, s.ID, epoch))
	return base64.RawURLEncoding.EncodeToString(append(b, sum[:6]...))
}

// parseSetID reads a jti, and reports whether it can be one of the SSF stream.
func parseSetID(s *ssfStream, jti string) (i setID, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(jti)
	if err != nil || len(b) != setIDLen {
		return i, false
	}
	i = setID{b[1], binary.BigEndian.Uint32(b[2:]), binary.BigEndian.Uint64(b[6:]), b[14], binary.BigEndian.Uint32(b[15:])}
	return i, i.jti(s) == jti
}

// securityEvent is a SET that is not signed yet.
type securityEvent struct {
	jti string
	signer.SET
}

// sign signs it with the key that the transmitter signs with at now.
func (n *Node) signSET(e *securityEvent) (string, error) {
	ring, err := n.ssfRing()
	if err != nil {
		return "", err
	}
	now := n.conf.Clock.Wall()
	k, err := ring.Active(signer.RS256, now)
	if err != nil {
		return "", fmt.Errorf("sign set: %w", err)
	}
	return e.Sign(k, now)
}

// controlSET returns the SET of an event about the stream.
func (n *Node) controlSET(s *ssfStream, c *ssfControl) securityEvent {
	jti := setID{seq: c.N}.jti(s)
	e := securityEvent{jti: jti, SET: signer.SET{
		Issuer: n.issuer, Audience: n.ssfAudience(s.ID), ID: jti, IssuedAt: fromMS(c.At),
		Subject: signer.SubjectID{Format: formatOpaque, ID: s.ID},
		Event:   ssfVerification, Payload: controlPayload{State: c.State},
	}}
	if c.Status != "" {
		e.Event, e.Payload = ssfUpdated, controlPayload{Status: c.Status, Reason: c.Reason}
	}
	return e
}

// securityEvents returns the SETs by which the stream tells the event, none if it
// does not. The same event yields the same SETs on any node and at any time, but for
// claims, which are told as they are.
func (n *Node) securityEvents(ctx context.Context, s *ssfStream, ev *feedEvent) []securityEvent {
	var all []securityEvent
	delivers := s.delivers()
	add := func(place int, uri string, p caepPayload) {
		if !slices.Contains(delivers, uri) {
			return
		}
		jti := n.setIDOf(ev, place).jti(s)
		all = append(all, securityEvent{jti: jti, SET: signer.SET{
			Issuer: n.issuer, Audience: n.ssfAudience(s.ID), ID: jti, Cause: causeOf(ev.Event), IssuedAt: ev.At,
			Subject: n.subjectOf(s, ev.Event), Event: uri, Payload: p,
		}})
	}
	switch ev.Type {
	case api.EventRevoked, api.EventUserRevoked, api.EventAppRevoked, api.EventExpired:
		add(placeRevoked, caepRevoked, revokedPayload(ev.Event))
	case api.EventCreated:
		add(placeEstablished, caepEstablished, caepPayload{Timestamp: ev.At.Unix(), Initiating: "user"})
	case api.EventChanged:
		if ev.Changes == nil {
			break
		}
		if ev.Changes.Level != "" {
			add(placeAssurance, caepAssurance, assurancePayload(ev.Event))
		}
		for i, typ := range ev.Changes.FactorsAdded {
			add(placeCredential+i, caepCredential, caepPayload{
				Timestamp: ev.At.Unix(), Initiating: "user", Admin: map[string]string{"en": "an authentication factor was added"},
				Credential: credentialType(typ), Change: "create",
			})
		}
		if ev.Changes.Claims && slices.Contains(delivers, caepClaims) {
			if claims := n.claimsNow(ctx, ev.Event); claims != nil {
				add(placeClaims, caepClaims, caepPayload{Timestamp: ev.At.Unix(), Claims: claims})
			}
		}
	}
	return all
}

func (n *Node) setIDOf(ev *feedEvent, place int) setID {
	id := setID{gen: ev.pos.Gen, seq: ev.pos.Seq, place: uint8(place), at: uint32(ev.At.Unix())}
	if s := n.streamOf(ev.pos.Stream); s != nil {
		id.stream = s.number
	}
	return id
}

// causeOf is txn: equal for all events of one request, or else the event's own.
func causeOf(e *api.Event) string {
	cause := e.RequestID
	if cause == "" {
		cause = e.Revision
	}
	sum := sha256.Sum256([]byte("revocast cause\x00" + e.AppID + "\x00" + cause))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// revokedPayload says who ended the session and why. One that ran out is told as
// revoked, since CAEP has no other word for it.
func revokedPayload(e *api.Event) caepPayload {
	at, reason, by := e.At, e.Reason, "admin"
	if e.RevokedAt != nil {
		at = *e.RevokedAt
	}
	switch {
	case e.Type == api.EventExpired:
		by = "policy"
		if e.ExpiredAt != nil {
			at = *e.ExpiredAt
		}
	case reason == reasonLimit, reason == reasonReuse:
		by = "policy"
	case reason == unverified:
		by = "system"
	case reason == reasonLogout, e.By == byUser:
		by = "user"
	}
	if reason == "" {
		reason = "revoked"
	}
	return caepPayload{Timestamp: at.Unix(), Initiating: by, Admin: map[string]string{"en": reason}}
}

func assurancePayload(e *api.Event) caepPayload {
	p := caepPayload{
		Timestamp: e.At.Unix(), Initiating: "user", Admin: map[string]string{"en": "the session's level of assurance changed"},
		Namespace: "NIST-AAL", Level: "nist-" + e.Changes.Level, Direction: "increase",
	}
	if e.Changes.LevelBefore != "" {
		p.Before = "nist-" + e.Changes.LevelBefore
	}
	if rankOfLevel(e.Changes.Level) < rankOfLevel(e.Changes.LevelBefore) {
		p.Direction = "decrease"
	}
	return p
}

// credentialType gives a type of factor its name in CAEP 1.0 section 3.3.1. Of those
// without one CAEP lets both sides agree on another: the type itself.
func credentialType(factor string) string {
	switch factor {
	case "totp":
		return "app"
	case "sms":
		return "phone-sms"
	}
	return factor
}

// claimsNow returns the claims of the session as its JWTs have them now; nil when it
// has ended, whose claims are of no interest, and when they cannot be had: then a
// revocation that waits behind the change goes first.
func (n *Node) claimsNow(ctx context.Context, e *api.Event) json.RawMessage {
	sid, err := events.ParseSID(e.SessionID)
	if err != nil {
		return nil
	}
	f, err := n.findSID(e.AppID, sid)
	if err != nil || f.verdict != projection.Active {
		return nil
	}
	claims := map[string]json.RawMessage{}
	p, err := n.private(ctx, &f)
	if err == nil {
		err = json.Unmarshal(object(p.CustomClaims), &claims)
	}
	if err != nil {
		n.conf.Log.Warn("claims of a session are not told", "sid", e.SessionID, "app", e.AppID, "error", err)
		return nil
	}
	for name, value := range map[string]any{"roles": n.rolesOf(e.AppID, p.Roles), "org_id": p.Organization.ID} {
		if _, custom := claims[name]; custom || value == "" {
			continue
		}
		if claims[name], err = marshal(value); err != nil {
			return nil
		}
	}
	text, err := marshal(claims)
	if err != nil {
		return nil
	}
	return text
}

// subjectOf names whom the event is about, as the stream wants it. Where its format
// has no name for that, it is the nearest that has.
func (n *Node) subjectOf(s *ssfStream, e *api.Event) signer.SubjectID {
	tenant := &signer.SubjectID{Format: formatOpaque, ID: e.AppID}
	if e.UserHash == "" && e.SessionID == "" { // the whole app
		if s.Format == formatOpaque {
			return *tenant
		}
		return signer.SubjectID{Format: formatComplex, Tenant: tenant}
	}
	user := n.ssfUserOf(e)
	switch {
	case s.Format == formatOpaque && e.SessionID != "":
		return signer.SubjectID{Format: formatOpaque, ID: e.SessionID}
	case s.Format == formatOpaque && e.UserID != "":
		return signer.SubjectID{Format: formatOpaque, ID: e.UserID}
	case s.Format == formatOpaque:
		return *user
	case s.Format == formatEmail && isEmail(e.UserID):
		return signer.SubjectID{Format: formatEmail, Email: e.UserID}
	case s.Format != formatComplex && user != nil:
		return *user
	}
	out := signer.SubjectID{Format: formatComplex, User: user, Tenant: tenant}
	if e.SessionID != "" {
		out.Session = &signer.SubjectID{Format: formatOpaque, ID: e.SessionID}
	}
	return out
}

// ssfUserOf names the user as JWTs of the app do: by iss and sub. Of whom only the
// hash is known it is the hash; nil: nobody knows.
func (n *Node) ssfUserOf(e *api.Event) *signer.SubjectID {
	switch {
	case e.UserID != "":
		profile := ""
		if app, ok := n.app(e.AppID); ok {
			profile = app.Settings.JWTProfile
		}
		return &signer.SubjectID{Format: formatIssSub, Issuer: n.issuerOf(e.AppID, signer.Profile(profile)), Subject: e.UserID}
	case e.UserHash != "":
		return &signer.SubjectID{Format: formatOpaque, ID: e.UserHash}
	}
	return nil
}

func isEmail(text string) bool {
	a, err := mail.ParseAddress(text)
	return err == nil && a.Address == text
}

// ssfFilter returns what the stream needs to be told of.
func (n *Node) ssfFilter(s *ssfStream) feedFilter {
	f := feedFilter{app: s.App, types: map[string]bool{}, patient: true}
	delivers := s.delivers()
	for typ, uris := range caepOf {
		if slices.ContainsFunc(uris, func(uri string) bool { return slices.Contains(delivers, uri) }) {
			f.types[typ] = true
		}
	}
	return f
}

// revisionNow returns how far this node has come in all streams that sessions live
// in.
func (n *Node) revisionNow() (at events.Revision) {
	for _, s := range n.streams() {
		if s != n.settings {
			at = append(at, s.position())
		}
	}
	return at
}
