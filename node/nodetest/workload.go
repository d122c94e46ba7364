package nodetest

import (
	"context"
	"fmt"
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

	mu       sync.Mutex // guards sessions
	sessions []*session
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
		case s == nil, p < 0.25:
			w.loggedIn(ctx, d, m)
		case p < 0.60:
			w.use(ctx, m, s, w.anyVia(d), "")
		case p < 0.80:
			w.revokeOne(ctx, d, m, s)
		case p < 0.90:
			w.revokeUser(ctx, d, m, s)
		case p < 0.94:
			w.rotate(ctx, m, s)
		default:
			w.use(ctx, m, s, "extend", "")
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
	o := Op{Op: op, Node: m.Name, User: user, Start: w.c.now()}
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

// use uses the session on the node in one of several ways.
func (w *workload) use(ctx context.Context, m *Member, s *session, via, atLeast string) {
	o := Op{Op: OpUse, Node: m.Name, SID: s.sid, Via: via, AtLeast: atLeast, Start: w.c.now()}
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

func (w *workload) rotate(ctx context.Context, m *Member, s *session) {
	o := Op{Op: OpUse, Via: "rotate", Node: m.Name, SID: s.sid, Start: w.c.now()}
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
	o := Op{Op: OpRevoke, Node: m.Name, SID: s.sid, User: s.user, Start: w.c.now()}
	w.revoke(ctx, d, m, s, o, fields{"session_id": s.sid})
}

func (w *workload) revokeUser(ctx context.Context, d *dice, m *Member, s *session) {
	o := Op{Op: OpRevokeUser, Node: m.Name, User: s.user, Start: w.c.now()}
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
	atLeast := ""
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
			w.use(ctx, n, s, via, atLeast)
		})
	}
	asked.Wait()
}
