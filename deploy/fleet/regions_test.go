package fleet_test

import (
	"context"
	"flag"
	"testing"
	"time"

	"github.com/revocast/revocast/deploy/fleet"
	"github.com/revocast/revocast/node/nodetest"
)

var cutFlag = flag.Duration("cut", 20*time.Second, "how long a region is cut off; longer than a lease")

// Two regions are cut off from one another for longer than a lease. Each one's
// sessions work all the time where they are at home; elsewhere they are refused
// after L, and never good once revoked at home for so long; healed, both agree.
// Then the log of one goes backwards.
func TestRegionsCutOff(t *testing.T) {
	t.Parallel()
	f := started(t, fleet.StartRegions)
	l := newLoad(t, f)
	eu, us := f.Nodes[0], f.Nodes[1]
	under(t, l, func(ctx context.Context) {
		wait(t, ctx, 2*time.Second)
		apart(t, ctx, l, eu, us)
		rewound(t, ctx, l, f.Brokers[0])
	})
}

func apart(t *testing.T, ctx context.Context, l *fleet.Load, eu, us *fleet.Node) {
	t.Helper()
	inEU, inUS := session(t, ctx, l, eu), session(t, ctx, l, us)
	// Each watches its own sessions.
	stopEU, stopUS := watched(t, ctx, l, t.Errorf, eu), watched(t, ctx, l, t.Errorf, us)
	for _, w := range []fleet.Way{fleet.Forth, fleet.Back} {
		l.Fleet.Backbone.Set(w, fleet.Trouble{Hold: true})
	}
	begun := time.Now()
	// A region that is cut off creates and revokes by itself.
	for _, n := range []*fleet.Node{eu, us} {
		s, o := l.Create(ctx, n, "")
		if s == nil {
			t.Errorf("no session on %s, cut off: %v", n.Name, o)
		} else if o := l.Revoke(ctx, n, s, "none"); o.Outcome != nodetest.OK {
			t.Errorf("no revocation on %s, cut off: %v", n.Name, o)
		}
	}
	for n, s := range map[*fleet.Node]*fleet.Session{eu: inUS, us: inEU} {
		took := until(t, ctx, "refusal on "+n.Name, fleet.Lease+2*time.Second-time.Since(begun), func() bool {
			return l.Use(ctx, n, s, "token", "").Outcome == nodetest.Fenced
		})
		t.Logf("%s refuses a session of the other region %v after the cut, it was asked for %v", n.Name, time.Since(begun).Round(100*time.Millisecond), took.Round(100*time.Millisecond))
	}
	wait(t, ctx, *cutFlag-time.Since(begun))
	for n, s := range map[*fleet.Node]*fleet.Session{eu: inUS, us: inEU} {
		if o := l.Use(ctx, n, s, "jwt", ""); o.Outcome != nodetest.Fenced {
			t.Errorf("%s, cut off, answers about a session of the other region: %v", n.Name, o)
		}
	}
	t.Logf("cut off for %v: good verifies of own sessions %d and %d, and none otherwise", time.Since(begun).Round(time.Second), stopEU(), stopUS())
	l.Fleet.Heal()
	healed := time.Now()
	limit, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	looks, err := l.Agree(limit, eu, us)
	took := time.Since(healed)
	t.Logf("the regions agree %v after healing, looked %d times", took.Round(100*time.Millisecond), looks)
	if err != nil || took > 10*time.Second {
		t.Errorf("the regions do not agree within 10 s: %v", err)
	}
}
