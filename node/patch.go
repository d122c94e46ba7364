package node

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// getSession answers GET /v1/sessions/{sid}, also for a session that has ended
// and is still known.
func (n *Node) getSession(ctx context.Context, c *call) (int, any, error) {
	app, err := n.appOf(c)
	if err != nil {
		return 0, nil, err
	}
	sid, err := c.pathSID()
	if err != nil {
		return 0, nil, err
	}
	f, err := n.lookSID(ctx, app.App, sid, consistency{})
	if err != nil {
		return 0, nil, err
	}
	if f.StateSeq == 0 { // unknown, or only its revocation is known
		return 0, nil, notFound(f.verdict)
	}
	p, err := n.private(ctx, &f)
	if err != nil {
		return 0, nil, err
	}
	s, err := n.view(&f.Session, f.verdict, p)
	c.warnStale(f)
	return http.StatusOK, &api.SessionInfo{Freshness: f.freshness(), Session: s}, err
}

// patchSession answers PATCH /v1/sessions/{sid}. The answer has no token: the
// caller did not show one.
func (n *Node) patchSession(ctx context.Context, c *call) (int, any, error) {
	var req api.PatchSession
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	if err := checkPatch(&req); err != nil {
		return 0, nil, err
	}
	app, err := n.appOf(c)
	if err != nil {
		return 0, nil, err
	}
	sid, err := c.pathSID()
	if err != nil {
		return 0, nil, err
	}
	look := func() (found, error) { return n.lookSID(ctx, app.App, sid, consistency{}) }
	f, err := n.change(ctx, c, look, func(_ found, d *draft) (string, error) {
		reason, err := d.patch(&req, n.wall())
		if reason != "" && n.home.above(touchBudget) {
			return "", tooFull()
		}
		return reason, err
	})
	if err != nil {
		return 0, nil, err
	}
	out, err := n.answered(ctx, c, f, "")
	return http.StatusOK, out, err
}

func checkPatch(req *api.PatchSession) error {
	if given(req.CustomClaims) {
		if err := checkClaims(req.CustomClaims); err != nil {
			return err
		}
	}
	if given(req.Metadata) {
		if err := checkObject("metadata", req.Metadata); err != nil {
			return err
		}
	}
	return checkMinutes("session_duration_minutes", req.SessionDurationMinutes)
}

// patch changes the draft as asked and says what kind of change that is, or ""
// for none.
func (d *draft) patch(req *api.PatchSession, now int64) (reason string, err error) {
	if req.SessionDurationMinutes > 0 {
		if until := extended(req.SessionDurationMinutes, now, d.state.AbsoluteAt); until != d.state.ExpiresAt {
			d.state.ExpiresAt, reason = until, events.ReasonExtended
		}
	}
	p := &d.private
	was := [...]string{string(object(p.CustomClaims)), string(object(p.Metadata)), string(p.Factors)}
	if given(req.CustomClaims) {
		if p.CustomClaims, err = patchClaims(p.CustomClaims, req.CustomClaims); err != nil {
			return "", err
		}
	}
	if given(req.Metadata) {
		if p.Metadata, err = mergePatch(p.Metadata, req.Metadata); err != nil {
			return "", err
		}
	}
	if len(req.AddFactors) > 0 {
		var all []json.RawMessage
		if len(p.Factors) > 0 {
			if err := json.Unmarshal(p.Factors, &all); err != nil {
				return "", err
			}
		}
		if p.Factors, err = checkFactors("add_authentication_factors", append(all, req.AddFactors...)); err != nil {
			return "", err
		}
	}
	if was != [...]string{string(object(p.CustomClaims)), string(object(p.Metadata)), string(p.Factors)} {
		reason = events.ReasonChanged
	}
	return reason, nil
}
