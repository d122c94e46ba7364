package node

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/revocast/revocast/events"
)

// Whoever comes first, who remembers that a key is not there or who applies it:
// in the end no key is both there and remembered as missing.
func TestMissingHammer(t *testing.T) {
	seed := rand.Uint64()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	const keys, askers, rounds = 64, 4, 200
	for round := range rounds {
		var n negative
		var there sync.Map // stands for the projection
		key := func(i int) events.SID { return events.SID{2, byte(i), byte(round)} }
		var all sync.WaitGroup
		for a := range askers {
			rnd := rand.New(rand.NewPCG(seed, uint64(round*askers+a)))
			all.Go(func() {
				for range 2 * keys {
					k := key(rnd.IntN(keys))
					if _, ok := there.Load(k); ok || n.holds(k) {
						continue
					}
					n.add(k)
					if _, ok := there.Load(k); ok {
						n.remove(k)
					}
				}
			})
		}
		all.Go(func() {
			for i := range keys / 2 {
				k, alias := key(2*i), key(2*i+1)
				there.Store(k, true)
				there.Store(alias, true)
				n.heard(events.Record{Event: &events.State{SID: k, Aliases: []events.Alias{{Key: alias}}}})
			}
		})
		all.Wait()
		for i := range keys {
			if n.holds(key(i)) {
				t.Fatalf("round %d: key %d is there and remembered as missing", round, i)
			}
		}
	}
}

// What is remembered is bounded, and forgotten when the stream is read again.
func TestMissingIsBoundedAndForgotten(t *testing.T) {
	var n negative
	if n.holds(events.SID{2}) {
		t.Error("an empty one holds a key")
	}
	for i := range 3 * negativeShards * negativeShard {
		n.add(events.SID{2, byte(i), byte(i >> 8), byte(i >> 16)})
	}
	held := 0
	for _, c := range n.shards {
		held += c.Len()
	}
	if held != negativeShards*negativeShard {
		t.Errorf("%d keys are held", held)
	}
	last := 3*negativeShards*negativeShard - 1
	newest := events.SID{2, byte(last), byte(last >> 8), byte(last >> 16)}
	for _, forget := range []func(){
		n.empty,
		func() { n.heard(events.Record{Event: &events.State{SID: newest}}) },
		func() { n.heard(events.Record{Event: &events.State{Aliases: []events.Alias{{Key: newest}}}}) },
	} {
		n.add(newest)
		n.heard(events.Record{Event: &events.Revoke{SID: newest}})
		n.heard(events.Record{})
		if !n.holds(newest) {
			t.Error("a key is forgotten for nothing")
		}
		if forget(); n.holds(newest) {
			t.Error("a key stays")
		}
	}
}
