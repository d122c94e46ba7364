package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// ssfPollType is the type of work that the progress of a polled stream is; its name
// is the stream id.
const ssfPollType = "ssf-poll"

const (
	// maxAcks is how many acknowledgements, and as many errors, a poll may bring.
	maxAcks = 1000
	// maxAcked is how many acknowledgements are kept of SETs behind one that is not
	// acknowledged: with all else they must fit into an event. What is acknowledged beyond
	// them is sent again.
	maxAcked = 256
	// maxSETErrors is how many errors of a receiver are kept, newest last.
	maxSETErrors = 10
	// maxSSFProgress is how many bytes of an event how far a stream is may take.
	maxSSFProgress = events.MaxEvent - 1<<10
)

// ssfProgress is how far a polled stream is.
type ssfProgress struct {
	// Epoch is that of the stream; of another one it says nothing.
	Epoch int64 `json:"epoch"`
	// Revision: up to there all is acknowledged, and Acked behind it.
	Revision string   `json:"revision"`
	Acked    []string `json:"acked,omitempty"`
	// Control is the number up to which events about the stream are acknowledged.
	Control uint64 `json:"control,omitempty"`
	// Failed counts SETs that the receiver could make nothing of; Errors are the newest.
	Failed int64             `json:"failed,omitempty"`
	Errors []api.SSFSETFault `json:"errors,omitempty"`
	// fresh are those of Errors that CONFIG does not have yet.
	fresh []api.SSFSETFault
}

// ssfHeard holds, by stream id, what receivers acknowledged and CONFIG could not be
// told: else a receiver would be sent the same again, and never what comes behind
// it. On another node it is sent again.
type ssfHeard struct {
	mu sync.Mutex // guards by
	by map[string]*ssfProgress
}

// progress returns how far the stream is, as this node knows it.
func (n *Node) ssfProgress(snap *projection.Snapshot, s *ssfStream) (*ssfProgress, error) {
	p := &ssfProgress{Epoch: s.Epoch, Revision: s.Since}
	if held, _ := snap.Work(s.App, ssfPollType, s.ID); held != nil {
		var stored ssfProgress
		if err := json.Unmarshal(held.Value, &stored); err != nil {
			return nil, fmt.Errorf("read progress of ssf stream %s: %w", s.ID, err)
		}
		if stored.Epoch == s.Epoch {
			p = &stored
		} else {
			p.Failed, p.Errors = stored.Failed, stored.Errors
		}
	}
	n.ssfHeard.mu.Lock()
	defer n.ssfHeard.mu.Unlock()
	if heard := n.ssfHeard.by[s.ID]; heard != nil && heard.Epoch == s.Epoch {
		return p, p.merge(heard)
	}
	return p, nil
}

// ssfEpoch returns the epoch of what is noted of the stream, 0 for nothing.
func ssfEpoch(snap *projection.Snapshot, s *ssfStream) (int64, error) {
	held, _ := snap.Work(s.App, ssfPollType, s.ID)
	if held == nil {
		return 0, nil
	}
	var stored ssfProgress
	if err := json.Unmarshal(held.Value, &stored); err != nil {
		return 0, fmt.Errorf("read progress of ssf stream %s: %w", s.ID, err)
	}
	return stored.Epoch, nil
}

// merge adds what q knows of the same epoch and CONFIG may not have yet: what either
// says is acknowledged is.
func (p *ssfProgress) merge(q *ssfProgress) error {
	mine, err := events.ParseRevision(p.Revision)
	if err != nil {
		return err
	}
	theirs, err := events.ParseRevision(q.Revision)
	if err != nil {
		return err
	}
	p.Revision = further(mine, theirs).String()
	p.Control = max(p.Control, q.Control)
	for _, jti := range q.Acked {
		if !slices.Contains(p.Acked, jti) {
			p.Acked = append(p.Acked, jti)
		}
	}
	for _, e := range q.fresh {
		p.fail(e)
	}
	return nil
}

// further returns the revision that is as far in each stream as the one of both that
// is further there.
func further(a, b events.Revision) events.Revision {
	out := slices.Clone(a)
	for _, q := range b {
		i := slices.IndexFunc(out, func(p events.Position) bool { return p.Stream == q.Stream })
		switch {
		case i < 0:
			out = append(out, q)
		case q.Gen > out[i].Gen || q.Gen == out[i].Gen && q.Seq > out[i].Seq:
			out[i] = q
		}
	}
	return out
}

