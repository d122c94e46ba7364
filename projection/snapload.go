package projection

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/revocast/revocast/events"
)

// ReadSnapshot returns what WriteSnapshot wrote with one of the keys: a fresh Map
// that stands at each stream's Seq, and from where the log is to be read on. It
// reads r to its end, and uses all cores meanwhile. Errors are those of r, or one of ErrSnapshotDamaged,
// ErrSnapshotVersion and ErrSnapshotForeign; then there is no Map.
//
// The Map is as old as the snapshot. Each stream is to be followed from its
// Anchor; all that is redelivered up to High must be in Ring, or the log is not
// the one that was applied. What is in Ring and not redelivered was compacted
// away, and proves nothing; but without the anchor itself nothing is proved.
func ReadSnapshot(r io.Reader, keys ...[]byte) (*Map, *SnapshotHeader, error) {
	return ReadSnapshotKeeping(r, func(uint8) bool { return true }, keys...)
}

// ReadSnapshotKeeping is ReadSnapshot that keeps private parts only of the
// streams for whose number keep is true: of others the Map holds their heads, as
// if it had been given those. Several goroutines call keep.
func ReadSnapshotKeeping(r io.Reader, keep func(stream uint8) bool, keys ...[]byte) (*Map, *SnapshotHeader, error) {
	b, err := newBlockReader(r, keys)
	if err != nil {
		return nil, nil, err
	}
	l := snapLoader{m: new(Map), keep: keep}
	if err := l.load(b); err != nil {
		return nil, nil, err
	}
	if err := l.finish(); err != nil {
		return nil, nil, err
	}
	return l.m, &l.h, nil
}

// snapLoaders is how many goroutines load records at most. More wait for the one
// that authenticates what they load.
const snapLoaders = 8

// snapLoader fills a Map that nobody else has.
type snapLoader struct {
	m    *Map
	h    SnapshotHeader
	keep func(stream uint8) bool // private parts

	// blocks of records are on their way from who reads the file to those who
	// load them; free is what those are done with.
	blocks, free chan []byte
	among        int
	records      atomic.Uint64
}

