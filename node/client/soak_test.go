package client_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/client"
)

var (
	soakSeeds = flag.Uint64("soak.seeds", 2, "how many schedules TestSoak tries")
	soakFirst = flag.Uint64("soak.first", 1, "the first of them")
)

// TestSoak: whatever happens to nodes, log, network and clocks, a client never says
// good of a session that was revoked a lease ago, never says that one is over which is
// not, and judges by itself again once all is well.
func TestSoak(t *testing.T) {
	for seed := *soakFirst; seed < *soakFirst+*soakSeeds; seed++ {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &soak{world: newWorld(t, 3), dice: rand.New(rand.NewPCG(seed, 1))}
				s.run()
			})
		})
		if !ok {
			t.Fatalf("seed %d; run it with -soak.first=%d -soak.seeds=1", seed, seed)
		}
	}
}

// soak is a schedule of requests and troubles.
type soak struct {
	*world
	dice    *rand.Rand
	clients []*soakClient
	all     []*soakSession
	stolen  map[string]time.Time // keys, since when that is committed
	history []string
}

type soakClient struct {
	*client.Client
	clock  *testClock
	stop   func()
	policy client.Policy
}

type soakSession struct {
	id, user, token string
	jwts            []string
	ended           time.Time // when its revocation was acknowledged; zero: it was not revoked
	unsure          bool      // a revocation of it was not answered
}

const (
	soakSteps = 150
	soakLease = client.DefaultLease
)

func (s *soak) note(format string, args ...any) {
	s.history = append(s.history, fmt.Sprintf("%v ", time.Since(s.begin))+fmt.Sprintf(format, args...))
}

func (s *soak) fail(format string, args ...any) {
	s.t.Helper()
	for _, line := range s.history[max(0, len(s.history)-60):] {
		s.t.Log(line)
	}
	s.t.Fatalf("%v: "+format, append([]any{time.Since(s.begin)}, args...)...)
}

func (s *soak) run() {
	s.stolen = map[string]time.Time{}
	for i, policy := range []client.Policy{client.Ask, client.Refuse} {
		s.clients = append(s.clients, &soakClient{policy: policy})
		s.startClient(i)
	}
	for range 5 {
		s.create()
	}
	for range soakSteps {
		time.Sleep(time.Duration(s.dice.ExpFloat64() * float64(3*time.Second)))
		s.step()
		for range 4 {
			s.verify()
		}
	}
	for _, p := range s.nodes {
		p.thaw()
		p.log.Heal()
	}
	for _, c := range s.clients { // by a clock that is set ahead a JWT has expired
		c.clock.mu.Lock()
		c.clock.skew = 0
		c.clock.mu.Unlock()
	}
	s.note("all is well")
	time.Sleep(time.Minute)
	s.create()
	for _, c := range s.clients {
		for _, one := range s.all {
			v, err := c.Verify(s.t.Context(), one.jwts[len(one.jwts)-1])
			if one.ended.IsZero() && !one.unsure && err != nil && !s.isStolen(one.jwts[len(one.jwts)-1]) {
				s.fail("policy %v, all is well, session %s: %v", c.policy, one.id, err)
			}
			_ = v
		}
		last := s.all[len(s.all)-1]
		s.local("all is well", c.Client, last.jwts[0])
	}
}

func (s *soak) startClient(i int) {
	c := s.clients[i]
	if c.stop != nil {
		c.stop()
	}
	order := s.dice.Perm(3)
	c.clock = s.clock()
	c.Client = s.client(func(n *client.Client) {
		n.Base = fmt.Sprintf("http://n%d,http://n%d,http://n%d", order[0]+1, order[1]+1, order[2]+1)
		n.OnStale, n.Timeout = c.policy, time.Second
	})
	client.SetClock(c.Client, c.clock)
	c.stop = s.world.run(c.Client)
	s.note("client %d starts at %s", i, c.Base)
}

func (s *soak) node() *peer { return s.nodes[s.dice.IntN(3)] }

func (s *soak) user() string { return fmt.Sprintf("user%d", s.dice.IntN(4)) }

func (s *soak) create() {
	var made api.SessionAnswer
	user, p := s.user(), s.node()
	status := s.ask(p, s.access.APIKey, "POST", "/v1/sessions", m{"user_id": user}, &made)
	if status != http.StatusCreated {
		return
	}
	s.all = append(s.all, &soakSession{id: made.Session.SessionID, user: user, token: made.SessionToken, jwts: []string{made.SessionJWT}})
	s.note("%s of %s is made at %s", made.Session.SessionID, user, p.name)
}

func (s *soak) pick() *soakSession {
	if n := len(s.all); n > 8 && s.dice.IntN(2) == 0 {
		return s.all[n-1-s.dice.IntN(8)]
	}
	return s.all[s.dice.IntN(len(s.all))]
}

