package node_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/revocast/revocast/node"
)

// Whatever nodes, receivers and settings do, an endpoint is told of each revocation
// that was acknowledged, for the first time in the order of the log.
func TestDeliveryInAnyWeather(t *testing.T) {
	for range 2 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			hookedFleet(t, 3, func(t *testing.T, f *fleet, r *receiver) { anyWeather(t, f, r, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func anyWeather(t *testing.T, f *fleet, r *receiver, chance *rand.Rand) {
	id, _ := f.webhook(revoked)
	path := "/v1/webhooks/" + id
	time.Sleep(2 * time.Second)
	cut := map[*fleetNode]bool{}
	var want []string
	any := func() *fleetNode {
		for {
			if n := f.nodes[chance.IntN(len(f.nodes))]; !cut[n] {
				return n
			}
		}
	}
	patch := func(body m) { any().do(f.key, "PATCH", path, body) }
	for step := range 120 {
		switch chance.IntN(16) {
		default:
			n := any()
			c := n.do(f.key, "POST", "/v1/sessions", m{"user_id": fmt.Sprint("u", step)})
			if c.Status != http.StatusCreated {
				break
			}
			if got := n.do(f.key, "DELETE", "/v1/sessions/"+c.str("session.session_id"), nil); got.Status == http.StatusOK {
				want = append(want, got.str("revision"))
			}
		case 0:
			if n := any(); len(cut) < len(f.nodes)-1 {
				cut[n] = true
				if chance.IntN(2) == 0 {
					n.link.Cut()
				}
				n.config.Cut()
			}
		case 1, 2:
			for n := range cut {
				n.link.Heal()
				n.config.Heal()
				delete(cut, n)
				break
			}
		case 3:
			status := []int{500, 0, -1, 302, 429, 204}[chance.IntN(6)]
			r.set(func() { r.answer = func(received) int { return status } })
		case 4, 5:
			r.set(func() { r.answer = nil })
		case 6:
			patch(m{"enabled": chance.IntN(3) > 0})
		case 7:
			patch(m{"description": fmt.Sprint(step), "url": fmt.Sprintf("https://h%d.example.com/", chance.IntN(3))})
		case 8:
			if len(want) > 0 {
				any().do(f.key, "POST", path+"/replay", m{"from": want[chance.IntN(len(want))]})
			}
		case 9:
			any().do(f.key, "POST", path+"/rotate-secret", m{"overlap_seconds": chance.IntN(100)})
		case 10:
			if n := f.nodes[chance.IntN(len(f.nodes))]; len(f.nodes) > 2 && n != f.nodes[0] && chance.IntN(2) == 0 {
				n.stop()
				n.link.Heal()
				n.config.Heal()
				delete(cut, n)
				f.nodes = slices.DeleteFunc(f.nodes, func(o *fleetNode) bool { return o == n })
				name := fmt.Sprint("m", step)
				f.join(name, func(c *node.Config) { c.Outbound = via{r, name} })
			}
		}
		time.Sleep(time.Duration(chance.IntN(3000)) * time.Millisecond)
	}
	for n := range cut {
		n.link.Heal()
		n.config.Heal()
	}
	r.set(func() { r.answer = nil })
	time.Sleep(2 * fullWait)
	f.nodes[0].do(f.key, "PATCH", path, m{"enabled": true}).want(http.StatusOK)
	time.Sleep(20 * time.Minute)
	slices.SortFunc(want, func(a, b string) int { return int(seqOf(t, a)) - int(seqOf(t, b)) })
	var once []string
	for _, g := range r.taken() {
		if slices.Contains(want, g.revision) && !slices.Contains(once, g.revision) {
			once = append(once, g.revision)
		}
	}
	if !slices.Equal(once, want) {
		t.Errorf("took %v, want %v", once, want)
	}
}
