package node

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// The results of a transfer, as metrics name them.
const (
	transferLent    = "lent"     // to another node, which read it to its end or gave up
	transferLoaded  = "loaded"   // from another node
	transferGivenUp = "given_up" // from another node, which refused or fell silent, or whose snapshot is not believed
)

const (
	// joinLimit bounds all that a node does to get a snapshot from another one;
	// then it reads the log.
	joinLimit = 10 * time.Minute
	// offerWait is how long a node listens for offers each time it has asked.
	// It asks offersShort times when the log is short, because reading it takes
	// no longer, and offersLong times when it has longLog messages or more.
	offerWait   = 250 * time.Millisecond
	offersShort = 2
	offersLong  = 12
	longLog     = 10_000
	// openLimit is how long a peer may take to write its snapshot, openPause
	// the time until it is asked again whether it has.
	openLimit = time.Minute
	openPause = 250 * time.Millisecond
	// pieceLimit is how long a piece may take, asked for once a second, until
	// the peer is given up; piecesAhead is how many are under way at a time.
	pieceLimit  = 10 * time.Second
	piecesAhead = 4
	// busyPause is the time until peers are asked again that all lend to others.
	busyPause = time.Second
)

// borrow makes a node without a snapshot of its own, or with one whose markers
// have left the log, begin from that of a node of
// its region, which is read over the mesh, before any stream is followed. It
// proves nothing by itself: like one from disk it is held against the log from
// its anchor on (stream.resume), and nobody is answered before this node has
// seen a heartbeat of its own again. Whatever goes wrong, the log has it all.
func (n *Node) borrow(ctx context.Context) {
	if n.conf.Mesh == nil || n.conf.Solo || n.loaded != nil && !n.outdated {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	var given error
	for ctx.Err() == nil {
		busy := false
		for _, o := range n.offers(ctx) {
			err := n.borrowFrom(ctx, o)
			if err == nil {
				return
			}
			if errors.Is(err, errPeerBusy) {
				busy = true
				continue
			}
			given = errors.Join(given, fmt.Errorf("from %s: %w", o.Node, err))
			n.metrics.transfers.WithLabelValues(transferGivenUp).Inc()
			if ctx.Err() != nil {
				break
			}
		}
		if !busy {
			break
		}
		select {
		case <-time.After(busyPause):
		case <-ctx.Done():
		}
	}
	if given != nil {
		n.conf.Log.Warn("no snapshot could be had from another node; the log is read from its beginning", "error", given)
	} else {
		n.conf.Log.Info("no other node of the region lends a snapshot; the log is read from its beginning")
	}
}

// offer is what a peer has.
type offer struct {
	from events.Incarnation
	snapshotReply
}

// offers returns who lends a snapshot, the best first: who lends to the fewest,
// then who has the newest.
func (n *Node) offers(ctx context.Context) []offer {
	rounds := offersLong
	asking, cancel := context.WithTimeout(ctx, n.conf.Lease/4)
	if info, err := n.conf.Home.Info(asking); err == nil && info.LastSeq < longLog {
		rounds = offersShort
	}
	cancel()
	var mu sync.Mutex
	var all []offer
	for round := range rounds {
		asking, cancel := context.WithTimeout(ctx, offerWait)
		n.conf.Mesh.Query(asking, snapshotTopic, events.Incarnation{}, n.snapshotQuery(opOffer, events.Incarnation{}, 0),
			func(from events.Incarnation, body []byte) {
				r, _, err := readReply(body)
				mu.Lock()
				defer mu.Unlock()
				if err == nil && !slices.ContainsFunc(all, func(o offer) bool { return o.from == from }) {
					all = append(all, offer{from, r})
				}
			})
		cancel()
		mu.Lock()
		heard := len(all) > 0
		mu.Unlock()
		// In the first round this node's mesh may not hear everybody yet.
		if heard && round > 0 || ctx.Err() != nil {
			break
		}
	}
	mu.Lock()
	defer mu.Unlock()
	slices.SortFunc(all, func(a, b offer) int {
		return cmp.Or(cmp.Compare(a.Loans, b.Loans), cmp.Compare(b.Created, a.Created), cmp.Compare(a.Node, b.Node))
	})
	return all
}

func (n *Node) snapshotQuery(op string, loan events.Incarnation, offset int64) []byte {
	q := snapshotQuery{Op: op, Region: n.home.region, Loan: loan, Offset: offset}
	q.Cluster, q.Epoch = identity(n.conf.Home)
	body, err := json.Marshal(&q)
	if err != nil {
		panic(err) // the type above always encodes
	}
	return body
}

// errPeerBusy: the peer lends to as many as it does at a time.
var errPeerBusy = errors.New("it lends to others")

// readReply returns what was answered, and the bytes after it.
func readReply(body []byte) (r snapshotReply, piece []byte, err error) {
	head, piece, _ := bytes.Cut(body, []byte("\n"))
	if err := json.Unmarshal(head, &r); err != nil {
		return r, nil, fmt.Errorf("read answer: %w", err)
	}
	switch {
	case r.Busy:
		return r, nil, errPeerBusy
	case r.Refused != "":
		return r, nil, errors.New(r.Refused)
	}
	return r, piece, nil
}

// transfer is one attempt to get the snapshot of one peer.
type transfer struct {
	*Node
	from events.Incarnation
	loan events.Incarnation
	size int64
}

// borrowFrom loads the snapshot of the peer.
func (n *Node) borrowFrom(ctx context.Context, o offer) error {
	begin := n.conf.Clock.Boot()
	t := &transfer{Node: n, from: o.from, loan: events.NewIncarnation()}
	if err := t.open(ctx); err != nil {
		return err
	}
	m, h, err := t.read(ctx)
	_, _, _ = t.ask(ctx, opDone, 0, time.Second) // else the loan ends by itself
	if err != nil {
		return err
	}
	if from, ok := h.Find(n.home.number); !ok || from.Anchor.Seq == 0 {
		return errors.New("its snapshot has no anchor in the stream of this region")
	}
	// Only one that is too old to go on from is given up for another.
	if gen, _ := n.catalog.Position(); n.loaded != nil && (h.SettingsGen < gen || !m.Covers(n.sessions(), n.wall())) {
		return errors.New("it lacks what this node's own snapshot has")
	}
	if err := n.takeOver(m, h); err != nil {
		return err
	}
	n.home.resume()
	n.metrics.transfers.WithLabelValues(transferLoaded).Inc()
	sessions, _ := n.sessions().Len()
	n.conf.Log.Info("snapshot loaded from another node", "node", o.Node, "sessions", sessions, "bytes", t.size,
		"took", n.conf.Clock.Boot()-begin, "age", n.conf.Clock.Wall().Sub(time.UnixMilli(h.Created)).Round(time.Second))
	return nil
}

// ask returns what the peer answers within the time.
func (t *transfer) ask(ctx context.Context, op string, offset int64, within time.Duration) (snapshotReply, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	heard := make(chan []byte, 1)
	t.conf.Mesh.Query(ctx, snapshotTopic, t.from, t.snapshotQuery(op, t.loan, offset), func(_ events.Incarnation, body []byte) {
		select {
		case heard <- body:
			cancel()
		default:
		}
	})
	select {
	case body := <-heard:
		return readReply(body)
	default:
		return snapshotReply{}, nil, fmt.Errorf("no answer within %v", within)
	}
}

// open makes the peer hold its newest snapshot open, and waits while it is
// written.
func (t *transfer) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	for {
		r, _, err := t.ask(ctx, opOpen, 0, pieceLimit)
		if err != nil {
			return err
		}
		if t.size = r.Size; t.size > 0 {
			return nil
		}
		select {
		case <-time.After(openPause):
		case <-ctx.Done():
			return fmt.Errorf("it has no snapshot after %v", openLimit)
		}
	}
}