// revoke revokes, and notes which sessions that ended.
func (s *soak) revoke(what m, takes func(*soakSession) bool) {
	p := s.node()
	status := s.ask(p, s.access.APIKey, "POST", "/v1/sessions/revoke", what, nil)
	s.note("revoke %v at %s: %d", what, p.name, status)
	for _, one := range s.all {
		switch {
		case !takes(one) || !one.ended.IsZero():
		case status == http.StatusOK:
			one.ended = time.Now()
		default:
			one.unsure = true
		}
	}
}

func (s *soak) step() {
	c := s.dice.IntN(2)
	switch p := s.node(); s.dice.IntN(24) {
	case 0, 1, 2, 3:
		s.create()
	case 4, 5:
		one := s.pick()
		s.revoke(m{"session_id": one.id}, func(o *soakSession) bool { return o == one })
	case 6:
		user := s.user()
		s.revoke(m{"user_id": user}, func(o *soakSession) bool { return o.user == user })
	case 7:
		one := s.pick()
		s.revoke(m{"user_id": one.user, "except_session_id": one.id}, func(o *soakSession) bool { return o.user == one.user && o != one })
	case 8:
		if s.dice.IntN(6) == 0 {
			s.revoke(m{"all": true}, func(*soakSession) bool { return true })
		}
	case 9, 10, 11:
		s.renew()
	case 12:
		p.freeze()
		s.note("%s is frozen", p.name)
	case 13, 14:
		p.thaw()
		s.note("%s is thawed", p.name)
	case 15:
		p.cut()
		s.note("connections to %s are cut", p.name)
	case 16:
		p.log.Cut()
		s.note("%s is cut off from the log", p.name)
	case 17, 18:
		p.log.Heal()
		s.note("%s is healed", p.name)
	case 19:
		p.log.Break()
	case 20:
		slept := time.Duration(s.dice.IntN(40)) * time.Second
		s.clients[c].clock.move(slept, slept)
		s.note("client %d sleeps %v", c, slept)
	case 21:
		skew := time.Duration(s.dice.IntN(7200)-3600) * time.Second / time.Duration(1+s.dice.IntN(100))
		s.clients[c].clock.move(0, skew)
		s.note("client %d: clock set by %v", c, skew)
	case 22:
		switch s.dice.IntN(4) {
		case 0:
			s.startClient(c)
		case 1:
			p.log.Heal()
			p.end()
			p.start()
			s.note("%s starts anew", p.name)
		}
	case 23:
		if s.dice.IntN(4) == 0 {
			s.steal(p)
		}
	}
}

// renew asks a node for a fresh JWT.
func (s *soak) renew() {
	var out api.SessionAnswer
	one, p := s.pick(), s.node()
	if s.ask(p, s.access.APIKey, "POST", "/v1/sessions/authenticate", m{"session_token": one.token}, &out) != http.StatusOK {
		return
	}
	if out.SessionJWT != "" && out.SessionJWT != one.jwts[len(one.jwts)-1] {
		one.jwts = append(one.jwts, out.SessionJWT)
		s.note("%s has a new JWT of %s", one.id, p.name)
	}
}

func (s *soak) steal(p *peer) {
	id := kid(s.t, s.pick().jwts[0])
	status := s.ask(p, s.admin, "POST", "/v1/apps/acme/keys/rotate", m{"compromised": id}, nil)
	s.note("key %s is stolen: %d", id, status)
	if status < 300 && s.stolen[id].IsZero() {
		s.stolen[id] = time.Now()
	}
}

func (s *soak) isStolen(jwt string) bool { return !s.stolen[kid(s.t, jwt)].IsZero() }

// verify holds what a client says of a session against what happened to it.
func (s *soak) verify() {
	one, c := s.pick(), s.clients[s.dice.IntN(2)]
	credential, jwt := one.token, false
	if s.dice.IntN(5) > 0 {
		credential, jwt = one.jwts[s.dice.IntN(len(one.jwts))], true
	}
	began := time.Now()
	v, err := c.Verify(s.t.Context(), credential)
	stolen := time.Time{}
	if jwt {
		stolen = s.stolen[kid(s.t, credential)]
	}
	over := func(at time.Time) bool { return !at.IsZero() && began.After(at.Add(soakLease+100*time.Millisecond)) }
	switch {
	case err == nil && (v.ID != one.id || v.User != one.user):
		s.fail("policy %v: %s is said to be %s", c.policy, one.id, v.ID)
	case err == nil && over(one.ended):
		s.fail("policy %v: %s was revoked %v ago and is good (JWT: %v, asked: %v)", c.policy, one.id, began.Sub(one.ended), jwt, v.Detail != nil)
	case err == nil && over(stolen):
		s.fail("policy %v: %s, a JWT of a key that was stolen %v ago is good (asked: %v)", c.policy, one.id, began.Sub(stolen), v.Detail != nil)
	case errors.Is(err, client.ErrStale):
	case errors.Is(err, client.ErrRevoked) && (!one.ended.IsZero() || one.unsure):
	case errors.Is(err, client.ErrInvalid) && !stolen.IsZero():
	case err != nil:
		s.fail("policy %v: %s (JWT: %v): %v", c.policy, one.id, jwt, err)
	}
}
