package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// importing is a row on its way into the log.
type importing struct {
	*importRow
	draft *foreignDraft
	msg   events.Message
}

// errBlankLine: there is nothing to import, and nothing wrong.
var errBlankLine = errors.New("blank line")

// importAll imports the rows of a chunk. Nothing is expected of the log, because
// only then are many written as one: what another node makes of the same token at
// the same moment, the fold and its repairs settle. Within this node the keys are
// claimed.
func (n *Node) importAll(ctx context.Context, chunk *importBatch, stream uint8, c *call) {
	defer func() {
		if p := recover(); p != nil {
			n.conf.Log.Error("panic in an import", "request_id", c.id, "panic", p, "stack", string(debug.Stack()))
			for _, row := range chunk.rows {
				row.err = cmp.Or(row.err, fmt.Errorf("panic: %v", p))
			}
		}
	}()
	var drafts []*importing
	for _, row := range chunk.rows {
		if row.last != nil {
			continue
		}
		if row.err = row.missing(); row.err != nil {
			continue
		}
		var d *foreignDraft
		if d, row.err = n.readRow(chunk.app, stream, row.text); row.err == nil {
			d.state.By = c.caller.keyID
			drafts = append(drafts, &importing{importRow: row, draft: d})
		}
		row.text = nil
	}
	for _, row := range n.importFirst(ctx, stream, drafts) {
		n.claimed.await(row.draft.state.SID)
		var f found
		f, row.created, row.err = n.createForeign(ctx, chunk.app, row.draft)
		row.at = f.at
	}
}

// importFirst imports the rows whose keys nobody else imports now, and returns the
// others.
func (n *Node) importFirst(ctx context.Context, stream uint8, drafts []*importing) (later []*importing) {
	first, later := n.claimed.take(drafts)
	defer n.claimed.release(first) // also after a panic: others wait for it without end
	n.importClaimed(ctx, stream, first)
	return later
}

// missing says why there is nothing in the line that could be read.
func (r *importRow) missing() error {
	if r.text == nil {
		return errLineTooLong
	}
	if len(bytes.TrimSpace(r.text)) == 0 {
		return errBlankLine
	}
	return nil
}

// readRow returns the session that the line describes.
func (n *Node) readRow(app *events.App, stream uint8, line []byte) (*foreignDraft, error) {
	var in api.ImportSession
	if err := decodeStrict(line, &in); err != nil {
		return nil, err
	}
	return n.foreignDraftOf(app, stream, &in)
}

// importClaimed imports rows of different sessions.
func (n *Node) importClaimed(ctx context.Context, stream uint8, rows []*importing) {
	s, err := n.homeOf(events.SID{stream})
	if err != nil {
		failAll(rows, err)
		return
	}
	known := s.position() // before anything is looked up, see createForeignFirst
	look, stale := n.lookIn(stream)
	if stale != nil {
		failAll(rows, stale)
		return
	}
	var fresh []*importing
	for _, row := range rows {
		d := row.draft
		d.state.AuthSeq = max(known.Seq, 1)
		held, v := look(d.state.SID)
		row.at = known
		switch {
		case v == projection.Unknown:
			if row.err = n.loggedOutSince(stream, d); row.err == nil {
				fresh = append(fresh, row)
			}
		case v == projection.Active:
			row.err = d.sameUser(&found{answer: answer{Session: held}})
		default:
			row.err = foreignEnded(v)
		}
	}
	n.importFresh(ctx, s, fresh)
}

func failAll(rows []*importing, err error) {
	for _, row := range rows {
		row.err = err
	}
}

// lookIn returns how sessions of the stream are looked up now: the clock is read
// and the lease checked once for many.
func (n *Node) lookIn(stream uint8) (look func(events.SID) (projection.Session, projection.Verdict), stale error) {
	asked := n.wall()
	if _, stale := n.freshAt(stream, asked); stale != nil {
		return nil, stale
	}
	return func(sid events.SID) (projection.Session, projection.Verdict) {
		s, v := n.sessions().Lookup(sid, n.judgedAt(asked))
		return s, n.held(&s, v)
	}, nil
}

// importFresh writes sessions that nobody has heard of.
func (n *Node) importFresh(ctx context.Context, s *stream, rows []*importing) {
	var sealed []*importing
	var ms []events.Message
	for _, row := range rows {
		if row.err = n.mayCreate(s); row.err == nil {
			row.msg, row.err = n.sealDraft(s, &row.draft.draft)
		}
		if row.err == nil {
			// Counted before it is written: chunks that were all let in while there was
			// room would fill a small log to the end.
			s.bytes.Add(storedSize(&row.msg))
			sealed, ms = append(sealed, row), append(ms, row.msg)
		}
	}
	if len(ms) == 0 {
		return
	}
	results := s.writeAll(ctx, ms)
	look, stale := n.lookIn(s.number)
	for i, row := range sealed {
		switch {
		case errors.Is(results[i].err, errOvertaken): // another writer of the same was faster, or it was changed since
			if row.err = stale; stale == nil {
				row.err = row.stands(look, results[i].err)
			}
		case results[i].err != nil:
			row.err = results[i].err
		case stale != nil:
			row.err = stale
		default:
			row.created = true
			row.at = results[i].at
			row.err = row.stands(look, events.ErrUnavailable)
		}
	}
}

// stands returns why the row's session, which was written, is not there: unseen
// when nothing is known of it.
func (r *importing) stands(look func(events.SID) (projection.Session, projection.Verdict), unseen error) error {
	held, v := look(r.draft.state.SID)
	switch v {
	case projection.Unknown:
		return unseen
	case projection.Active:
		return r.draft.sameUser(&found{answer: answer{Session: held}})
	}
	return foreignEnded(v)
}

// keyClaims are the keys of foreign tokens whose sessions are being imported by this
// node: two rows of one token must not both find that there is no session.
type keyClaims struct {
	mu   sync.Mutex // guards held
	held map[events.SID]chan struct{}
}

// take claims the keys of the rows, and returns the rows whose keys it got; later
// are those that another chunk, or a row before, has.
func (c *keyClaims) take(rows []*importing) (first, later []*importing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = map[events.SID]chan struct{}{}
	}
	var released chan struct{}
	for _, row := range rows {
		if _, ok := c.held[row.draft.state.SID]; ok {
			later = append(later, row)
			continue
		}
		if released == nil {
			released = make(chan struct{})
		}
		c.held[row.draft.state.SID] = released
		first = append(first, row)
	}
	return first, later
}

// release gives back what take returned first.
func (c *keyClaims) release(rows []*importing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, row := range rows {
		if i == 0 {
			close(c.held[row.draft.state.SID])
		}
		delete(c.held, row.draft.state.SID)
	}
}

// await returns once nobody has the key.
func (c *keyClaims) await(key events.SID) {
	for {
		c.mu.Lock()
		released, ok := c.held[key]
		c.mu.Unlock()
		if !ok {
			return
		}
		<-released
	}
}
