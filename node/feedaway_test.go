package node_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node"
)

// follow opens a feed behind the cursor, which must be one.
func (n *continental) follow(cursor string) *feedClient {
	n.t.Helper()
	f := n.feed(n.key, "types=session.created,session.revoked,user.revoked", "Last-Event-ID", cursor)
	if f.status != http.StatusOK {
		n.t.Fatalf("no feed behind %s: %d %s", cursor, f.status, f.body)
	}
	return f
}

// wantUsers fails unless the next events are of these users.
func (c *feedClient) wantUsers(users ...string) (last frame) {
	c.t.Helper()
	for _, want := range users {
		if last = c.next(); last.str("user_id") != want {
			c.t.Fatalf("came %s of %s, want %s: %v", last.name, last.str("user_id"), want, last.data)
		}
	}
	return last
}

// stale returns why the next heartbeat promises nothing of the region, "" if it does.
func (c *feedClient) stale(region string) string {
	c.t.Helper()
	for _, s := range c.next("heartbeat").data["streams"].([]any) {
		if s := s.(m); s["region"] == region {
			why, _ := s["stale"].(string)
			return why
		}
	}
	return ""
}

// While a region is out of reach, what happens in the others is told to whoever comes
// with a cursor that names it, on whichever node: one that is ahead of the cursor
// there, one that is behind, and one that began since. What happened there is told in
// order and once, as soon as it is known.
func TestFeedGoesOnWithoutARegion(t *testing.T) {
	var away atomic.Bool
	for name, prepare := range map[string]func(c *continents) *continental{
		"ahead": func(c *continents) *continental {
			time.Sleep(5 * time.Second) // heartbeats of us come behind the cursor
			c.cut()
			return c.nodes["eu2"]
		},
		"behind": func(c *continents) *continental {
			c.cut()
			return c.nodes["eu2"]
		},
		"begun": func(c *continents) *continental {
			c.cut()
			c.end("eu2")
			away.Store(true)
			c.adjust = func(_ string, conf *node.Config) {
				conf.Open = func(context.Context, *events.Region) (events.Log, error) {
					if away.Load() {
						return nil, errors.New("no route")
					}
					return c.logs["us"].Link(), nil
				}
			}
			c.start("eu3")
			return c.nodes["eu3"]
		},
	} {
		t.Run(name, func(t *testing.T) {
			continentsBubble(t, func(t *testing.T, c *continents) {
				eu1, us1 := c.nodes["eu1"], c.nodes["us1"]
				if name == "behind" {
					c.nodes["eu2"].links["us"].Cut()
					time.Sleep(3 * time.Second)
				}
				first := eu1.follow("eu:0:1,us:0:1,_config:0:1")
				first.next("hello")
				us1.login("before")
				cursor := first.wantUsers("before").id
				first.stop()
				if !strings.Contains(cursor, "us:") {
					t.Fatalf("cursor %s", cursor)
				}
				if name == "ahead" {
					us1.login("missed")
				}
				n := prepare(c)
				us1.login("during")
				time.Sleep(30 * time.Second)

				feed := n.follow(cursor)
				if at := feed.next("hello").id; part(at, "us:") != part(cursor, "us:") {
					t.Errorf("goes on at %s, behind %s", at, cursor)
				}
				eu1.login("ada")
				feed.wantUsers("ada")
				if why := feed.stale("us"); why == "" && name != "begun" { // which does not know it
					t.Error("all of us is promised")
				}
				eu1.login("ben")
				again := feed.wantUsers("ben").id
				if part(again, "us:") != part(cursor, "us:") {
					t.Errorf("the cursor says %s, nothing of us was told since %s", again, cursor)
				}
				feed.stop()
				feed = n.follow(again)
				feed.next("hello")
				c.heal()
				away.Store(false)
				us1.login("after")
				if name == "ahead" {
					feed.wantUsers("missed")
				}
				feed.wantUsers("during", "after")
				time.Sleep(20 * time.Second)
				eu1.login("cid")
				us1.login("dan")
				got := []string{feed.next().str("user_id"), feed.next().str("user_id")}
				if slices.Sort(got); fmt.Sprint(got) != "[cid dan]" {
					t.Errorf("came %v", got)
				}
				for feed.stale("us") != "" { // of before
				}
				feed.quiet()
			})
		})
	}
}