// load reads the file to its end. Blocks are read and authenticated one after
// the other; those of records, which are nearly all and know nothing of each
// other, are loaded meanwhile on all cores.
func (l *snapLoader) load(b *blockReader) error {
	l.among = min(runtime.GOMAXPROCS(0), snapLoaders)
	l.blocks, l.free = make(chan []byte, l.among), make(chan []byte, 2*l.among+1)
	g, ctx := errgroup.WithContext(context.Background())
	for range l.among {
		g.Go(l.fill)
	}
	var footer []byte
	g.Go(func() (err error) {
		defer close(l.blocks)
		footer, err = l.read(ctx, b)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	b.totals[snapRecords] = l.records.Load()
	return b.close(&snapDecoder{b: footer})
}

// read returns the content of the footer. It hands blocks of records on, and
// takes the others itself.
func (l *snapLoader) read(ctx context.Context, b *blockReader) (footer []byte, err error) {
	for last := byte(0); ; {
		var buf []byte
		select {
		case buf = <-l.free:
		default:
		}
		kind, content, err := b.next(buf)
		if err != nil {
			return nil, err
		}
		if (last == 0) != (kind == snapHeader) || kind > snapFooter {
			return nil, fmt.Errorf("%w: a block of kind %d after one of kind %d", ErrSnapshotDamaged, kind, last)
		}
		last = kind
		switch kind {
		case snapFooter:
			return content, nil
		case snapRecords:
			select {
			case l.blocks <- content:
			case <-ctx.Done():
				return nil, ctx.Err() // whoever failed said why
			}
			continue
		}
		d := &snapDecoder{b: content}
		for !d.bad && len(d.b) > 0 {
			l.item(kind, d)
			b.totals[kind]++
		}
		if d.bad {
			return nil, badBlock(kind)
		}
	}
}

func badBlock(kind byte) error {
	return fmt.Errorf("%w: a block of kind %d holds something else", ErrSnapshotDamaged, kind)
}

// fill loads blocks of records until there are no more.
func (l *snapLoader) fill() error {
	f := filler{p: &l.m.packed, among: l.among}
	n := uint64(0)
	for content := range l.blocks {
		d := snapDecoder{b: content, lent: true}
		for ; !d.bad && len(d.b) > 0; n++ {
			l.record(&d, &f)
		}
		if d.bad {
			return badBlock(snapRecords)
		}
		select {
		case l.free <- content:
		default:
		}
	}
	f.done()
	l.records.Add(n)
	l.m.sessions.Add(f.sessions)
	l.m.tombstones.Add(f.tombstones)
	return nil
}

// item takes one item of the kind; what cannot be makes d bad.
func (l *snapLoader) item(kind byte, d *snapDecoder) {
	m := l.m
	switch kind {
	case snapHeader:
		l.header(d)
	case snapMarks:
		key := d.group()
		k := d.mark(key.home)
		d.bad = d.bad || m.marks[key.index()][key] != nil
		if !d.bad {
			*m.mark(key) = *k
		}
	case snapTouches:
		sid := d.sid()
		m.keepTouch(sid, d.int())
	case snapRing:
		number := d.byte()
		l.ring(number, d)
	default:
		d.bad = true
	}
}

func (l *snapLoader) header(d *snapDecoder) {
	h := &l.h
	h.Cluster, h.Node, h.Created, h.SettingsGen = d.text(), d.text(), d.int(), d.uint32()
	seen := [256]bool{}
	for n := d.count(1); n > 0 && !d.bad; n-- {
		s := SnapshotStream{Number: d.byte(), Region: d.text(), Epoch: d.text(), Anchor: d.passed()}
		s.Gen, s.Seq = d.uint32(), d.uint()
		reread, logTime := d.uint(), d.int()
		d.bad = d.bad || seen[s.Number] || s.Anchor.Seq > s.Seq
		seen[s.Number] = true
		h.Streams = append(h.Streams, s)
		st := &l.m.streams[s.Number]
		st.gen, st.seq, st.reread, st.region = s.Gen, s.Seq, reread, s.Region
		st.logTime.Store(logTime)
	}
	d.bad = d.bad || len(d.b) != 0
}

// record puts a record, of which there may be only one, where readers find it.
// Where two sessions list one alias, the newer state has it.
func (l *snapLoader) record(d *snapDecoder, f *filler) {
	var r record
	d.record(&r)
	if !l.keep(r.SID.Stream()) {
		r.Sealed = r.Sealed.Head()
	}
	d.bad = d.bad || !f.add(&r)
	if d.bad {
		return
	}
	l.m.list(r.SID, false, r.pending())
	for _, a := range r.Aliases {
		if a.Key.IsZero() {
			continue
		}
		f.p.claimAlias(a.Key, r.SID, func(holder events.SID) bool {
			var s Session
			return !f.p.load(holder, &s, new(standing)) || s.StateSeq < r.StateSeq
		})
	}
}

func (l *snapLoader) ring(number uint8, d *snapDecoder) {
	p := d.passed()
	for i := range l.h.Streams {
		s := &l.h.Streams[i]
		if s.Number != number {
			continue
		}
		d.bad = d.bad || p.Seq <= s.High || p.Seq < s.Anchor.Seq
		s.High = p.Seq
		if s.Anchor.Seq != 0 && p.Seq > s.Anchor.Seq {
			s.Ring = append(s.Ring, p)
		}
		return
	}
	d.bad = true
}

// finish settles what only the whole can say: how far the streams can have got.
func (l *snapLoader) finish() error {
	for _, s := range l.h.Streams {
		if s.High < s.Seq {
			return fmt.Errorf("%w: stream %d ends before it begins", ErrSnapshotDamaged, s.Number)
		}
		l.m.streams[s.Number].begun.Store(s.High)
	}
	return nil
}
