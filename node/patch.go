package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

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

// patchSession answers PATCH /v1/sessions/{sid}.
func (n *Node) patchSession(ctx context.Context, c *call) (int, any, error) {
	var req api.PatchSession
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	if err := checkPatch(&req); err != nil {
		return 0, nil, err
	}
	return n.changeOne(ctx, c, func(d *draft) (string, error) { return d.patch(&req, n.wall()) })
}

// changeOne has edit change the session of the path, and say what kind of change
// that is or "" for none. The answer has no token: the caller did not show one.
func (n *Node) changeOne(ctx context.Context, c *call, edit func(*draft) (reason string, err error)) (int, any, error) {
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
		reason, err := edit(d)
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
	if req.Roles != nil {
		if err := checkRoles(*req.Roles); err != nil {
			return err
		}
	}
	return checkMinutes("session_duration_minutes", req.SessionDurationMinutes)
}

// facts are what a patch may change, in a form to compare.
func facts(p *events.Private) string {
	return strings.Join([]string{
		string(object(p.CustomClaims)), string(object(p.Metadata)), string(p.Factors), p.Assurance, fmt.Sprintf("%q", p.Roles),
	}, "\n")
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
	was := facts(p)
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
	if req.Roles != nil {
		p.Roles = *req.Roles
	}
	if err := d.prove(req, now); err != nil {
		return "", err
	}
	if was != facts(p) {
		reason = events.ReasonChanged
	}
	return reason, nil
}

// prove adds factors and sets the level that is reached with them.
func (d *draft) prove(req *api.PatchSession, now int64) (err error) {
	const field = "add_authentication_factors"
	p := &d.private
	was := level(p)
	if len(req.AddFactors) > 0 {
		var all []json.RawMessage
		if len(p.Factors) > 0 {
			if err := json.Unmarshal(p.Factors, &all); err != nil {
				return err
			}
		}
		if _, err := checkFactors(field, req.AddFactors); err != nil {
			return err
		}
		if err := checkFactorTimes(field, req.AddFactors, date(now)); err != nil {
			return err
		}
		if all, err = addFactors(all, req.AddFactors, date(now)); err != nil {
			return err
		}
		if p.Factors, err = checkFactors(field, all); err != nil {
			return err
		}
	}
	return restateLevel(p, req.AssuranceLevel, was, len(req.AddFactors) > 0)
}