// Who demands what stands in a region that this node knows and cannot follow yet is told to
// ask another: the demand is none that there is not.
func TestConsistencyOfARegionAway(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		token := c.nodes["eu1"].login("ada").str("session_token")
		c.end("eu2")
		c.adjust = func(_ string, conf *node.Config) {
			conf.Open = func(context.Context, *events.Region) (events.Log, error) { return nil, errors.New("no route") }
		}
		c.start("eu3")
		time.Sleep(10 * time.Second)
		n := c.nodes["eu3"]
		ask := func(at string) *reply {
			return n.do(n.key, "POST", "/v1/sessions/authenticate", m{"session_token": token, "consistency": m{"at_least": at}})
		}
		ask("eu:0:1").want(http.StatusOK)
		ask("eu:0:1,mars:0:1").wantError(http.StatusBadRequest, "invalid_argument")
		ask("eu:0:1,us:0:1").wantError(http.StatusServiceUnavailable, "consistency_timeout")
	})
}

// A cursor of a log that is not there any more is gone, also when that is only found
// out once its region can be reached again.
func TestFeedOfARegionThatIsAnother(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		eu2 := c.nodes["eu2"]
		c.cut()
		time.Sleep(30 * time.Second)
		feed := eu2.follow("eu:0:1,us:0:4000")
		feed.next("hello")
		other := eu2.follow("eu:0:1,us:7:1")
		other.next("hello")
		c.heal()
		for _, f := range []*feedClient{feed, other} {
			if r := f.next("resync"); r.str("reason") != "gone" || r.id != "" {
				t.Errorf("resync %v", r)
			}
			f.ended()
		}
	})
}

func part(cursor, stream string) string {
	for p := range strings.SplitSeq(cursor, ",") {
		if strings.HasPrefix(p, stream) {
			return p
		}
	}
	return ""
}

// What a revocation answered is a cursor, also when it is yet to be delivered.
func TestFeedSincePending(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		eu1, us1 := c.nodes["eu1"], c.nodes["us1"]
		sid := us1.login("ada").str("session.session_id")
		time.Sleep(time.Second)
		c.cut()
		time.Sleep(20 * time.Second)
		r := eu1.revoke(m{"session_id": sid})
		wantPending(r, "us")
		eu1.login("ben")
		feed := eu1.feed(eu1.key, "since="+r.str("revision"))
		if feed.status != http.StatusOK {
			t.Fatalf("since=%s: %d %s", r.str("revision"), feed.status, feed.body)
		}
		feed.next("hello")
		feed.wantUsers("ben")
	})
}

// wantRecent fails unless the node lists that session, if it is named, and exactly these
// users, and says of log-outs in us when that knew, if and only if this is known.
func (n *continental) wantRecent(when, session string, known bool, users ...string) {
	n.t.Helper()
	r := n.do(n.key, "GET", "/v1/revocations", nil).want(200)
	got := []string{}
	tells := false
	for _, u := range r.at("users").([]any) {
		tells = tells || u.(m)["region"] == "us" && u.(m)["minted_until"] != nil
		if user, _ := u.(m)["user_id"].(string); !slices.Contains(got, user) {
			got = append(got, user)
		}
	}
	slices.Sort(got)
	if tells != known || !slices.Equal(got, users) || session != "" && !slices.Contains(r.at("sessions").([]any), any(session)) {
		n.t.Errorf("%s: want session %q, users %v (known %v): %s", when, session, users, known, r.Raw)
	}
}