// read fetches the pieces in order, a few ahead, and loads them as they come:
// neither side holds more of the file than those.
func (t *transfer) read(ctx context.Context) (m *projection.Map, h *projection.SnapshotHeader, err error) {
	g, ctx := errgroup.WithContext(ctx)
	r, w := io.Pipe()
	g.Go(func() (err error) {
		m, h, err = projection.ReadSnapshotKeeping(bufio.NewReaderSize(r, 1<<20), t.keeps, t.snapshotKey())
		_ = r.CloseWithError(err) // always nil
		return err
	})
	pieces := make(chan chan []byte, piecesAhead-1) // with the one that is waited for
	g.Go(func() error {
		defer close(pieces)
		for at := int64(0); at < t.size; at += pieceSize {
			piece := make(chan []byte, 1)
			select {
			case pieces <- piece:
			case <-ctx.Done():
				return ctx.Err()
			}
			g.Go(func() error { return t.fetch(ctx, at, piece) })
		}
		return nil
	})
	g.Go(func() error {
		err := pass(ctx, pieces, w)
		_ = w.CloseWithError(err) // always nil
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	return m, h, nil
}

func (t *transfer) fetch(ctx context.Context, at int64, into chan<- []byte) error {
	_, piece, err := t.ask(ctx, opRead, at, pieceLimit)
	switch {
	case err != nil:
		return fmt.Errorf("piece at %d of %d bytes: %w", at, t.size, err)
	case int64(len(piece)) != min(pieceSize, t.size-at):
		return fmt.Errorf("piece at %d of %d bytes has %d", at, t.size, len(piece))
	}
	into <- piece
	return nil
}

// pass writes the pieces in order.
func pass(ctx context.Context, pieces <-chan chan []byte, w io.Writer) error {
	for piece := range pieces {
		select {
		case p := <-piece:
			if _, err := w.Write(p); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
