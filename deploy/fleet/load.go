package fleet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/node/nodetest"
)

// How long a client waits for an answer.
const (
	usePatience   = 3 * time.Second
	writePatience = 20 * time.Second
	// allPatience is above the longest wait for a receipt.
	allPatience = 30 * time.Second
)

// recent is how many of the newest sessions are used most.
const recent = 24

// cohort is how many sessions a user is given: revocations of a user hit some.
const cohort = 8

// Session is what a client knows of a session.
type Session struct {
	SID, User, JWT string

	mu    sync.Mutex // guards token
	token string
}

// Token returns the newest token that a client was given.
func (s *Session) Token() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
}

// Load is what clients of a fleet do, and what they were told.
type Load struct {
	Fleet *Fleet
	// History has every operation, by one clock.
	History *nodetest.History
	// Seed decides what clients do, and when, as far as they can.
	Seed uint64
	// Clients is how many there are; Think how long each thinks before a
	// request, at most.
	Clients int
	Think   time.Duration

	client *client
	begun  time.Time
	made   atomic.Int64

	mu       sync.Mutex // guards what follows
	sessions []*Session
	kept     []*Session
}

// NewLoad returns clients of the fleet that have done nothing yet.
func NewLoad(f *Fleet, seed uint64) *Load {
	return &Load{
		Fleet: f, History: &nodetest.History{}, Seed: seed, Clients: 20, Think: 100 * time.Millisecond,
		client: newClient(64), begun: time.Now(),
	}
}

// Now is the clock of the history, in nanoseconds.
func (l *Load) Now() int64 { return int64(time.Since(l.begun)) }

// Run makes requests until ctx ends, and returns when all are answered.
func (l *Load) Run(ctx context.Context) {
	var all sync.WaitGroup
	for i := range l.Clients {
		all.Go(func() { l.run(ctx, rand.New(rand.NewPCG(l.Seed, uint64(i)))) })
	}
	all.Wait()
}

func (l *Load) run(ctx context.Context, d *rand.Rand) {
	// What was asked is heard to its end, so that what it did is known.
	asking := context.WithoutCancel(ctx)
	for pause(ctx, time.Duration(d.Int64N(int64(l.Think)))) == nil {
		n := l.Fleet.Nodes[d.IntN(len(l.Fleet.Nodes))]
		s := l.pick(d)
		switch p := d.Float64(); {
		case s == nil, p < 0.15:
			s, o := l.Create(asking, n, "")
			if s != nil && d.Float64() < 0.3 {
				l.Use(asking, l.Fleet.Nodes[d.IntN(len(l.Fleet.Nodes))], s, "authenticate", o.Revision)
			}
		case p < 0.80:
			l.Use(asking, n, s, []string{"token", "token", "jwt", "authenticate", "mint"}[d.IntN(5)], "")
		case p < 0.90:
			l.revoked(asking, d, s, func(wait string) nodetest.Op { return l.Revoke(asking, n, s, wait) })
		case p < 0.93:
			l.revoked(asking, d, s, func(wait string) nodetest.Op { return l.RevokeUser(asking, n, s.User, wait) })
		case p < 0.96:
			l.Rotate(asking, n, s)
		default:
			l.Use(asking, n, s, "extend", "")
		}
	}
}

// pick returns one of the sessions, most often one of the newest; nil when there
// is none.
func (l *Load) pick(d *rand.Rand) *Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.sessions)
	if n == 0 {
		return nil
	}
	if d.Float64() < 0.3 {
		return l.sessions[d.IntN(n)]
	}
	return l.sessions[n-1-d.IntN(min(n, recent))]
}

// Sessions returns the sessions whose creation was acknowledged.
func (l *Load) Sessions() []*Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Concat(l.sessions, l.kept)
}

// Keep makes a session on the node that nobody ends: who verifies it sees
// whether the node answers.
func (l *Load) Keep(ctx context.Context, n *Node) (*Session, error) {
	s, o := l.send(ctx, nodetest.OpCreate, n, "kept")
	if s == nil {
		return nil, fmt.Errorf("create a session on %s: %v", n.Name, o)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, s)
	return s, nil
}

// Doom makes a session of the user on the node that the load does not use: the
// caller revokes it.
func (l *Load) Doom(ctx context.Context, n *Node, user string) (*Session, error) {
	s, o := l.send(ctx, nodetest.OpCreate, n, user)
	if s == nil {
		return nil, fmt.Errorf("create a session on %s: %v", n.Name, o)
	}
	return s, nil
}

// Create makes a session on the node; without a user it chooses one. The
// session is nil unless the node has acknowledged it.
func (l *Load) Create(ctx context.Context, n *Node, user string) (*Session, nodetest.Op) {
	if user == "" {
		user = fmt.Sprintf("user%d", l.made.Add(1)/cohort)
	}
	s, o := l.send(ctx, nodetest.OpCreate, n, user)
	if s != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.sessions = append(l.sessions, s)
	}
	return s, o
}

