package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// Values of Config.Private.
const (
	PrivateMemory = "memory" // of all sessions
	PrivateHome   = "home"   // of the sessions of the node's own region
	PrivateLog    = "log"    // of none
)

const (
	// fetchers is how many private parts are read from one stream at a time.
	fetchers = 64
	// seekers is how many are looked for in the history at a time: each takes a
	// consumer of it.
	seekers = 16
	// fetchPause is the time between two looks for a private part that is neither
	// here nor where the fold says that it stands.
	fetchPause = 100 * time.Millisecond
	// jwtPatience is how long a verify that wants a JWT waits for the private part.
	jwtPatience = 500 * time.Millisecond
)

// keeps reports whether this node keeps the private parts of the sessions that
// live in the stream of the number.
func (n *Node) keeps(number uint8) bool {
	return n.conf.Private == PrivateMemory || n.conf.Private == PrivateHome && number == n.conf.Home.Number()
}

// private opens the private part of the session. One that is not held here is
// read from the session's home, and then f is what is known of the session after
// that: maybe a newer state. One that was good and no longer is, is an error.
func (n *Node) private(ctx context.Context, f *found) (*events.Private, error) {
	if f.plain == nil {
		plain, err := n.plain(ctx, &f.answer)
		if err != nil {
			return nil, err
		}
		f.plain = plain
	}
	p := new(events.Private)
	if len(f.plain) == 0 {
		return p, nil
	}
	if err := json.Unmarshal(f.plain, p); err != nil {
		return nil, fmt.Errorf("session %s: private part: %w", f.SID, err)
	}
	return p, nil
}

// plain is private without the reading of it.
func (n *Node) plain(ctx context.Context, a *answer) ([]byte, error) {
	if a.Sealed.Empty() && a.Sealed.Nonce() != nil {
		s, err := n.homeOf(a.SID)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, appendTimeout)
		defer cancel()
		return s.fetch(ctx, a)
	}
	plain, err := n.conf.Keys.OpenVerified(a.Sealed)
	if err != nil {
		return nil, fmt.Errorf("session %s: %w", a.SID, err)
	}
	return plain, nil
}

// fetch reads the private part of the session from the stream, and a again when
// it has it: the answer is no older than the look-up after the reading.
//
// Only the very message that the fold holds will do. Another one is a newer
// state, which readers are about to see, or an overwrite, and then the private
// part is in the archive or with the nodes that will repair it.
func (s *stream) fetch(ctx context.Context, a *answer) ([]byte, error) {
	var sought error // once the archive was searched
	gone := func() error {
		return fail(api.LogUnavailable, "the log does not hold the private part of the session: it was overwritten and is not yet repaired; ask again").because(sought)
	}
	for {
		sealed, err := s.stands(ctx, a)
		switch {
		case err != nil && sought != nil && ctx.Err() != nil:
			return nil, gone()
		case err != nil:
			return nil, err
		}
		was := a.Sealed
		if err := s.node.again(a); err != nil {
			return nil, err
		}
		if !a.Sealed.SameMessage(was) {
			continue
		}
		if sealed == nil && sought == nil {
			sealed, sought = s.seek(ctx, s.stateSubject(a), was)
			if err := s.node.again(a); err != nil {
				return nil, err
			}
		}
		if sealed != nil && a.Sealed.SameMessage(was) {
			plain, err := s.node.conf.Keys.OpenVerified(sealed)
			if err != nil {
				return nil, fmt.Errorf("session %s: %w", a.SID, err)
			}
			return plain, nil
		}
		if !pause(ctx, fetchPause) {
			return nil, gone()
		}
	}
}

// stands returns the private part in the newest message on the session's subject,
// nil when that is not the one that the fold holds; then readers see it.
func (s *stream) stands(ctx context.Context, a *answer) (events.Sealed, error) {
	e, err := s.last(ctx, s.stateSubject(a))
	switch {
	case errors.Is(err, events.ErrNotFound) && a.verdict != projection.Active:
		// It has left the log together with its session.
		return nil, notFound(a.verdict)
	case errors.Is(err, events.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, s.unreachable(err)
	}
	r := s.node.conf.Keys.Decode(s.number, e)
	if r.Event != nil && r.Sealed.SameMessage(a.Sealed) {
		return r.Sealed, nil
	}
	if err := s.wait(ctx, e.Seq); err != nil {
		return nil, s.unreachable(err)
	}
	return nil, nil
}

func (s *stream) stateSubject(a *answer) string {
	return (&events.State{App: a.App, User: a.User, SID: a.SID}).Subject(s.region).String()
}

// unreachable is how it is answered that the home of a private part is out of reach.
func (s *stream) unreachable(err error) error {
	return fail(api.HomeUnreachable, "the private part of the session is in its home, stream %s, which cannot be reached now", s.region).because(err)
}

// last is Log.Last, for no more at a time than a stream bears.
func (s *stream) last(ctx context.Context, subject string) (events.Entry, error) {
	select {
	case s.fetching <- struct{}{}:
		defer func() { <-s.fetching }()
	case <-ctx.Done():
		return events.Entry{}, ctx.Err()
	}
	return s.log.Last(ctx, subject)
}

// again looks the session of the answer up once more. If it was good and no longer
// is, that is the answer.
func (n *Node) again(a *answer) error {
	now, err := n.bySID(a.SID)
	if err != nil {
		return err
	}
	if now.App != a.App || now.StateSeq == 0 || a.verdict == projection.Active && now.verdict != a.verdict {
		return notFound(now.verdict)
	}
	now.rotated = a.rotated
	*a = now
	return nil
}

// seek is archived, for no more at a time than a history bears.
func (s *stream) seek(ctx context.Context, subject string, head events.Sealed) (events.Sealed, error) {
	select {
	case s.seeking <- struct{}{}:
		defer func() { <-s.seeking }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.archived(ctx, subject, head)
}

// errNotHeld means that a private part is neither here nor in the archive.
var errNotHeld = errors.New("the private part is neither kept here nor in the archive")

// archived returns the private part with the head from the history of the region,
// or errNotHeld: also for other regions, whose history is not here.
func (s *stream) archived(ctx context.Context, subject string, head events.Sealed) (events.Sealed, error) {
	if s != s.node.home {
		return nil, errNotHeld
	}
	var found events.Sealed
	err := s.node.conf.Archive.History(ctx, []string{subject}, func(a events.Archived) bool {
		e := a.Entry
		e.Seq = a.Origin
		if r := s.node.conf.Keys.Decode(s.number, e); r.Event != nil && r.Sealed.SameMessage(head) {
			found = r.Sealed
		}
		return found == nil
	})
	switch {
	case found != nil:
		return found, nil
	case err != nil:
		return nil, err
	}
	return nil, errNotHeld
}
