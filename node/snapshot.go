package node

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

const (
	// snapshotEvery is the default of Config.SnapshotEvery.
	snapshotEvery = 5 * time.Minute
	// snapshotRetry is the time until a snapshot that could not be written is
	// tried again: right after a start there is no anchor yet.
	snapshotRetry = 15 * time.Second
	// snapshotsKept is the number of files kept, so that a damaged one costs
	// minutes and not the whole log.
	snapshotsKept = 2

	snapshotPrefix, snapshotSuffix = "sessions-", ".snap"
	snapshotTemp                   = ".tmp"
)

// snapshots is a node's directory of snapshots. It is nil without one.
type snapshots struct {
	dir   string
	every time.Duration
	// wanted is 1 deep: a node that joins asks for a newer one.
	wanted chan struct{}
	loans  loans
}

// openSnapshots loads the newest snapshot that can be believed. What cannot is
// passed over: the log has it all.
func (n *Node) openSnapshots() {
	if n.conf.SnapshotDir == "" {
		return
	}
	n.snapshots = &snapshots{
		dir: n.conf.SnapshotDir, every: cmp.Or(n.conf.SnapshotEvery, snapshotEvery), wanted: make(chan struct{}, 1),
	}
	names, err := n.snapshots.list()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		n.conf.Log.Error("snapshots cannot be listed", "dir", n.snapshots.dir, "error", err)
	}
	for _, name := range slices.Backward(names) {
		h, err := n.loadSnapshot(filepath.Join(n.snapshots.dir, name))
		if err != nil {
			n.conf.Log.Error("snapshot is refused", "file", name, "error", err)
			continue
		}
		age := n.conf.Clock.Wall().Sub(time.UnixMilli(h.Created))
		n.outdated = age > markerLife
		n.conf.Log.Info("snapshot loaded", "file", name, "age", age.Round(time.Second))
		return
	}
}

// snapshotKey authenticates the snapshots of this cluster.
func (n *Node) snapshotKey() []byte { return n.conf.Keys.Derive(n.snapshotPurpose(), 32) }

func (n *Node) loadSnapshot(path string) (*projection.SnapshotHeader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	m, h, err := n.readSnapshot(f)
	if err != nil {
		return nil, err
	}
	return h, n.takeOver(m, h)
}

// takeOver makes the node go on from a snapshot that was read, unless it is of
// other streams. No stream is followed yet.
func (n *Node) takeOver(m *projection.Map, h *projection.SnapshotHeader) error {
	// Streams of other regions are not open yet: resume looks at theirs.
	cluster, _ := identity(n.conf.Home)
	epochs := map[uint8]string{}
	loaded := map[uint8]projection.SnapshotStream{}
	for _, s := range h.Streams {
		epochs[s.Number], loaded[s.Number] = s.Epoch, s
	}
	_, epochs[n.conf.Home.Number()] = identity(n.conf.Home)
	if err := h.Check(cluster, epochs); err != nil {
		return err
	}
	m.Lease = n.conf.Lease
	n.projected.Store(m)
	n.loaded = loaded
	n.catalog.Begin(h.SettingsGen)
	return nil
}

// snapshotPurpose is what the key of a snapshot is derived for: to be read by who
// holds the same cluster keys. What another key sealed is not in a snapshot of a
// node that lacked it, and who has it would never read that in the log.
func (n *Node) snapshotPurpose() string {
	return "revocast snapshot 1 " + strings.Join(slices.Sorted(slices.Values(n.conf.Keys.IDs())), " ")
}

// readSnapshot reads it with whichever cluster key held wrote it. It is read once:
// the whole of it is loaded before its end says whose it is.
func (n *Node) readSnapshot(f io.Reader) (*projection.Map, *projection.SnapshotHeader, error) {
	purpose := n.snapshotPurpose()
	var keys [][]byte
	for _, id := range n.conf.Keys.IDs() {
		if key, ok := n.conf.Keys.DeriveFrom(id, purpose, 32); ok {
			keys = append(keys, key)
		}
	}
	return projection.ReadSnapshotKeeping(bufio.NewReaderSize(f, 1<<20), n.keeps, keys...)
}

