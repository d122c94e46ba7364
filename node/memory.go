package node

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/node/api"
)

const (
	// memoryFull is the percentage of the memory limit, taken by what no collection
	// of garbage gives back, from which on creates are refused; they go on below
	// memoryAgain. What lies above is for what others create, for garbage, and for
	// what the process has beside its heap.
	memoryFull  = 85
	memoryAgain = 80
	// memoryEvery is the time between two looks: between them many clients may
	// create sessions of 8 KiB each.
	memoryEvery = 100 * time.Millisecond
)

// memory is what was seen of the process's memory at last.
type memory struct {
	used, limit atomic.Uint64
	full        atomic.Bool // creates are refused
	warned      time.Time   // when that was last logged; whoever looks owns it
}

// watchMemory looks how much memory there is left until ctx ends. Only creates
// can be refused: what other nodes created has to be applied, or this one knows
// less than it says.
func (n *Node) watchMemory(ctx context.Context) error {
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	for n.conf.Memory != nil {
		select {
		case <-tick.C:
			n.lookAtMemory()
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// lookAtMemory is called by Run before any stream is followed, and then by
// watchMemory alone.
func (n *Node) lookAtMemory() {
	if n.conf.Memory == nil {
		return
	}
	m := &n.memory
	used, limit := n.conf.Memory()
	m.used.Store(used)
	m.limit.Store(limit)
	was := m.full.Load()
	full := limit > 0 && (used >= share(limit, memoryFull) || was && used >= share(limit, memoryAgain))
	m.full.Store(full)
	now := n.conf.Clock.Wall()
	switch {
	case full && (!was || now.Sub(m.warned) >= warnEvery):
		m.warned = now
		n.conf.Log.Error("memory is full: sessions are not created, all else goes on; give the node more memory, or end sessions",
			"used_bytes", used, "limit_bytes", limit)
	case was && !full:
		n.conf.Log.Info("there is memory again: sessions are created", "used_bytes", used, "limit_bytes", limit)
	}
}

// share returns so many percent of the bytes.
func share(bytes, percent uint64) uint64 { return bytes / 100 * percent }

// memoryLeft returns the failure of a create while there is no memory for it.
func (n *Node) memoryLeft() error {
	if n.memory.full.Load() {
		return fail(api.MemoryFull, "the node's memory is above %d %% of its limit; sessions go on, new ones must wait or be made on another node", memoryFull)
	}
	return nil
}

// memoryState returns what the node says of its memory, nil without a limit.
func (n *Node) memoryState() *api.MemoryState {
	limit := n.memory.limit.Load()
	if limit == 0 {
		return nil
	}
	return &api.MemoryState{UsedBytes: n.memory.used.Load(), LimitBytes: limit, Full: n.memory.full.Load()}
}
