package events

import (
	"cmp"
	"context"
	"slices"
)

// Follow implements [Log].
func (l *MemoryLink) Follow(ctx context.Context, f Follow) error {
	c := memoryFollower{link: l, f: f, next: max(f.From, 1)}
	c.applied = c.next - 1
	for ctx.Err() == nil {
		e, changed, err := c.step()
		if e == nil || c.waits() {
			if err := c.flush(); err != nil {
				return err
			}
		}
		switch {
		case err != nil:
			return err
		case c.again:
			c.again = false
			if f.Resumed != nil {
				f.Resumed()
			}
		case c.due:
			c.due, c.caught = false, true
			if f.CaughtUp != nil {
				f.CaughtUp()
			}
		case e != nil:
			if err := c.deliver(ctx, e); err != nil {
				return err
			}
		case changed != nil:
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
	}
	return c.flush()
}

func (c *memoryFollower) flush() error {
	if c.f.Flush == nil {
		return nil
	}
	return c.f.Flush()
}

// waits reports whether delivering may wait.
func (c *memoryFollower) waits() bool {
	f := c.link.current()
	return f.Deliver != nil && !f.Gather
}

// memoryFollower is the state of one Follow, owned by its goroutine.
type memoryFollower struct {
	link *MemoryLink
	f    Follow

	resumed bool   // the first subscription was made
	again   bool   // Resumed is to be called now
	breaks  uint64 // of the link when the subscription was made
	target  uint64 // the last sequence when following began
	caught  bool   // CaughtUp was called
	due     bool   // CaughtUp is to be called now
	next    uint64 // where the subscription stands
	applied uint64
	// overlap is what was applied from the oldest anchor on, it first; before
	// there is an anchor, only the newest entry.
	overlap []*Entry
	anchors anchors
}

// step returns the next entry to apply, or what to wait for. With neither, it
// made progress: an entry of the overlap was delivered again, or Resumed or
// CaughtUp is due.
func (c *memoryFollower) step() (*Entry, <-chan struct{}, error) {
	l, m := c.link, c.link.m
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case l.cut:
		return nil, m.changed, nil
	case l.life != m.life:
		return nil, nil, ErrIdentity
	}
	m.expire(m.clock.Wall())
	if !c.resumed {
		c.resumed, c.breaks, c.target, c.again = true, l.breaks, m.last(), true
		return nil, nil, nil
	}
	if c.breaks != l.breaks {
		c.breaks, c.again = l.breaks, true
		if l.faults.Forgets {
			c.next = c.applied + 1
			return nil, nil, nil
		}
		return nil, nil, c.rewind()
	}
	e := m.from(c.next)
	if !c.caught && (e == nil || e.Seq > c.target) {
		c.due = true
		return nil, nil, nil
	}
	if e == nil {
		return nil, m.changed, nil
	}
	if e.Seq > c.applied {
		return e, nil, nil
	}
	// A sequence that was absent when it was passed cannot have come back.
	if c.passed(e.Seq) != e {
		return nil, nil, ErrRewound
	}
	c.next = e.Seq + 1
	return nil, nil, nil
}

// rewind sets where the subscription begins again: at the newest anchor that the
// stream still holds. m.mu is held.
func (c *memoryFollower) rewind() error {
	m := c.link.m
	if len(c.overlap) == 0 {
		return nil
	}
	// What was appended after the log went backwards may stand below the anchor:
	// nothing there can be what was applied.
	c.next = min(c.overlap[0].Seq, m.last()+1)
	if len(c.anchors) == 0 {
		return nil
	}
	for _, a := range slices.Backward(c.anchors) {
		if e := m.from(a.seq); e != nil && e.Seq == a.seq {
			c.next = a.seq
			return nil
		}
	}
	if m.last() < c.applied {
		return nil // not proven by what a leader says: see JetStream.Follow
	}
	return ErrRewound
}

// passed returns the entry of the overlap with the sequence, or nil.
func (c *memoryFollower) passed(seq uint64) *Entry {
	i, ok := c.index(seq)
	if !ok {
		return nil
	}
	return c.overlap[i]
}

func (c *memoryFollower) index(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(c.overlap, seq, func(o *Entry, seq uint64) int { return cmp.Compare(o.Seq, seq) })
}

// deliver gives the entry to Apply, unless the subscription broke meanwhile.
func (c *memoryFollower) deliver(ctx context.Context, e *Entry) error {
	times := 1
	if f := c.link.current(); f.Deliver != nil {
		times = f.Deliver(ctx, e.clone())
		if ctx.Err() != nil || c.broken() {
			return nil
		}
	}
	for range times {
		if err := c.f.Apply(e.clone()); err != nil {
			return err
		}
	}
	c.next, c.applied = e.Seq+1, e.Seq
	switch {
	case c.f.Anchor != nil && c.f.Anchor(*e):
		c.anchors, c.overlap = c.anchors.with(*anchorAt(e)), append(c.overlap, e)
		first, _ := c.index(c.anchors[0].seq)
		c.overlap = slices.Delete(c.overlap, 0, first)
	case len(c.anchors) > 0:
		c.overlap = append(c.overlap, e)
	default:
		c.overlap = append(c.overlap[:0], e)
	}
	return nil
}

func (c *memoryFollower) broken() bool {
	c.link.m.mu.Lock()
	defer c.link.m.mu.Unlock()
	return c.breaks != c.link.breaks
}