// send creates a session that the load does not use yet.
func (l *Load) send(ctx context.Context, op string, n *Node, user string) (*Session, nodetest.Op) {
	o := nodetest.Op{Op: op, Node: n.Name, User: user, Start: l.Now()}
	r := send(ctx, l.client, n, request{
		credential: l.Fleet.APIKey, method: "POST", path: "/v1/sessions", patience: writePatience,
		body: fields{"user_id": user, "session_duration_minutes": 600},
	})
	o.End = l.Now()
	r.written(&o)
	o.SID = r.body.Session.SessionID
	l.History.Add(o)
	if o.Outcome != nodetest.OK {
		return nil, o
	}
	return &Session{SID: o.SID, User: user, token: r.body.Token, JWT: r.body.JWT}, o
}

// Use uses the session on the node: by "token", "jwt", "authenticate", "extend"
// or "mint"; authenticate may demand to be at least as new as a revision.
func (l *Load) Use(ctx context.Context, n *Node, s *Session, via, atLeast string) nodetest.Op {
	o := nodetest.Op{Op: nodetest.OpUse, Node: n.Name, SID: s.SID, Via: via, AtLeast: atLeast}
	q := request{credential: l.Fleet.APIKey, method: "POST", patience: usePatience}
	switch via {
	case "token":
		q.credential, q.method, q.path = s.Token(), "GET", "/v1/verify"
	case "jwt":
		q.credential, q.method, q.path = s.JWT, "GET", "/v1/verify"
	case "mint":
		q.path, q.body = "/v1/sessions/"+s.SID+"/tokens", fields{}
	default:
		q.path, q.body = "/v1/sessions/authenticate", fields{"session_token": s.Token()}
		if via == "extend" {
			q.body["session_duration_minutes"], q.patience = 700, writePatience
		}
		if atLeast != "" {
			q.body["consistency"] = fields{"at_least": atLeast}
		}
	}
	o.Start = l.Now()
	r := send(ctx, l.client, n, q)
	o.End = l.Now()
	r.judged(&o)
	l.History.Add(o)
	return o
}

// Rotate gives the session another token.
func (l *Load) Rotate(ctx context.Context, n *Node, s *Session) nodetest.Op {
	o := nodetest.Op{Op: nodetest.OpUse, Via: "rotate", Node: n.Name, SID: s.SID, Start: l.Now()}
	r := send(ctx, l.client, n, request{
		credential: l.Fleet.APIKey, method: "POST", path: "/v1/sessions/rotate", patience: writePatience,
		body: fields{"session_token": s.Token(), "grace_seconds": 60},
	})
	o.End = l.Now()
	r.judged(&o)
	l.History.Add(o)
	if o.Outcome == nodetest.Valid && r.body.Token != "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.token = r.body.Token
	}
	return o
}

// Revoke revokes the session; wait is "none" or "all".
func (l *Load) Revoke(ctx context.Context, n *Node, s *Session, wait string) nodetest.Op {
	o := nodetest.Op{Op: nodetest.OpRevoke, Node: n.Name, SID: s.SID, User: s.User}
	return l.revoke(ctx, n, o, fields{"session_id": s.SID, "wait": wait})
}

// RevokeUser revokes all sessions of the user.
func (l *Load) RevokeUser(ctx context.Context, n *Node, user, wait string) nodetest.Op {
	o := nodetest.Op{Op: nodetest.OpRevokeUser, Node: n.Name, User: user}
	return l.revoke(ctx, n, o, fields{"user_id": user, "wait": wait})
}

// RevokeKinds are the ways to revoke that RevokeAs knows.
var RevokeKinds = []string{"session_id", "session_token", "session_jwt", "user_id", "except"}

// RevokeAs revokes the session in one of the ways; with except, all others of
// its user but the one spared.
func (l *Load) RevokeAs(ctx context.Context, n *Node, s, spared *Session, kind string) nodetest.Op {
	o := nodetest.Op{Op: nodetest.OpRevoke, Node: n.Name, SID: s.SID, User: s.User}
	switch kind {
	case "user_id":
		return l.RevokeUser(ctx, n, s.User, "none")
	case "except":
		o = nodetest.Op{Op: nodetest.OpRevokeUser, Node: n.Name, User: s.User, Spared: spared.SID}
		return l.revoke(ctx, n, o, fields{"user_id": s.User, "except_session_id": spared.SID})
	case "session_token":
		return l.revoke(ctx, n, o, fields{kind: s.Token()})
	case "session_jwt":
		return l.revoke(ctx, n, o, fields{kind: s.JWT})
	}
	return l.revoke(ctx, n, o, fields{"session_id": s.SID})
}

