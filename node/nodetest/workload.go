package nodetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// users is how many people log in: few, so that revocations of a user hit.
const users = 6

// recent is how many of the newest sessions are used again.
const recent = 24

// session is what the driver knows of a session.
type session struct {
	sid, user, jwt string

	mu    sync.Mutex // guards token
	token string
}

func (s *session) current() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
}

// workload is what clients do and know.
type workload struct {
	c *Cluster
	h *History

	mu       sync.Mutex // guards what follows
	sessions []*session
	unsure   []Op // revocations of which it was not said that they are applied everywhere
	marks    int  // how many patches were made
}

// client makes requests until ctx ends.
func (w *workload) client(ctx context.Context, d *dice) {
	for {
		wait(ctx, time.Millisecond+d.upTo(900*time.Millisecond))
		if ctx.Err() != nil {
			return
		}
		m := w.c.Members[d.Int64N(int64(len(w.c.Members)))]
		s := w.pick(d)
		switch p := d.Float64(); {
		case s == nil, p < 0.22:
			w.loggedIn(ctx, d, m)
		case p < 0.50:
			w.use(ctx, m, s, w.anyVia(d), "")
		case p < 0.56:
			w.useStrong(ctx, m, s)
		case p < 0.72:
			w.revokeOne(ctx, d, m, s)
		case p < 0.82:
			w.revokeUser(ctx, d, m, s)
		case p < 0.86:
			w.rotate(ctx, m, s)
		case p < 0.90:
			w.use(ctx, m, s, "extend", "")
		case p < 0.95:
			w.patches(ctx, d, s)
		default:
			w.receipt(ctx, d, m)
		}
	}
}

// pick returns one of the newest sessions, nil when there is none.
func (w *workload) pick(d *dice) *session {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.sessions)
	if n == 0 {
		return nil
	}
	return w.sessions[n-1-int(d.Int64N(int64(min(n, recent))))]
}

func (w *workload) anyVia(d *dice) string {
	return []string{"token", "token", "jwt", "authenticate", "mint"}[d.Int64N(5)]
}

// loggedIn creates a session and looks at once whether it is there.
func (w *workload) loggedIn(ctx context.Context, d *dice, m *Member) {
	s, o := w.create(ctx, OpCreate, m, fmt.Sprintf("user%d", d.Int64N(users)))
	if s == nil {
		return
	}
	if d.hit(0.3) {
		w.use(ctx, m, s, w.anyVia(d), "")
	}
	if d.hit(0.3) {
		w.use(ctx, w.c.Members[d.Int64N(int64(len(w.c.Members)))], s, "authenticate", o.Revision)
	}
}

func (w *workload) create(ctx context.Context, op string, m *Member, user string) (*session, *Op) {
	o := w.begin(op, m)
	o.User = user
	r := m.ask(ctx, w.c.access.APIKey, "POST", "/v1/sessions", fields{"user_id": user, "session_duration_minutes": 600})
	o.End = w.c.now()
	r.written(&o)
	o.SID = r.body.Session.SessionID
	w.h.Add(o)
	if o.Outcome != OK {
		return nil, nil
	}
	s := &session{sid: o.SID, user: user, token: r.body.Token, jwt: r.body.JWT}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sessions = append(w.sessions, s)
	return s, &o
}

// begin returns an operation that begins now.
func (w *workload) begin(op string, m *Member) Op {
	o := Op{Op: op, Node: m.Name, Start: w.c.now()}
	if w.c.conf.Regions > 1 {
		o.Region = m.Region
	}
	return o
}

// use uses the session on the node in one of several ways.
func (w *workload) use(ctx context.Context, m *Member, s *session, via, atLeast string) {
	o := w.begin(OpUse, m)
	o.SID, o.Via, o.AtLeast = s.sid, via, atLeast
	var r reply
	key := w.c.access.APIKey
	switch via {
	case "token":
		r = m.ask(ctx, s.current(), "GET", "/v1/verify", nil)
	case "jwt":
		r = m.ask(ctx, s.jwt, "GET", "/v1/verify", nil)
	case "mint":
		r = m.ask(ctx, key, "POST", "/v1/sessions/"+s.sid+"/tokens", fields{})
	default:
		body := fields{"session_token": s.current()}
		if via == "extend" {
			body["session_duration_minutes"] = 700
		}
		if atLeast != "" {
			body["consistency"] = fields{"at_least": atLeast}
		}
		r = m.ask(ctx, key, "POST", "/v1/sessions/authenticate", body)
	}
	o.End = w.c.now()
	r.judged(&o)
	w.h.Add(o)
}

// useStrong asks the node for what is true now. It shows the token: whether a JWT
// is good depends on the node's wall clock, too.
func (w *workload) useStrong(ctx context.Context, m *Member, s *session) {
	o := w.begin(OpUse, m)
	o.SID, o.Via, o.Strong = s.sid, "authenticate", true
	r := m.ask(ctx, w.c.access.APIKey, "POST", "/v1/sessions/authenticate", fields{"session_token": s.current(), "consistency": "strong"})
	o.End = w.c.now()
	r.judged(&o)
	w.h.Add(o)
}

