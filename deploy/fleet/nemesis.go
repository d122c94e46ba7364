package fleet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Nemesis harms a fleet of one region at random, and repairs what it harmed.
type Nemesis struct {
	Fleet *Fleet
	// Dice decide what is harmed, when and for how long.
	Dice *rand.Rand
	// Log is told of each harm.
	Log func(format string, args ...any)

	harms sync.WaitGroup
	mu    sync.Mutex // guards what follows
	busy  map[any]bool
	err   error
}

// harm is a kind of fault with its share of all. It returns once it is over,
// soon after ctx ended.
type harm struct {
	name  string
	share int
	node  func(n *Nemesis, ctx context.Context, m *Node, d time.Duration) error   // one of the two
	log   func(n *Nemesis, ctx context.Context, b *Broker, d time.Duration) error // is set
}

var harms = []harm{
	{"kill -9", 3, (*Nemesis).killNode, nil},
	{"restart", 2, (*Nemesis).restartNode, nil},
	{"stop", 3, (*Nemesis).stopNode, nil},
	{"hold what it sends", 1, func(_ *Nemesis, ctx context.Context, m *Node, d time.Duration) error {
		return trouble(ctx, m, d, Trouble{Hold: true}, Trouble{})
	}, nil},
	{"hold what it hears", 1, func(_ *Nemesis, ctx context.Context, m *Node, d time.Duration) error {
		return trouble(ctx, m, d, Trouble{}, Trouble{Hold: true})
	}, nil},
	{"hold both ways", 1, func(_ *Nemesis, ctx context.Context, m *Node, d time.Duration) error {
		return trouble(ctx, m, d, Trouble{Hold: true}, Trouble{Hold: true})
	}, nil},
	{"late and slow links", 2, func(_ *Nemesis, ctx context.Context, m *Node, d time.Duration) error {
		late := Trouble{Delay: 50 * time.Millisecond, Jitter: 300 * time.Millisecond, Rate: 128 << 10}
		return trouble(ctx, m, d, late, late)
	}, nil},
	{"refuse connections", 1, (*Nemesis).refuse, nil},
	{"kill -9 of a server", 2, nil, (*Nemesis).killBroker},
	{"stop of a server", 1, nil, (*Nemesis).stopBroker},
}

// Run harms until ctx ends, and returns when everything is whole again.
func (n *Nemesis) Run(ctx context.Context) error {
	n.busy = map[any]bool{}
	total := 0
	for _, h := range harms {
		total += h.share
	}
	for pause(ctx, 500*time.Millisecond+time.Duration(n.Dice.Int64N(int64(4*time.Second)))) == nil {
		// Shorter and longer than a lease, and just about one.
		length := time.Duration(n.Dice.Int64N(int64(Lease/2))) + 100*time.Millisecond
		switch n.Dice.IntN(3) {
		case 0:
			length = Lease - Lease/8 + time.Duration(n.Dice.Int64N(int64(Lease/4)))
		case 1:
			length = time.Duration(n.Dice.Int64N(int64(2 * Lease)))
		}
		at, node, broker := n.Dice.IntN(total), n.Dice.IntN(len(n.Fleet.Nodes)), n.Dice.IntN(len(n.Fleet.Brokers))
		for _, h := range harms {
			if at -= h.share; at < 0 {
				n.begin(ctx, h, n.Fleet.Nodes[node], n.Fleet.Brokers[broker], length)
				break
			}
		}
	}
	n.harms.Wait()
	n.Fleet.Heal()
	return n.err
}

// begin does the harm beside others, unless its victim is being harmed. Of the
// servers one is harmed at a time: without two of three there is nothing to see.
func (n *Nemesis) begin(ctx context.Context, h harm, m *Node, b *Broker, d time.Duration) {
	var victim any = m
	name := m.Name
	if h.log != nil {
		victim, name = "servers", b.Name
	}
	n.mu.Lock()
	taken := n.busy[victim]
	n.busy[victim] = true
	n.mu.Unlock()
	if taken {
		return
	}
	n.Log("%s: %s, %v", name, h.name, d.Round(time.Millisecond))
	n.harms.Go(func() {
		var err error
		if h.log != nil {
			err = h.log(n, ctx, b, d)
		} else {
			err = h.node(n, ctx, m, d)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.busy[victim] = false
		if err != nil && n.err == nil {
			n.err = fmt.Errorf("%s: %s: %w", name, h.name, err)
		}
	})
}

// readyIn is how long a node that is started may take: another one's harm may be
// in its way.
const readyIn = 2 * time.Minute

func ready(m *Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), readyIn)
	defer cancel()
	return m.Ready(ctx)
}

func (n *Nemesis) killNode(ctx context.Context, m *Node, d time.Duration) error {
	m.Kill()
	_ = pause(ctx, d/4) // ended early, it is repaired early
	if err := m.Start(); err != nil {
		return err
	}
	return ready(m)
}

func (n *Nemesis) restartNode(_ context.Context, m *Node, _ time.Duration) error {
	if err := m.End(); err != nil {
		return err
	}
	if err := m.Start(); err != nil {
		return err
	}
	return ready(m)
}

func (n *Nemesis) stopNode(ctx context.Context, m *Node, d time.Duration) error {
	if err := m.Process().Stop(); err != nil {
		return err
	}
	_ = pause(ctx, d)
	return m.Process().Resume()
}

func trouble(ctx context.Context, m *Node, d time.Duration, forth, back Trouble) error {
	m.EachLink(Forth, forth)
	m.EachLink(Back, back)
	_ = pause(ctx, d)
	m.EachLink(Forth, Trouble{})
	m.EachLink(Back, Trouble{})
	return nil
}

func (n *Nemesis) refuse(ctx context.Context, m *Node, d time.Duration) error {
	m.Refuse(true)
	_ = pause(ctx, d)
	m.Refuse(false)
	return nil
}

func (n *Nemesis) killBroker(ctx context.Context, b *Broker, d time.Duration) error {
	b.Kill()
	_ = pause(ctx, d/4)
	if err := b.Start(); err != nil {
		return err
	}
	// The next one is harmed when this one has all it missed.
	all, cancel := context.WithTimeout(context.Background(), readyIn)
	defer cancel()
	_, err := n.Fleet.Steady(all, "EV_"+b.Region)
	return err
}

func (n *Nemesis) stopBroker(ctx context.Context, b *Broker, d time.Duration) error {
	if err := b.Process().Stop(); err != nil {
		return err
	}
	_ = pause(ctx, d)
	if err := b.Process().Resume(); err != nil {
		return err
	}
	all, cancel := context.WithTimeout(context.Background(), readyIn)
	defer cancel()
	_, err := n.Fleet.Steady(all, "EV_"+b.Region)
	return err
}