// CreateOnce makes a session for the user, and asks again, each time the next
// node, with the same Idempotency-Key until it is acknowledged. It returns how
// often it asked, and how many sessions the user has then.
func (l *Load) CreateOnce(ctx context.Context, at int, user string) (asked, has int, err error) {
	o := nodetest.Op{Op: nodetest.OpCreate, User: user, Start: l.Now()}
	q := request{
		credential: l.Fleet.APIKey, method: "POST", path: "/v1/sessions", patience: writePatience, once: user,
		body: fields{"user_id": user, "session_duration_minutes": 600},
	}
	for ctx.Err() == nil {
		n := l.Fleet.Nodes[(at+asked)%len(l.Fleet.Nodes)]
		r := send(ctx, l.client, n, q)
		asked++
		if r.status == 503 || r.err != nil {
			continue
		}
		o.End, o.Node = l.Now(), n.Name
		r.written(&o)
		o.SID = r.body.Session.SessionID
		l.History.Add(o)
		if o.Outcome != nodetest.OK {
			return asked, 0, fmt.Errorf("create with an Idempotency-Key: %v", o)
		}
		list := send(ctx, l.client, n, request{credential: l.Fleet.APIKey, method: "GET", path: "/v1/sessions?user_id=" + user, patience: usePatience})
		if list.status != 200 {
			return asked, 0, fmt.Errorf("list sessions: status %d: %w", list.status, list.err)
		}
		return asked, list.body.Total, nil
	}
	return asked, 0, ctx.Err()
}

func (l *Load) revoke(ctx context.Context, n *Node, o nodetest.Op, body fields) nodetest.Op {
	q := request{credential: l.Fleet.APIKey, method: "POST", path: "/v1/sessions/revoke", body: body, patience: allPatience}
	o.Start = l.Now()
	r := send(ctx, l.client, n, q)
	o.End = l.Now()
	r.written(&o)
	o.Note += r.body.Receipt.Method
	l.History.Add(o)
	return o
}

// revoked revokes, and then asks all nodes at once about the session.
func (l *Load) revoked(ctx context.Context, d *rand.Rand, s *Session, revoke func(wait string) nodetest.Op) {
	wait := "none"
	if d.Float64() < 0.25 {
		wait = "all"
	}
	o := revoke(wait)
	if o.Outcome != nodetest.OK {
		return
	}
	via, atLeast := []string{"token", "jwt", "mint"}[d.IntN(3)], ""
	if d.Float64() < 0.3 {
		via, atLeast = "authenticate", o.Revision
	}
	var asked sync.WaitGroup
	for _, n := range l.Fleet.Nodes {
		asked.Go(func() { l.Use(ctx, n, s, via, atLeast) })
	}
	asked.Wait()
}

// readers is how many sessions are read at a time.
const readers = 16

// Finish is called when everything is healed: it waits until each node answers
// and takes a session, for at most two leases (C7), and then reads every session
// on every node. What it saw is in the history.
func (l *Load) Finish(ctx context.Context) {
	l.History.Add(nodetest.Op{Op: nodetest.OpHeal, Start: l.Now(), End: l.Now()})
	patient, cancel := context.WithTimeout(ctx, 2*Lease)
	defer cancel()
	for _, n := range l.Fleet.Nodes {
		for {
			why, err := n.Fenced(ctx, n.Region)
			if err == nil && why == "" || pause(patient, 50*time.Millisecond) != nil {
				break
			}
		}
		l.send(ctx, nodetest.OpProbe, n, "probe")
	}
	for _, n := range l.Fleet.Nodes {
		l.readAll(ctx, n)
	}
}

// readAll reads every session on the node, and adds a digest of what it said.
func (l *Load) readAll(ctx context.Context, n *Node) {
	sessions := l.Sessions()
	verdicts := make([]string, len(sessions))
	var next atomic.Int64
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(sessions); i = int(next.Add(1)) - 1 {
				o := l.read(ctx, n, sessions[i])
				l.History.Add(o)
				// Not the reason: of a revoked session that the log lost, some
				// nodes remember that it was revoked, and others never heard.
				verdicts[i] = sessions[i].SID + " " + o.Outcome
			}
		})
	}
	all.Wait()
	o := nodetest.Op{Op: nodetest.OpDigest, Node: n.Name, Start: l.Now(), Note: digest(verdicts)}
	o.End = o.Start
	l.History.Add(o)
}

// read is not in the history unless its caller adds it.
func (l *Load) read(ctx context.Context, n *Node, s *Session) nodetest.Op {
	o := nodetest.Op{Op: nodetest.OpRead, Node: n.Name, SID: s.SID, Start: l.Now()}
	r := send(ctx, l.client, n, request{
		credential: l.Fleet.APIKey, method: "POST", path: "/v1/sessions/" + s.SID + "/tokens", body: fields{}, patience: writePatience,
	})
	o.End = l.Now()
	r.judged(&o)
	return o
}

// Agree reads every session on two nodes until both say the same of each, and
// returns how often it had to look.
func (l *Load) Agree(ctx context.Context, a, b *Node) (looks int, err error) {
	for looks = 1; ; looks++ {
		differ := 0
		for _, s := range l.Sessions() {
			x, y := l.read(ctx, a, s), l.read(ctx, b, s)
			if x.Outcome != y.Outcome || x.Outcome == nodetest.Unknown || x.Outcome == nodetest.Fenced {
				differ++
			}
		}
		if differ == 0 {
			return looks, nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return looks, fmt.Errorf("%s and %s differ in %s sessions: %w", a.Name, b.Name, fmt.Sprint(differ), err)
		}
	}
}
