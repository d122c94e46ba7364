package node

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// extendStep: an extension asked for on every request is written only when it
// moves the expiry by more than this part of what is then left of the session.
const extendStep = 20

// authenticateSession answers POST /v1/sessions/authenticate.
func (n *Node) authenticateSession(ctx context.Context, c *call) (int, any, error) {
	var req api.Authenticate
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	out, err := n.authenticate(ctx, c, &req)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, out, nil
}

func (n *Node) authenticate(ctx context.Context, c *call, req *api.Authenticate) (*api.SessionAnswer, error) {
	want, err := n.checkAuthenticate(req)
	if err != nil {
		return nil, err
	}
	need, err := newDemand(req.Require)
	if err != nil {
		return nil, err
	}
	app, err := n.appOf(c)
	if err != nil {
		return nil, err
	}
	if err := n.reach(ctx, want); err != nil {
		return nil, err
	}
	f, err := n.findShown(ctx, app.App, req.SessionToken, req.SessionJWT, jwtPast, want)
	if err != nil {
		return nil, err
	}
	if err := f.active(); err != nil {
		return nil, err
	}
	shown := f.StateSeq
	if err := n.proveFound(ctx, c, app, f, req.DPoP, cmp.Or(req.SessionToken, req.SessionJWT)); err != nil {
		return nil, err
	}
	// Who is not permitted changes nothing.
	if _, err := n.permitted(ctx, &f, req.AuthorizationCheck); err != nil {
		return nil, err
	}
	if err := n.meets(ctx, &f, need); err != nil {
		return nil, err
	}
	look := func() (found, error) {
		return n.findShown(ctx, app.App, req.SessionToken, req.SessionJWT, jwtPast, consistency{again: true})
	}
	if f.StateSeq != shown { // its private part was waited for, see below
		if f, err = look(); err == nil {
			err = f.active()
		}
		if err != nil {
			return nil, err
		}
	}
	if f, err = n.refresh(ctx, c, f, look, req); err != nil {
		return nil, err
	}
	if req.Touch == nil || *req.Touch {
		n.touch(&f.Session, n.wall())
	}
	newest := f.StateSeq
	p, err := n.private(ctx, &f)
	if err != nil {
		return nil, err
	}
	if f.StateSeq != newest { // the token shown may not be of the newer state
		now, err := look()
		if err == nil {
			err = now.active()
		}
		if err != nil {
			return nil, err
		}
	}
	verdict, err := n.permitted(ctx, &f, req.AuthorizationCheck)
	if err != nil {
		return nil, err
	}
	token := events.Token(req.SessionToken)
	if token == "" && app.Settings.ReturnToken {
		token = p.Token
	}
	out, err := n.answered(ctx, c, f, token)
	if err != nil {
		return nil, err
	}
	out.Verdict = verdict
	return out, nil
}

func (n *Node) checkAuthenticate(req *api.Authenticate) (consistency, error) {
	if err := oneOf(map[string]bool{"session_token": req.SessionToken != "", "session_jwt": req.SessionJWT != ""}); err != nil {
		return consistency{}, err
	}
	if err := checkMinutes("session_duration_minutes", req.SessionDurationMinutes); err != nil {
		return consistency{}, err
	}
	if given(req.CustomClaims) {
		if err := checkClaims(req.CustomClaims); err != nil {
			return consistency{}, err
		}
	}
	if err := checkAuthorization(req.AuthorizationCheck); err != nil {
		return consistency{}, err
	}
	return n.parseConsistency(req.Consistency)
}

// oneOf refuses a request in which not exactly one of the members is set.
func oneOf(set map[string]bool) error {
	count, names := 0, ""
	for _, name := range []string{"session_id", "session_token", "session_jwt", "user_id", "all"} {
		is, ok := set[name]
		if !ok {
			continue
		}
		if is {
			count++
		}
		if names != "" {
			names += ", "
		}
		names += name
	}
	switch count {
	case 0:
		return fail(api.InvalidArgument, "one of %s is required", names)
	case 1:
		return nil
	}
	return fail(api.TooManyArguments, "only one of %s may be given", names)
}

// refresh extends the session and merges claims into it, as far as the request
// asks for that and it changes anything.
func (n *Node) refresh(ctx context.Context, c *call, f found, look func() (found, error), req *api.Authenticate) (found, error) {
	claims := given(req.CustomClaims)
	if !claims && req.SessionDurationMinutes == 0 {
		return f, nil
	}
	full := n.home.above(touchBudget)
	if full && claims {
		return found{}, tooFull()
	}
	after, err := n.change(ctx, c, look, func(f found, d *draft) (reason string, err error) {
		if !full && f.stale == "" && extend(d, req.SessionDurationMinutes, n.wall()) {
			reason = events.ReasonExtended
		}
		if !claims {
			return reason, nil
		}
		was := object(d.private.CustomClaims)
		if d.private.CustomClaims, err = patchClaims(was, req.CustomClaims); err != nil {
			return "", err
		}
		if string(d.private.CustomClaims) != string(was) {
			reason = events.ReasonChanged
		}
		return reason, nil
	})
	if !claims && (errors.Is(err, events.ErrUnavailable) || errors.Is(err, events.ErrFull) || errors.Is(err, events.ErrConflict)) {
		// It merely wanted to live longer; whether it is good, this node knows
		// by its lease.
		if f, err = look(); err == nil {
			err = f.active()
		}
		return f, err
	}
	return after, err
}

// extend lets the session live for the duration from now on, if that moves its
// expiry far enough ahead to be worth an event.
func extend(d *draft, minutes, now int64) bool {
	until := extended(minutes, now, d.state.AbsoluteAt)
	if minutes == 0 || (until-d.state.ExpiresAt)*extendStep <= until-now {
		return false
	}
	d.state.ExpiresAt = until
	return true
}

func tooFull() error {
	return fail(api.LogFull, "the log is above %d %% of its budget; changes must wait", touchBudget)
}
