package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

const (
	maxActor = 1024 // bytes
	// impersonation is the longest life, in minutes, of a session that
	// impersonateUser makes.
	impersonation = 60
)

// actorReason is the member of an actor that says why. It is shown with the
// session and is in no JWT, where members of act may only say who somebody is
// (RFC 8693 section 4.1).
const actorReason = "reason"

// impersonateUser answers POST /v1/sessions/impersonate: a short session of the
// user in which somebody else acts.
func (n *Node) impersonateUser(ctx context.Context, c *call) (int, any, error) {
	var req api.Impersonate
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	if !given(req.Actor) {
		return 0, nil, badSetting("actor", "required")
	}
	if req.SessionDurationMinutes < 0 || req.SessionDurationMinutes > impersonation {
		return 0, nil, badSetting("session_duration_minutes", "want 1 to %d", impersonation)
	}
	minutes := cmp.Or(req.SessionDurationMinutes, impersonation)
	return n.newSession(ctx, c, &api.CreateSession{
		UserID: req.UserID, Actor: req.Actor, SessionDurationMinutes: minutes, AbsoluteLifetimeMinutes: minutes,
	})
}

// checkActor returns the actor as it is kept: an object with sub that a JWT can
// hold. What RFC 8693 section 4.1 keeps out of act is refused.
func checkActor(raw json.RawMessage) (json.RawMessage, error) {
	if err := checkObject("actor", raw); err != nil {
		return nil, err
	}
	var tight bytes.Buffer
	if err := json.Compact(&tight, raw); err != nil {
		return nil, badSetting("actor", "not JSON").because(err)
	}
	if tight.Len() > maxActor {
		return nil, fail(api.ClaimsTooLarge, "actor: over %d bytes", maxActor).with("field", "actor")
	}
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(tight.Bytes(), &members); err != nil {
		return nil, badSetting("actor", "not JSON").because(err)
	}
	var sub string
	if err := json.Unmarshal(members["sub"], &sub); err != nil || sub == "" {
		return nil, badSetting("actor.sub", "required, a string")
	}
	if err := checkText("actor.sub", sub, events.MaxUser); err != nil {
		return nil, err
	}
	for _, name := range []string{"exp", "nbf", "iat", "aud", "jti"} {
		if _, ok := members[name]; ok {
			return nil, badSetting("actor."+name, "says nothing of who acts (RFC 8693 section 4.1)")
		}
	}
	if err := signer.CheckCustom(append(append([]byte(`{"actor":`), tight.Bytes()...), '}')); err != nil {
		return nil, badSetting("actor", "nested too deeply").because(err)
	}
	return tight.Bytes(), nil
}

// actorClaim returns the claim act of the actor, which may be none.
func actorClaim(actor json.RawMessage) (json.RawMessage, error) {
	if len(actor) == 0 {
		return nil, nil
	}
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(actor, &members); err != nil {
		return nil, fmt.Errorf("read actor: %w", err)
	}
	delete(members, actorReason)
	return marshal(members)
}