// fail notes a SET that the receiver refused for good.
func (p *ssfProgress) fail(f api.SSFSETFault) {
	p.Failed++
	p.fresh = append(p.fresh, f)
	p.Errors = append(p.Errors, f)
	p.Errors = p.Errors[max(0, len(p.Errors)-maxSETErrors):]
}

// write returns it as it is stored. Errors that do not fit are left out, the oldest
// first.
func (p *ssfProgress) write() (json.RawMessage, error) {
	for {
		value, err := json.Marshal(p) // which escapes as the event will
		if err != nil || len(value) <= maxSSFProgress || len(p.Errors) == 0 {
			return value, err
		}
		p.Errors = p.Errors[1:]
	}
}

// has reports whether the SET is acknowledged.
func (p *ssfProgress) has(jti string) bool { return slices.Contains(p.Acked, jti) }

// forget drops acknowledgements that the revision and the number say already.
func (p *ssfProgress) forget(n *Node, s *ssfStream, done events.Revision) {
	p.Acked = slices.DeleteFunc(p.Acked, func(jti string) bool {
		id, ok := parseSetID(s, jti)
		if !ok {
			return true
		}
		if id.stream == 0 {
			return id.seq <= p.Control
		}
		at, known := done.In(n.regionOf(id.stream))
		return known && (id.gen < at.Gen || id.gen == at.Gen && id.seq <= at.Seq)
	})
	p.Acked = p.Acked[:min(len(p.Acked), maxAcked)]
}

// saveSSFProgress writes how far the stream is, together with what other nodes wrote
// meanwhile. If CONFIG cannot be reached this node remembers it.
func (n *Node) saveSSFProgress(ctx context.Context, s *ssfStream, p *ssfProgress) error {
	err := n.editWork(ctx, s.App, ssfPollType, s.ID, func(held *events.Work) (json.RawMessage, error) {
		if held != nil {
			var stored ssfProgress
			if err := json.Unmarshal(held.Value, &stored); err != nil {
				return nil, err
			}
			if stored.Epoch > s.Epoch {
				return nil, errUnchanged // somebody knows of a newer beginning
			}
			if stored.Epoch == s.Epoch {
				if err := stored.merge(p); err != nil {
					return nil, err
				}
				done, err := events.ParseRevision(stored.Revision)
				if err != nil {
					return nil, err
				}
				stored.forget(n, s, done)
				*p = stored
			}
		}
		return p.write()
	})
	n.ssfHeard.mu.Lock()
	defer n.ssfHeard.mu.Unlock()
	if err == nil {
		delete(n.ssfHeard.by, s.ID)
		return nil
	}
	failed := classify(err)
	if statusOf[failed.kind] != statusOf[api.LogUnavailable] && !errors.Is(err, events.ErrConflict) {
		return err
	}
	if n.ssfHeard.by == nil {
		n.ssfHeard.by = map[string]*ssfProgress{}
	}
	kept := *p
	kept.Acked, kept.fresh = slices.Clone(p.Acked), slices.Clone(p.fresh)
	n.ssfHeard.by[s.ID] = &kept
	return nil
}

// editWork replaces a work by what edit makes of the one that is held, nil for none.
// Whoever changes the same meanwhile wins, and edit is called again.
func (n *Node) editWork(ctx context.Context, app, typ, name string, edit func(held *events.Work) (json.RawMessage, error)) error {
	for range attempts {
		snap, err := n.administer()
		if err != nil {
			return err
		}
		held, _ := snap.Work(app, typ, name)
		e := &events.Work{Ignorable: true, App: app, Type: typ, Name: name, At: n.wall(), By: n.conf.Name}
		e.Prev = snap.Last(e)
		if e.Value, err = edit(held); errors.Is(err, errUnchanged) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err = n.configure(ctx, e, nil, 0, e.Prev); !errors.Is(err, events.ErrConflict) {
			return err
		}
		if err := n.settings.catchUp(ctx, e); err != nil {
			return err
		}
	}
	return events.ErrConflict
}