// A revocation that the home of the session does not know of takes no JWT away there:
// those that are minted meanwhile live on behind its delivery. So it is listed for as
// long as it is pending, and from its delivery on for a JWT's life, also by nodes that
// begin then.
func TestRevocationsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := adjustedContinents(t, func(name string, conf *node.Config) {
			if name == "eu3" { // which knows of a region's revocations before it knows of the region
				var once sync.Once
				conf.Settings.(*events.MemoryLink).SetFaults(events.MemoryFaults{Deliver: func(context.Context, events.Entry) int {
					once.Do(func() { time.Sleep(time.Second) })
					return 1
				}})
			}
		})
		eu1, us1 := c.nodes["eu1"], c.nodes["us1"]
		sid := us1.login("ada").str("session.session_id")
		us1.login("ben")
		time.Sleep(time.Second)
		c.cut()
		time.Sleep(20 * time.Second)
		wantPending(eu1.revoke(m{"session_id": sid}), "us")
		wantPending(eu1.revoke(m{"user_id": "ben"}), "us")
		eu1.wantRecent("at once", sid, false, "ben")
		time.Sleep(20 * time.Minute)
		eu1.wantRecent("pending", sid, false, "ben")
		c.nodes["eu2"].wantRecent("pending, on another node", sid, false, "ben")
		time.Sleep(80 * time.Minute)
		eu1.wantRecent("pending for long", sid, false, "ben")
		c.end("eu2")
		c.start("eu3")
		c.nodes["eu3"].links["us"].Cut()
		time.Sleep(10 * time.Second)
		c.nodes["eu3"].wantRecent("pending, on a node that began since", sid, false, "ben")
		c.heal()
		time.Sleep(time.Minute)
		c.end("us1")
		c.start("us3")
		time.Sleep(5 * time.Second)
		for name, n := range c.nodes {
			n.wantRecent("delivered, on "+name, sid, true, "ben")
		}
		time.Sleep(10 * time.Minute)
		for name, n := range c.nodes {
			n.wantRecent("later, on "+name, "", false)
		}
	})
}

// One that was recorded elsewhere some minutes before it was delivered counts from then.
func TestRevocationsDelivered(t *testing.T) {
	continentsBubble(t, func(t *testing.T, c *continents) {
		eu1, us1 := c.nodes["eu1"], c.nodes["us1"]
		sid := us1.login("ada").str("session.session_id")
		time.Sleep(time.Second)
		c.cut()
		time.Sleep(20 * time.Second)
		wantPending(eu1.revoke(m{"session_id": sid}), "us")
		time.Sleep(20 * time.Minute)
		c.heal()
		time.Sleep(time.Minute)
		c.end("us1") // it reads us first, and eu after it
		c.start("us3")
		time.Sleep(5 * time.Second)
		for name, n := range c.nodes {
			n.wantRecent(name, sid, false)
		}
	})
}

// unread is a log that is followed, and cannot be read otherwise.
type unread struct{ *events.MemoryLink }

func (unread) Read(ctx context.Context, _ events.Range, _ func(events.Entry) bool) error {
	<-ctx.Done()
	return events.ErrUnavailable
}

// A region whose recent revocations cannot be read keeps nobody from those of another,
// although it was followed first.
func TestRevocationsOfAnotherRegion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		us := h.abroad()
		b, home := h.another(func(c *node.Config) {
			c.Open = func(context.Context, *events.Region) (events.Log, error) { return unread{us.log.Link()}, nil }
		})
		home.SetFaults(events.MemoryFaults{Deliver: func(context.Context, events.Entry) int { time.Sleep(500 * time.Millisecond); return 1 }})
		sid := h.login("ada").str("session.session_id")
		h.revokeIn(h.key, m{"session_id": sid})
		b.start()
		if r := b.recalled(h.key, "eu"); fmt.Sprint(r.at("sessions")) != "["+sid+"]" || strings.Contains(r.str("revision"), "us:") {
			t.Errorf("it knows %s", r.Raw)
		}
	})
}
