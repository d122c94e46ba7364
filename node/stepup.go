package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// Limits of a demand.
const (
	maxAgeSeconds = maxMinutes * 60
	maxMethods    = 8
	maxMethod     = 64 // bytes
)

// demand is what a request wants of a session beside that it is good.
type demand struct {
	aged   bool
	maxAge int64 // seconds since the user last proved who they are, if aged
	amr    []string
	level  string // at least; empty: any
}

// newDemand checks what the body of a request demands; nil: nothing.
func newDemand(req *api.Require) (*demand, error) {
	if req == nil {
		return nil, nil
	}
	d := demand{amr: req.AMR, level: req.AAL}
	if req.MaxAgeSeconds != nil {
		if d.maxAge, d.aged = *req.MaxAgeSeconds, true; d.maxAge < 0 || d.maxAge > maxAgeSeconds {
			return nil, fail(api.InvalidArgument, "require.max_age_seconds: want 0 to %d", maxAgeSeconds).with("field", "require.max_age_seconds")
		}
	}
	if d.level != "" {
		if err := checkLevel("require.aal", d.level); err != nil {
			return nil, err
		}
	}
	if !validMethods(d.amr) {
		return nil, fail(api.InvalidArgument, "require.amr: want 1 to %d different methods, such as otp", maxMethods).with("field", "require.amr")
	}
	if !d.aged && d.level == "" && d.amr == nil {
		return nil, fail(api.InvalidArgument, "require: demands nothing; want max_age_seconds, amr or aal").with("field", "require")
	}
	return &d, nil
}

// validMethods reports whether the methods, if there are any, can be demanded.
func validMethods(all []string) bool {
	if all == nil {
		return true
	}
	if len(all) == 0 || len(all) > maxMethods {
		return false
	}
	for i, m := range all {
		if m == "" || len(m) > maxMethod || slices.Contains(all[:i], m) || strings.ContainsFunc(m, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' || r == ',' }) {
			return false
		}
	}
	return true
}

// ask takes a parameter of a verify's query and reports whether it is bad: empty,
// given twice, or nothing that can be demanded.
func (d *demand) ask(name, value string) (bad bool) {
	switch name {
	case "max_age":
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || value[0] < '0' || value[0] > '9' || seconds > maxAgeSeconds || d.aged {
			return true
		}
		d.aged, d.maxAge = true, seconds
	case "amr":
		if d.amr != nil {
			return true
		}
		d.amr = strings.Split(value, ",")
		return !validMethods(d.amr)
	case "acr":
		if d.level != "" || rankOfLevel(value) < 1 {
			return true
		}
		d.level = value
	}
	return false
}

// actedUnproved reports whether somebody acts as the user who proved nothing, as
// factors say it: that the session began just now is no log-in of anybody then.
func actedUnproved(p *events.Private) bool {
	return len(p.Actor) > 0 && len(readFactors(p.Factors)) == 0
}

// unmet returns what the session falls short of at now (unix ms), nil for nothing.
func (d *demand) unmet(s *projection.Session, p *events.Private, now int64) error {
	methods, at := factorClaims(p.Factors, date(s.CreatedAt), time.UnixMilli(now))
	switch {
	case rankOfLevel(level(p)) < rankOfLevel(d.level):
		return d.refuse("a stronger log-in is required")
	case slices.ContainsFunc(d.amr, func(m string) bool { return !slices.Contains(methods, m) }):
		return d.refuse("a log-in by " + strings.Join(d.amr, " and ") + " is required")
	case d.aged && (now-at.UnixMilli() > d.maxAge*1000 || actedUnproved(p)):
		return d.refuse("a more recent log-in is required")
	}
	return nil
}

// refuse is how a session that falls short is answered: RFC 9470 section 3.
func (d *demand) refuse(why string) *failure {
	f := fail(api.StepUpRequired, "%s", why)
	f.challenge = fmt.Sprintf(`Bearer error="insufficient_user_authentication", error_description=%q`, why)
	if d.level != "" {
		f.challenge += `, acr_values="` + d.level + `"`
		f.with("aal", d.level)
	}
	if d.aged {
		f.challenge += `, max_age="` + strconv.FormatInt(d.maxAge, 10) + `"`
		f.with("max_age_seconds", d.maxAge)
	}
	if d.amr != nil {
		f.with("amr", d.amr)
	}
	return f
}

// meets returns why the session, which is good, falls short of the demand, which
// may be nil.
func (n *Node) meets(ctx context.Context, f *found, d *demand) error {
	if d == nil {
		return nil
	}
	p, err := n.private(ctx, f)
	if err != nil {
		return err
	}
	return d.unmet(&f.Session, p, n.judgedAt(f.asked))
}

// reasonStepUp is X-Session-Reason where a good session is not good enough.
const reasonStepUp = "step_up"

// demanded returns the outcome, which is good, or why the session is not good
// enough for what the request demands. The private part may have been waited for:
// then the outcome is that of a look after it.
func (n *Node) demanded(ctx context.Context, v *verifyRequest, o outcome) outcome {
	waiting, cancel := context.WithTimeout(ctx, jwtPatience)
	defer cancel()
	f := found{answer: o.answer}
	err := n.meets(waiting, &f, v.need)
	failed, ok := errors.AsType[*failure](err)
	switch {
	case err == nil && o.Sealed.Empty(): // it was waited for: is what was shown still good?
		now := n.check(ctx, v.shown, &v.verifyQuery)
		now.nonce = o.nonce
		return now
	case err == nil:
		return o
	case ok && failed.kind == api.StepUpRequired:
		return outcome{
			answer: answer{staleness: f.staleness}, at: o.at, status: http.StatusUnauthorized, reason: reasonStepUp, stepUp: failed,
		}
	case ok && failed.kind == api.SessionNotFound:
		if o = n.check(ctx, v.shown, &v.verifyQuery); o.status != http.StatusNoContent {
			return o // it ended meanwhile
		}
	}
	return unanswered(err)
}
