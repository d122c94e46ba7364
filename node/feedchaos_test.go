package node_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
)

var feedSeed = flag.Uint64("feed-seed", 0, "the seed of TestFeedAnywhere; 0: some")

// hopper is a careful client of feeds: it goes on behind its last id, on any node.
type hopper struct {
	t     *testing.T
	c     *continents
	feed  *feedClient
	on    string // the node of the feed
	id    string
	heard map[string]int             // by session
	last  map[string]events.Position // of each stream
}

// leave ends the feed, as a server that is shut down does.
func (h *hopper) leave() {
	h.drain()
	if h.feed != nil {
		h.feed.stop()
		h.drain()
	}
}

// hop goes on at the node, if that lets it. Of what nobody is to go on from it fails.
func (h *hopper) hop(name string) {
	h.leave()
	n := h.c.nodes[name]
	h.on, h.feed = name, n.feed(n.key, "types=session.revoked", "Last-Event-ID", h.id)
	switch h.feed.status {
	case http.StatusOK:
	case http.StatusServiceUnavailable:
		h.feed = nil
	default:
		h.t.Fatalf("behind %s: %d %s", h.id, h.feed.status, h.feed.body)
	}
}

// drain takes what has come.
func (h *hopper) drain() {
	synctest.Wait()
	for h.feed != nil {
		select {
		case f, ok := <-h.feed.frames:
			if !ok {
				h.feed = nil
				return
			}
			h.take(f)
		default:
			return
		}
	}
}

func (h *hopper) take(f frame) {
	switch f.name {
	case "resync":
		if f.str("reason") != "slow" {
			h.t.Fatalf("resync: %v", f.data)
		}
	case "session.revoked":
		at, err := events.ParsePosition(f.str("revision"))
		if err != nil {
			h.t.Fatal(err)
		}
		if was := h.last[at.Stream]; at.Seq <= was.Seq {
			h.t.Errorf("%s came behind %s", at, was)
		}
		h.last[at.Stream] = at
		h.heard[f.str("session_id")]++
	}
	if f.id != "" {
		h.id = f.id
	}
}

// Whatever is cut, and whichever nodes of a region end and begin, who goes on behind the
// last id on any of them hears of each revocation, in the order of each stream.
func TestFeedAnywhere(t *testing.T) {
	seed := *feedSeed
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	t.Logf("seed %d: -run TestFeedAnywhere -feed-seed %d", seed, seed)
	continentsBubble(t, func(t *testing.T, c *continents) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		h := &hopper{t: t, c: c, heard: map[string]int{}, last: map[string]events.Position{}}
		feed := c.nodes["eu1"].feed(c.nodes["eu1"].key, "")
		h.id = feed.next("hello").id
		feed.stop()
		var revoked []string
		cut := false
		europeans := func() (all []string) {
			for _, name := range []string{"eu1", "eu2"} {
				if c.nodes[name] != nil {
					all = append(all, name)
				}
			}
			return all
		}
		for range 60 {
			switch rnd.IntN(6) {
			case 0, 1:
				names := append(europeans(), "us1")
				n := c.nodes[names[rnd.IntN(len(names))]]
				sid := n.login("ada").str("session.session_id")
				if r := n.revoke(m{"session_id": sid}); r.Status == http.StatusOK {
					revoked = append(revoked, sid)
				}
			case 2:
				if cut = !cut; cut {
					c.cut()
				} else {
					c.heal()
				}
			case 3:
				names := europeans()
				name := names[rnd.IntN(len(names))]
				if len(names) == 2 {
					if h.on == name {
						h.leave()
					}
					c.end(name)
				} else if !cut { // a node that begins during a cut begins anew in us
					c.start(map[string]string{"eu1": "eu2", "eu2": "eu1"}[name])
				}
			default:
				names := europeans()
				h.hop(names[rnd.IntN(len(names))])
			}
			time.Sleep(time.Duration(rnd.IntN(6000)) * time.Millisecond)
			h.drain()
		}
		c.heal()
		time.Sleep(30 * time.Second)
		for range 30 {
			if h.feed == nil {
				h.hop(europeans()[0])
			}
			time.Sleep(2 * time.Second)
			h.drain()
		}
		var missed []string
		for _, sid := range revoked {
			if h.heard[sid] == 0 {
				missed = append(missed, fmt.Sprint(sid[:2], " ", sid))
			}
		}
		if len(missed) > 0 {
			t.Errorf("of %d revocations %d were missed: %s", len(revoked), len(missed), strings.Join(missed, ", "))
		}
	})
}