// identity returns which cluster and which creation of its stream the log is
// of; a log in memory has neither.
func identity(log events.Log) (cluster, epoch string) {
	if l, ok := log.(interface {
		Cluster() string
		Epoch() string
	}); ok {
		return l.Cluster(), l.Epoch()
	}
	return "", ""
}

// resume makes the stream, not followed yet, go on from the loaded snapshot.
func (s *stream) resume() {
	n := s.node
	if _, sessions := s.fold.(sessionFold); !sessions {
		return
	}
	if s.tape == nil && n.snapshots != nil {
		s.tape = new(tape)
	}
	from, ok := n.loaded[s.number]
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, epoch := identity(s.log); from.Anchor.Seq == 0 || from.Epoch != epoch || from.Region != s.region {
		n.conf.Log.Error("snapshot is of another stream; it is read from its beginning", "stream", s.region)
		s.fold.Rewind()
		s.lost = true
		return
	}
	s.overlap = &overlap{from: from}
	// The node may have stopped before it appended again what was lost.
	s.lost = from.Gen > 0
}

// isMarker reports whether the entry is a marker of this incarnation.
func (s *stream) isMarker(e *events.Entry) bool {
	return strings.HasSuffix(e.Subject, "."+string(events.KindMarker)) && s.own(*e)
}

// keepSnapshots writes a snapshot now and then until ctx ends.
func (n *Node) keepSnapshots(ctx context.Context) error {
	if n.snapshots == nil {
		return nil
	}
	next := time.NewTimer(n.snapshots.every)
	defer next.Stop()
	tidy := time.NewTicker(loanIdle)
	defer tidy.Stop()
	for {
		select {
		case <-next.C:
		case <-n.snapshots.wanted:
			if n.lendable() {
				continue // asked for while it was written
			}
		case <-tidy.C:
			n.snapshots.loans.tidy(n.conf.Clock.Boot())
			continue
		case <-ctx.Done():
			return nil
		}
		if n.saveSnapshot() {
			next.Reset(n.snapshots.every)
		} else {
			n.snapshots.loans.fail(n.conf.Clock.Boot())
			next.Reset(min(n.snapshots.every, snapshotRetry))
		}
	}
}

// saveSnapshot writes a snapshot, and reports whether it did. One goroutine at
// a time calls it.
func (n *Node) saveSnapshot() bool {
	if n.snapshots == nil {
		return false
	}
	err := n.writeSnapshot()
	switch {
	case errors.Is(err, errNotAnchored):
		n.conf.Log.Debug("no snapshot yet", "error", err)
	case err != nil:
		n.conf.Log.Warn("snapshot was not written", "error", err)
	}
	return err == nil
}

var errNotAnchored = errors.New("a stream has no anchor yet, or is not whole")

func (n *Node) writeSnapshot() error {
	key := n.snapshotKey() // before it is looked whether all was read with the keys that it names
	gen, _ := n.catalog.Position()
	h := projection.SnapshotHeader{Node: n.conf.Name, Created: n.wall(), SettingsGen: gen}
	h.Cluster, _ = identity(n.conf.Home)
	tapes := map[uint8]*tape{}
	resets := map[uint8]int{}
	gens := map[uint8]uint32{}
	for _, s := range n.streams() {
		if s.tape == nil {
			continue
		}
		anchor, count := s.tape.hold()
		defer s.tape.release()
		gen, seq := s.fold.Position()
		gens[s.number] = gen
		_, epoch := identity(s.log)
		from := projection.SnapshotStream{Number: s.number, Region: s.region, Epoch: epoch, Anchor: anchor}
		if anchor.Seq == 0 {
			// Out of reach ever since the start: what was loaded still holds.
			if from = n.loaded[s.number]; !s.untouched(from) {
				return fmt.Errorf("%w: %s", errNotAnchored, s.region)
			}
		} else if seq < anchor.Seq || !s.whole() {
			return fmt.Errorf("%w: %s", errNotAnchored, s.region)
		} else {
			tapes[s.number], resets[s.number] = s.tape, count
		}
		h.Streams = append(h.Streams, from)
	}
	for number, from := range n.loaded {
		if n.stream(number) == nil {
			h.Streams = append(h.Streams, from) // not followed yet, or no more
		}
	}
	ring := func(number uint8) []projection.Passed {
		if t := tapes[number]; t != nil {
			passed, _ := t.all()
			return passed
		}
		return n.loaded[number].Ring
	}
	begun := n.conf.Clock.Boot()
	path, err := n.snapshots.save(h.Created, func(w io.Writer) error {
		if err := n.sessions().WriteSnapshot(w, key, h, ring); err != nil {
			return err
		}
		for number, t := range tapes {
			if _, now := t.all(); now != resets[number] {
				return fmt.Errorf("stream %d began anew meanwhile", number)
			}
		}
		return nil
	})
	if path != "" {
		n.snapshots.loans.offer(&written{path: path, at: begun, created: h.Created, gens: gens})
	}
	return err
}

