package client_test

import (
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/client"
)

// TestRegionComesBack: what was revoked while the home of a session was out of reach takes
// no JWT away there until it is delivered. So it is not forgotten for as long as that
// takes, though it was heard longer ago than JWTs live: neither when it came as an event,
// nor when it was there before the client began, nor when it was caught up with again.
func TestRegionComesBack(t *testing.T) {
	one, _ := events.NewToken(3).Key()
	two, _ := events.NewToken(3).Key()
	for _, c := range []struct {
		name          string
		before, again bool
	}{{"told", false, false}, {"there before", true, false}, {"caught up with again", false, true}} {
		at := time.Now()
		pending := func(s *script) {
			s.know.Sessions = []string{one.String()}
			s.know.Users = []api.Watermark{{Region: "us", Stream: 3, UserHash: events.UserHash("acme", "ada"), RevokedAt: at, Except: []string{two.String()}}}
		}
		play(t, func(t *testing.T, a *act) {
			at := time.Now().UTC()
			if !c.before {
				a.expect(c.name+", before", one.String(), nil)
				a.set(func() { a.streams[2].Stale = "silent" })
				a.say(a.revoked(one.String(), "_config:0:1,eu:0:7,us:0:3"))
				a.set(func() { pending(a.script); a.know.Users[0].RevokedAt = at })
			}
			time.Sleep(9 * time.Minute)
			if c.again {
				a.say(event("resync", "", api.FeedResync{Reason: "gone"}))
			}
			time.Sleep(100 * time.Second)
			a.expect(c.name+", out of reach", two.String(), client.ErrStale)
			a.set(func() { a.streams[2].Stale = "" })
			time.Sleep(20 * time.Second)
			a.expect(c.name+", revoked", one.String(), client.ErrRevoked)
			a.expect(c.name+", another", two.String(), nil)
			if catches, _ := a.look(); catches != 2 {
				t.Errorf("%s: caught up %d times", c.name, catches)
			}
		}, func(s *script) {
			s.know.Revision += ",us:0:3"
			s.streams = append(s.streams, api.FeedStream{Region: "us", Stream: 3})
			if c.before {
				pending(s)
				s.streams[2].Stale = "silent"
			}
		})
	}
}
