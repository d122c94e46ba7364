package client

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/revocast/revocast/node/api"
)

// Status is how well the client follows the revocations.
type Status struct {
	// Node is the one whose feed is followed; empty: none is.
	Node string
	// Leases are for how much longer JWTs are judged here, by number of their
	// stream, which is byte 0 of a session's id. Ended ones are left out.
	Leases map[uint8]time.Duration
	// Revoked is how many revoked sessions are remembered.
	Revoked int
	// Err is why the feed was lost last; nil: it has not been.
	Err error
}

// Status returns how well the client follows the revocations now.
func (c *Client) Status() Status {
	if c.prepare() != nil {
		return Status{Err: c.err}
	}
	s := c.state.status()
	s.Leases, s.Revoked = c.book.status()
	return s
}

// followState is what Run shows of itself.
type followState struct {
	mu    sync.Mutex // guards all
	node  string
	err   error
	first chan struct{} // closed once a lease is held; made when it is first asked for
	done  bool
}

func (s *followState) ready() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readyLocked()
}

func (s *followState) readyLocked() chan struct{} {
	if s.first == nil {
		s.first = make(chan struct{})
	}
	return s.first
}

// proved notes that the lease of a region's stream was renewed.
func (s *followState) proved() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.done {
		s.done = true
		close(s.readyLocked())
	}
}

func (s *followState) found(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node = node
}

func (s *followState) lost(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node, s.err = "", err
}

func (s *followState) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{Node: s.node, Err: s.err}
}

func (b *book) status() (leases map[uint8]time.Duration, revoked int) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	leases = map[uint8]time.Duration{}
	now := b.clock.Boot()
	for i, ends := range b.leases {
		if ends > now {
			leases[uint8(i)] = ends - now
		}
	}
	return leases, len(b.revoked)
}

var errUnreadable = errors.New("it names no session, user, app or key that can be read")

// apply takes away what the event does, all of it or, with an error, nothing.
func (b *book) apply(kind string, e *api.Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch kind {
	case api.EventRevoked:
		id, ok := parseSID(e.SessionID)
		if !ok {
			return errUnreadable
		}
		b.revokeLocked(id)
	case api.EventUserRevoked, api.EventAppRevoked:
		at := e.At
		if e.RevokedAt != nil {
			at = *e.RevokedAt
		}
		w := api.Watermark{Stream: e.Stream, UserHash: e.UserHash, UserID: e.UserID, RevokedAt: at, Except: e.Except}
		if e.Reason == "unverified" {
			w.Except = nil // whoever wrote it has no say in who is spared
		}
		known := max(e.At.UnixMilli(), at.UnixMilli()) + (clockMargin + nodeLease).Milliseconds()
		if !strings.HasPrefix(e.Revision, e.Region+":") {
			known = unknown
		}
		return b.mark(&w, kind == api.EventAppRevoked, e.Revision, known)
	case api.EventAppSuspended, api.EventAppDeleted:
		b.shut, b.shutAt = true, e.Revision
	case api.EventAppResumed:
		b.shut = false
	case api.EventKeyCompromised:
		if e.KID == "" {
			return errUnreadable
		}
		b.steal(e.KID)
	}
	return nil
}

// mark adds a watermark: of a user, or of everybody.
func (b *book) mark(w *api.Watermark, all bool, revision string, known int64) error {
	p := place{stream: w.Stream}
	switch {
	case all:
	case len(w.UserHash) == 22:
		p.user = w.UserHash
	case w.UserHash == "" && w.UserID != "":
		p.user = userHash(b.app, w.UserID)
	default:
		return errUnreadable
	}
	if w.RevokedAt.IsZero() || revision == "" {
		return errUnreadable
	}
	m := mark{revision: revision, at: w.RevokedAt.UnixMilli(), known: known}
	for _, text := range w.Except {
		id, ok := parseSID(text)
		if !ok {
			return errUnreadable
		}
		if m.except == nil {
			m.except = map[sid]bool{}
		}
		m.except[id] = true
	}
	b.addMark(p, m)
	return nil
}

func (b *book) steal(kid string) {
	if b.keys == nil {
		b.keys = map[string]bool{}
	}
	b.keys[kid] = true
}

// load adds what a catch-up says. A node that answers at_least its revision, but for
// CONFIG, knows each of the watermarks; when the last node of the home came to know of
// one, it says unless it cannot know.
func (b *book) load(r *api.Revocations) error {
	revision := homes(r.Revision)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.livesLocked(r.JWTLifeSeconds)
	for _, text := range r.Sessions {
		id, ok := parseSID(text)
		if !ok {
			return fmt.Errorf("read a revoked session: %w", errUnreadable)
		}
		// What is held may be pending, and matter for longer than was known. Not each time,
		// as the queue grows by it.
		if until, held := b.revoked[id]; !held || until < b.keep()-time.Minute {
			b.revokeLocked(id)
		}
	}
	for all, list := range map[bool][]api.Watermark{false: r.Users, true: r.All} {
		for i := range list {
			known := int64(unknown)
			if until := list[i].MintedUntil; until != nil {
				known = until.UnixMilli()
			}
			if err := b.mark(&list[i], all, revision, known); err != nil {
				return fmt.Errorf("read a watermark: %w", err)
			}
		}
	}
	for _, kid := range r.CompromisedKeys {
		b.steal(kid)
	}
	config := positionIn(r.Revision, configRegion)
	switch shut := r.AppState == "suspended" || r.AppState == "deleted"; {
	case shut:
		b.shut, b.shutAt = true, config
	case !later(b.shutAt, config): // the node may not have heard of it yet
		b.shut = false
	}
	b.life = time.Duration(r.JWTLifeSeconds) * time.Second
	return nil
}

// configRegion is how the stream of apps and keys is called where regions are.
const configRegion = "_config"

// homes returns the cursor without the position in CONFIG.
func homes(cursor string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(cursor, ","), func(p string) bool {
		return strings.HasPrefix(p, configRegion+":")
	}), ",")
}

// common returns the cursor without the streams that the other does not name.
func common(cursor, other string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(cursor, ","), func(p string) bool {
		region, _, _ := strings.Cut(p, ":")
		return positionIn(other, region) == ""
	}), ",")
}

// positionIn returns the position in the region's stream, empty if there is none.
func positionIn(cursor, region string) string {
	for p := range strings.SplitSeq(cursor, ",") {
		if strings.HasPrefix(p, region+":") {
			return p
		}
	}
	return ""
}
