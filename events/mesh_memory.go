package events

import (
	"context"
	"slices"
	"sync"
)

// MemoryMesh joins the nodes of one process for tests, by links that can be
// cut and delayed. Like core NATS it promises nothing.
type MemoryMesh struct {
	mu     sync.Mutex // guards what follows and the fields of every link
	links  []*MeshLink
	parted map[string]int // groups, and by how many Part
}

// MeshLink is one node's connection to a MemoryMesh: its Mesh.
type MeshLink struct {
	*sealedMesh
	net *MemoryMesh

	// Guarded by net.mu.
	cut     bool
	group   string
	deliver func(ctx context.Context, m Message) int
	filters []string // nil: does not run
	in      chan Message
}

// Link returns the connection of a further node with the keys.
func (n *MemoryMesh) Link(keys *ClusterKeys) *MeshLink {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &MeshLink{net: n}
	l.sealedMesh = newSealedMesh(keys, l)
	n.links = append(n.links, l)
	return l
}

// Inject publishes the message whatever it is, as anybody can who reaches the
// network.
func (n *MemoryMesh) Inject(m Message) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.spread(m, func(*MeshLink) bool { return true })
}

// spread hands the message to the links that it reaches. n.mu is held.
func (n *MemoryMesh) spread(m Message, reaches func(*MeshLink) bool) {
	for _, l := range n.links {
		if l.cut || !reaches(l) || !slices.ContainsFunc(l.filters, func(f string) bool { return matchSubject(f, m.Subject) }) {
			continue
		}
		select {
		case l.in <- m:
		default:
		}
	}
}

// Part lets nothing pass between the links of the group and all others, until as
// many Join as Part.
func (n *MemoryMesh) Part(group string) { n.part(group, 1) }

// Join ends one Part.
func (n *MemoryMesh) Join(group string) { n.part(group, -1) }

func (n *MemoryMesh) part(group string, by int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.parted == nil {
		n.parted = map[string]int{}
	}
	n.parted[group] += by
}

// SetGroup says where the node is, such as in which region.
func (l *MeshLink) SetGroup(group string) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.group = group
}

// Cut lets nothing pass in either direction until Heal.
func (l *MeshLink) Cut() { l.setCut(true) }

// Heal ends Cut.
func (l *MeshLink) Heal() { l.setCut(false) }

func (l *MeshLink) setCut(cut bool) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.cut = cut
}

// SetDeliver sets what is called, one message at a time and without a lock,
// before a message reaches this node: it says how often the node gets it, and
// may block (a delay) until ctx ends. Nil: once, at once.
func (l *MeshLink) SetDeliver(deliver func(ctx context.Context, m Message) int) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.deliver = deliver
}

func (l *MeshLink) publish(m Message) error {
	n := l.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.cut {
		return nil
	}
	n.spread(m, func(other *MeshLink) bool {
		return l.group == other.group || n.parted[l.group] == 0 && n.parted[other.group] == 0
	})
	return nil
}

func (l *MeshLink) receive(ctx context.Context, filters []string, fn func(Message)) error {
	in := make(chan Message, meshBuffer)
	l.attach(filters, in)
	defer l.attach(nil, nil)
	for {
		select {
		case m := <-in:
			times := 1
			if deliver := l.faults(); deliver != nil {
				times = deliver(ctx, m)
			}
			for range times {
				fn(m)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *MeshLink) attach(filters []string, in chan Message) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.filters, l.in = filters, in
}

func (l *MeshLink) faults() func(context.Context, Message) int {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	return l.deliver
}