// untouched reports whether nothing was applied to the stream since it was
// loaded.
func (s *stream) untouched(from projection.SnapshotStream) bool {
	gen, seq := s.fold.Position()
	return from.Anchor.Seq != 0 && gen == from.Gen && seq == from.Seq && s.applied.Load() == 0
}

// whole reports whether what is applied has nothing left to be repaired, or to be
// read again with another key: a node that loads it would not know.
func (s *stream) whole() bool {
	if s.opens() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.caught && !s.lost && len(s.broken) == 0 && len(s.unread.standing) == 0
}

// list returns the names of the snapshots, oldest first.
func (d *snapshots) list() ([]string, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var names []string
	for _, e := range entries {
		if _, ok := snapshotTime(e.Name()); ok && e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// snapshotName returns the name of a snapshot made at ms; names sort as times do.
func snapshotName(ms int64) string {
	return fmt.Sprintf("%s%016d%s", snapshotPrefix, ms, snapshotSuffix)
}

func snapshotTime(name string) (int64, bool) {
	digits, ok := strings.CutPrefix(name, snapshotPrefix)
	digits, suffixed := strings.CutSuffix(digits, snapshotSuffix)
	ms, err := strconv.ParseInt(digits, 10, 64)
	return ms, ok && suffixed && err == nil && snapshotName(ms) == name
}

// save writes a snapshot as the newest, durably and as a whole or not at all,
// and removes all but the newest ones. It returns its path once it is there.
func (d *snapshots) save(ms int64, write func(io.Writer) error) (string, error) {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return "", fmt.Errorf("make directory of snapshots: %w", err)
	}
	names, err := d.list()
	if err != nil {
		return "", err
	}
	if len(names) > 0 {
		newest, _ := snapshotTime(names[len(names)-1])
		ms = max(ms, newest+1) // whatever the clock says: the newest counts
	}
	temp := filepath.Join(d.dir, snapshotName(ms)+snapshotTemp)
	defer func() { _ = os.Remove(temp) }() // it is gone when all went well
	if err := writeDurably(temp, write); err != nil {
		return "", err
	}
	path := filepath.Join(d.dir, snapshotName(ms))
	if err := os.Rename(temp, path); err != nil {
		return "", fmt.Errorf("name snapshot: %w", err)
	}
	if err := syncDir(d.dir); err != nil {
		return path, err
	}
	return path, d.prune(snapshotName(ms), names)
}

func writeDurably(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make snapshot: %w", err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	err = write(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil {
		return fmt.Errorf("sync directory of snapshots: %w", err)
	}
	return nil
}

// prune removes the older snapshots, and what a crash left of unfinished ones.
func (d *snapshots) prune(newest string, older []string) error {
	var errs []error
	for _, name := range older[:max(0, len(older)-(snapshotsKept-1))] {
		errs = append(errs, os.Remove(filepath.Join(d.dir, name)))
	}
	left, _ := filepath.Glob(filepath.Join(d.dir, snapshotPrefix+"*"+snapshotSuffix+snapshotTemp)) // the pattern is right
	for _, path := range left {
		if filepath.Base(path) != newest+snapshotTemp {
			errs = append(errs, os.Remove(path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove old snapshots: %w", err)
	}
	return nil
}
