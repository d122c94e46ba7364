package events

import (
	"context"
	"slices"
	"strings"
)

// MemoryLink is one node's connection to a Memory: a Log and an Archive whose
// link can be cut, broken and made faulty apart from all others.
type MemoryLink struct {
	m *Memory

	// Guarded by m.mu.
	life   int  // of the stream when the link was made
	cut    bool // nothing passes
	breaks uint64
	faults MemoryFaults
}

// MemoryFaults are called on each operation of a link, from the goroutine of
// that operation and without a lock, so that they may block (a delay), call the
// Memory, and cut links. One that blocks should return when ctx ends. Nil ones
// do nothing.
type MemoryFaults struct {
	// Send is called before a message reaches the stream. Its error is what
	// Append returns, and nothing was stored. One that calls Inject with the
	// message makes it a duplicate, as a retry after a lost answer does.
	Send func(ctx context.Context, m Message) error
	// Ack is called once the message was stored. Its error is what Append
	// returns although it was; ErrUnavailable is the honest one.
	Ack func(ctx context.Context, m Message, seq uint64) error
	// Deliver says how often an entry that is due is given to Follow.Apply.
	// Any number but 1 breaks the contract of Log: 0 is a log that loses what
	// it acknowledged, 2 one that repeats itself.
	Deliver func(ctx context.Context, e Entry) int
	// Gather lets entries that were delivered wait for those that Deliver holds
	// back, as a slow connection does: Follow.Flush is not called before Deliver.
	Gather bool
	// Forgets breaks the contract of Log too: after a break, Follow goes on behind
	// what it delivered without a look at whether the stream still holds that.
	Forgets bool
	// Info changes what the stream says of itself; returning an older Info is
	// a deposed leader.
	Info func(Info) Info
}

// SetFaults replaces the faults of the link.
func (l *MemoryLink) SetFaults(f MemoryFaults) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.faults = f
}

// Cut lets nothing pass until Heal: followers receive nothing, and all else
// waits until its ctx ends.
func (l *MemoryLink) Cut() {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.cut = true
	l.breaks++
}

// Heal ends Cut. Followers begin again at their anchors.
func (l *MemoryLink) Heal() {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.cut = false
	l.m.wake()
}

// Break breaks the subscriptions of the link for a moment: followers begin
// again at their anchors.
func (l *MemoryLink) Break() {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.breaks++
	l.m.wake()
}

// Region implements [Log].
func (l *MemoryLink) Region() string { return l.m.region }

// Number implements [Log].
func (l *MemoryLink) Number() uint8 { return l.m.number }

// Append implements [Log].
func (l *MemoryLink) Append(ctx context.Context, msg Message, e Expectation) (uint64, error) {
	f := l.current()
	if f.Send != nil {
		if err := f.Send(ctx, msg); err != nil {
			return 0, err
		}
	}
	var seq uint64
	err := l.reach(ctx, func() (err error) {
		seq, err = l.m.store(msg, e)
		return err
	})
	if err != nil {
		return 0, err
	}
	if f.Ack != nil {
		if err := f.Ack(ctx, msg, seq); err != nil {
			return 0, err
		}
	}
	return seq, nil
}

// Last implements [Log].
func (l *MemoryLink) Last(ctx context.Context, subject string) (e Entry, err error) {
	err = l.reach(ctx, func() error {
		seq := l.m.subjects[subject]
		if seq == 0 {
			return ErrNotFound
		}
		e = l.m.slots[seq-1].entry.clone()
		return nil
	})
	return e, err
}

// Read implements [Log].
func (l *MemoryLink) Read(ctx context.Context, r Range, fn func(Entry) bool) error {
	for next := r.From; next <= r.To; {
		var e *Entry
		err := l.reach(ctx, func() error {
			if e = l.m.from(next); e != nil {
				e = new(e.clone())
			}
			return nil
		})
		if err != nil {
			return err
		}
		if e == nil || e.Seq > r.To {
			return nil
		}
		next = e.Seq + 1
		match := func(filter string) bool { return matchSubject(filter, e.Subject) }
		if !e.Time.Before(r.Since) && slices.ContainsFunc(r.Filters, match) && !fn(*e) {
			return nil
		}
	}
	return nil
}

// Info implements [Log].
func (l *MemoryLink) Info(ctx context.Context) (i Info, err error) {
	err = l.reach(ctx, func() error {
		i = Info{FirstSeq: l.m.firstSeq(), LastSeq: l.m.last(), Bytes: l.m.bytes, MaxBytes: l.m.maxBytes}
		return nil
	})
	if f := l.current(); err == nil && f.Info != nil {
		i = f.Info(i)
	}
	return i, err
}

// History implements [Archive].
func (l *MemoryLink) History(ctx context.Context, filters []string, fn func(Archived) bool) error {
	var all []Archived
	err := l.reach(ctx, func() error {
		all = l.m.archive
		return nil
	})
	if err != nil {
		return err
	}
	for _, a := range all {
		match := func(filter string) bool { return matchSubject(filter, a.Subject) }
		if !slices.ContainsFunc(filters, match) {
			continue
		}
		if ctx.Err() != nil {
			return unavailable(ctx)
		}
		if !fn(Archived{Entry: a.Entry.clone(), Origin: a.Origin}) {
			return nil
		}
	}
	return nil
}

// matchSubject reports whether a subject matches a filter with NATS wildcards.
func matchSubject(filter, subject string) bool {
	for {
		f, frest, fmore := strings.Cut(filter, ".")
		s, srest, smore := strings.Cut(subject, ".")
		switch {
		case f == ">":
			return true
		case f != "*" && f != s, fmore != smore:
			return false
		case !fmore:
			return true
		}
		filter, subject = frest, srest
	}
}

func (l *MemoryLink) current() MemoryFaults {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return l.faults
}

// reach runs f with the lock held and what is due expired, once the link is up.
func (l *MemoryLink) reach(ctx context.Context, f func() error) error {
	for ctx.Err() == nil {
		done, changed, err := l.try(f)
		if done {
			return err
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	return unavailable(ctx)
}

func (l *MemoryLink) try(f func() error) (done bool, changed <-chan struct{}, err error) {
	m := l.m
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case l.cut:
		return false, m.changed, nil
	case l.life != m.life:
		return true, nil, ErrIdentity
	}
	m.expire(m.clock.Wall())
	return true, nil, f()
}