// patches leaves marks in the session on several nodes at about the same time.
func (w *workload) patches(ctx context.Context, d *dice, s *session) {
	var asked sync.WaitGroup
	for range 1 + d.Int64N(3) {
		m, later := w.c.Members[d.Int64N(int64(len(w.c.Members)))], d.upTo(20*time.Millisecond)
		asked.Go(func() {
			wait(ctx, later)
			w.patch(ctx, m, s)
		})
	}
	asked.Wait()
}

// patch leaves a mark in the session, extends it, and looks which marks it has.
func (w *workload) patch(ctx context.Context, m *Member, s *session) {
	o := w.begin(OpUse, m)
	w.mu.Lock()
	w.marks++
	extra := w.marks
	w.mu.Unlock()
	o.SID, o.Via, o.Wrote = s.sid, "patch", fmt.Sprintf("m%d", extra)
	body := fields{"metadata": fields{o.Wrote: true}, "session_duration_minutes": 700 + extra%100}
	r := m.ask(ctx, w.c.access.APIKey, "PATCH", "/v1/sessions/"+s.sid, body)
	o.End = w.c.now()
	r.judged(&o)
	w.h.Add(o)
}

// receipt asks the node how far a revocation has come of which that was not said
// yet.
func (w *workload) receipt(ctx context.Context, d *dice, m *Member) {
	w.mu.Lock()
	if len(w.unsure) == 0 {
		w.mu.Unlock()
		return
	}
	i := int(d.Int64N(int64(len(w.unsure))))
	revocation := w.unsure[i]
	w.unsure = slices.Delete(w.unsure, i, i+1)
	w.mu.Unlock()
	if o := w.askReceipt(ctx, m, revocation); o.Receipt != "complete" {
		w.isUnsure(revocation)
	}
}

func (w *workload) askReceipt(ctx context.Context, m *Member, revocation Op) Op {
	o := w.begin(OpReceipt, m)
	r := m.ask(ctx, w.c.access.APIKey, "GET", "/v1/receipts/"+revocation.Revision, nil)
	o.End = w.c.now()
	r.written(&o)
	o.Revision, o.Receipt, o.Pending = revocation.Revision, r.body.Status, revocation.Pending
	w.h.Add(o)
	return o
}

func (w *workload) isUnsure(revocation Op) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unsure = append(w.unsure, revocation)
}

func (w *workload) rotate(ctx context.Context, m *Member, s *session) {
	o := w.begin(OpUse, m)
	o.SID, o.Via = s.sid, "rotate"
	r := m.ask(ctx, w.c.access.APIKey, "POST", "/v1/sessions/rotate", fields{"session_token": s.current(), "grace_seconds": 60})
	o.End = w.c.now()
	r.judged(&o)
	w.h.Add(o)
	if o.Outcome == Valid && r.body.Token != "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.token = r.body.Token
	}
}

func (w *workload) revokeOne(ctx context.Context, d *dice, m *Member, s *session) {
	o := w.begin(OpRevoke, m)
	o.SID, o.User = s.sid, s.user
	if d.hit(0.3) { // as whoever does not know the session can, too
		o.Via = "jwt"
		w.revoke(ctx, d, m, s, o, fields{"session_jwt": s.jwt})
		return
	}
	w.revoke(ctx, d, m, s, o, fields{"session_id": s.sid})
}

func (w *workload) revokeUser(ctx context.Context, d *dice, m *Member, s *session) {
	o := w.begin(OpRevokeUser, m)
	o.User = s.user
	body := fields{"user_id": s.user}
	if d.hit(0.5) {
		o.Spared = s.sid
		body["except_session_id"] = s.sid
		// The session it is used on below must be one that it hits.
		if other := w.pick(d); other != nil {
			s = other
		}
	}
	w.revoke(ctx, d, m, s, o, body)
}

// revoke revokes, and then asks all nodes at once about a session.
func (w *workload) revoke(ctx context.Context, d *dice, m *Member, s *session, o Op, body fields) {
	if d.hit(0.6) {
		body["wait"] = "all"
	}
	r := m.ask(ctx, w.c.access.APIKey, "POST", "/v1/sessions/revoke", body)
	o.End = w.c.now()
	r.written(&o)
	w.h.Add(o)
	if o.Outcome != OK {
		return
	}
	if o.Receipt != "complete" {
		w.isUnsure(o)
	}
	atLeast, strong := "", d.hit(0.15)
	if d.hit(0.3) {
		atLeast = o.Revision
	}
	var asked sync.WaitGroup
	for _, n := range w.c.Members {
		via := w.anyVia(d)
		if atLeast != "" {
			via = "authenticate"
		}
		asked.Go(func() {
			wait(ctx, time.Nanosecond)
			if strong {
				w.useStrong(ctx, n, s)
				return
			}
			w.use(ctx, n, s, via, atLeast)
		})
	}
	asked.Wait()
}
