package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

// An impersonation token is a JWT that the app signs for itself. It names one
// session: the token of that is derived from its jti, so it can be authenticated
// again while it is good, such as after an answer that was lost, and makes no
// second session, whatever the node. That session lives in the region in which the
// impersonation token was made.
const (
	impersonationType = "impersonation+jwt"
	impersonationLife = 5 * time.Minute
	// impersonatedMinutes is how long such a session lives. It cannot be extended.
	impersonatedMinutes = impersonation
	// impersonatedFactor is the type of factor that says who impersonates. It proves
	// nothing of the user, nor anew of who acts.
	impersonatedFactor = "impersonated"
)

// actor is who impersonates: the claim act of an impersonation token, and the actor
// of its session.
type actor struct {
	Sub    string `json:"sub"`
	Email  string `json:"email"`
	Reason string `json:"reason,omitempty"`
}

// impersonationToken answers POST /v1/impersonation/tokens.
func (n *Node) impersonationToken(_ context.Context, c *call) (int, any, error) {
	var req api.ImpersonationOrder
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	app, err := n.appOf(c)
	if err != nil {
		return 0, nil, err
	}
	if err := checkOrder(&req); err != nil {
		return 0, nil, err
	}
	now := n.conf.Clock.Wall()
	if _, stale := n.freshAt(n.home.number, now.UnixMilli()); stale != nil {
		return 0, nil, stale
	}
	key, err := n.signingKey(app, now)
	if err != nil {
		return 0, nil, err
	}
	act, err := marshal(actor{req.ImpersonatorID, req.ImpersonatorEmail, req.Reason})
	if err != nil {
		return 0, nil, err
	}
	if _, err := checkActor(act); err != nil {
		return 0, nil, err // no session could be made of the token
	}
	token, err := signer.MintGrant(key, impersonationType, signer.Claims{
		Issuer: n.issuerOf(app.App, signer.Native), App: app.App, Subject: req.UserID,
		IssuedAt: now, Expires: now.Add(impersonationLife), Revision: n.home.position().String(), Actor: act,
	})
	if err != nil {
		return 0, nil, fmt.Errorf("make impersonation token: %w", err)
	}
	return http.StatusCreated, &api.ImpersonationToken{Token: token, ExpiresIn: int64(impersonationLife / time.Second)}, nil
}

func checkOrder(req *api.ImpersonationOrder) error {
	if err := checkUser(req.UserID); err != nil {
		return err
	}
	for field, text := range map[string]string{"impersonator_id": req.ImpersonatorID, "impersonator_email_address": req.ImpersonatorEmail} {
		if text == "" {
			return badSetting(field, "required")
		}
		if err := checkText(field, text, events.MaxUser); err != nil {
			return err
		}
	}
	return checkText("reason", req.Reason, maxReason)
}

// authenticateImpersonation answers POST /v1/impersonation/authenticate.
func (n *Node) authenticateImpersonation(ctx context.Context, c *call) (int, any, error) {
	var req api.AuthenticateImpersonation
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	app, err := n.appOf(c)
	if err != nil {
		return 0, nil, err
	}
	if req.Token == "" {
		return 0, nil, badSetting("impersonation_token", "required")
	}
	v, err := n.verifyImpersonation(ctx, app.App, req.Token)
	if err != nil {
		return 0, nil, err
	}
	d, err := n.impersonated(app, c, v)
	if err != nil {
		return 0, nil, err
	}
	if err := n.mayBegin(app, d.state.SID.Stream(), d.state.CreatedAt); err != nil {
		return 0, nil, err
	}
	f, err := n.createDerived(ctx, d)
	if failed, ok := errors.AsType[*failure](err); ok && failed.kind == api.IdempotencyEnded {
		return 0, nil, notImpersonated("session_ended").because(err)
	} else if err != nil {
		return 0, nil, err
	}
	return n.loggedIn(ctx, c, f)
}

// loggedIn answers with a session that was just made, and its own token.
func (n *Node) loggedIn(ctx context.Context, c *call, f found) (int, any, error) {
	newest := f.StateSeq
	p, err := n.private(ctx, &f)
	if err != nil {
		return 0, nil, err
	}
	if f.StateSeq != newest {
		if err := f.active(); err != nil {
			return 0, nil, err
		}
	}
	out, err := n.answered(ctx, c, f, p.Token)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.LoginAnswer{SessionAnswer: *out, UserID: f.User}, nil
}

// verifyImpersonation checks an impersonation token. Like a JWT of a session it is
// not turned away for a key that this node has not heard of.
func (n *Node) verifyImpersonation(ctx context.Context, app, token string) (v signer.Verified, err error) {
	check := func() bool {
		v, err = n.ring(app).VerifyGrant(token, impersonationType, signer.Expect{
			Issuer: n.issuerOf(app, signer.Native), App: app, Now: time.UnixMilli(n.judged()), MaxLife: impersonationLife,
		})
		return !errors.Is(err, signer.ErrUnknownKey)
	}
	if !check() {
		if late := n.settings.certain(ctx, check); late != nil {
			return v, late
		}
	}
	if reason, ok := errors.AsType[signer.Reason](err); ok {
		return v, notImpersonated(string(reason)).because(err)
	}
	return v, err
}

func notImpersonated(reason string) *failure {
	return fail(api.ImpersonationEnded, "the impersonation token is not one of this app, has expired, or its session has ended").with("reason", reason)
}

// impersonated returns the session that an impersonation token names.
func (n *Node) impersonated(app *events.App, c *call, v signer.Verified) (*draft, error) {
	var said struct {
		Revision string          `json:"rev"`
		Actor    json.RawMessage `json:"act"`
	}
	if err := json.Unmarshal(v.Claims(), &said); err != nil {
		return nil, fmt.Errorf("read impersonation token: %w", err)
	}
	var by actor
	if err := json.Unmarshal(said.Actor, &by); err != nil {
		return nil, fmt.Errorf("read impersonation token: %w", err)
	}
	pos, err := events.ParsePosition(said.Revision)
	if err != nil {
		return nil, fmt.Errorf("read impersonation token: %w", err)
	}
	home := n.streamOf(pos.Stream)
	if home == nil {
		return nil, fail(api.HomeUnreachable, "the session would live in region %s, which cannot be reached from here", pos.Stream)
	}
	secret, err := n.idempotencySecret()
	if err != nil {
		return nil, err
	}
	now := n.conf.Clock.Wall().UTC().Format(time.RFC3339)
	factor, err := marshal(map[string]any{
		"type": impersonatedFactor, "delivery_method": "impersonation",
		"last_authenticated_at": now, "created_at": now, "updated_at": now,
		"impersonated_factor": map[string]string{
			"impersonator_id": by.Sub, "impersonator_email_address": by.Email,
		},
	})
	if err != nil {
		return nil, err
	}
	d, err := n.newDraft(&api.CreateSession{
		UserID: v.Subject, SessionDurationMinutes: impersonatedMinutes, AbsoluteLifetimeMinutes: impersonatedMinutes,
		Factors: []json.RawMessage{factor}, Actor: said.Actor,
	}, &app.Settings)
	if err != nil {
		return nil, err
	}
	// A log-out everywhere since the token was made holds for its session, too.
	if d.state.AuthSeq, err = home.authSeq(said.Revision); err != nil {
		return nil, err
	}
	d.state.App, d.state.By = app.App, c.caller.keyID
	d.name(derivedToken(secret, home.number, app.App, "POST /v1/impersonation/authenticate", v.JWTID))
	return d, nil
}
