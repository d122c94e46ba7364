package nodetest

import (
	"context"
	"errors"
	"sync"

	"github.com/revocast/revocast/events"
)

// tail remembers of which kind the newest entries of a stream are.
type tail struct {
	mu    sync.Mutex // guards kinds
	kinds []bool     // by sequence - 1: what no caller was ever answered for
}

// watch follows the stream until ctx ends.
func (s *stream) watch(ctx context.Context) error {
	link := s.Link()
	for ctx.Err() == nil {
		err := link.Follow(ctx, events.Follow{Apply: func(e events.Entry) error {
			k := kindOf(e.Subject)
			own := k == events.KindBeat || k == events.KindMarker || k == events.KindNode || k == events.KindTouch || k == events.KindExpire
			s.tail.mu.Lock()
			defer s.tail.mu.Unlock()
			for uint64(len(s.tail.kinds)) < e.Seq {
				s.tail.kinds = append(s.tail.kinds, false)
			}
			s.tail.kinds = append(s.tail.kinds[:e.Seq-1], own)
			return nil
		}})
		if err != nil && !errors.Is(err, events.ErrRewound) {
			return err
		}
	}
	return nil
}

// truncate takes up to n entries off the end of the stream. Unless lossy it takes
// none that a caller may have been answered for. It returns the first sequence
// that is gone, 0 if none is, and whether it took more than it should.
func (s *stream) truncate(ctx context.Context, n int, lossy bool) (first uint64, lost bool) {
	s.tail.mu.Lock()
	defer s.tail.mu.Unlock()
	kinds := s.tail.kinds
	info, err := s.Info(ctx)
	if err != nil || info.LastSeq != uint64(len(kinds)) {
		return 0, false // some entry is on its way to the observer
	}
	most := 0
	for most < min(n, len(kinds)-1) && (lossy || kinds[len(kinds)-1-most]) {
		lost = lost || !kinds[len(kinds)-1-most]
		most++
	}
	if most == 0 {
		return 0, false
	}
	s.tail.kinds = kinds[:len(kinds)-most]
	s.Memory.Truncate(most)
	return uint64(len(s.tail.kinds)) + 1, lost
}

// leader is the leader of a stream, without which nothing is appended. What was
// appended before is delivered all the same.
type leader struct {
	mu      sync.Mutex    // guards what follows
	missing int           // by how many elections
	elected chan struct{} // closed when none is left
}

// resign lets the stream have no leader until as many elect as resign.
func (l *leader) resign() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.missing++; l.missing == 1 {
		l.elected = make(chan struct{})
	}
}

// elect ends one resign.
func (l *leader) elect() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.missing--; l.missing == 0 {
		close(l.elected)
	}
}

// await returns once there is a leader.
func (l *leader) await(ctx context.Context) error {
	l.mu.Lock()
	elected, missing := l.elected, l.missing > 0
	l.mu.Unlock()
	if !missing {
		return nil
	}
	select {
	case <-elected:
		return nil
	case <-ctx.Done():
		return events.ErrUnavailable
	}
}
