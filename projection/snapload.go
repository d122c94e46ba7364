package projection

import (
	"fmt"
	"io"
)

// ReadSnapshot returns what WriteSnapshot wrote with the same key: a fresh Map
// that stands at each stream's Seq, and from where the log is to be read on. It
// reads r to its end. Errors are those of r, or one of ErrSnapshotDamaged,
// ErrSnapshotVersion and ErrSnapshotForeign; then there is no Map.
//
// The Map is as old as the snapshot. Each stream is to be followed from its
// Anchor; all that is redelivered up to High must be in Ring, or the log is not
// the one that was applied. What is in Ring and not redelivered was compacted
// away, and proves nothing; but without the anchor itself nothing is proved.
func ReadSnapshot(r io.Reader, key []byte) (*Map, *SnapshotHeader, error) {
	return ReadSnapshotKeeping(r, key, func(uint8) bool { return true })
}

// ReadSnapshotKeeping is ReadSnapshot that keeps private parts only of the
// streams for whose number keep is true: of others the Map holds their heads, as
// if it had been given those.
func ReadSnapshotKeeping(r io.Reader, key []byte, keep func(stream uint8) bool) (*Map, *SnapshotHeader, error) {
	b, err := newBlockReader(r, key)
	if err != nil {
		return nil, nil, err
	}
	l := snapLoader{m: new(Map), keep: keep}
	last := byte(0)
	for {
		kind, content, err := b.next()
		if err != nil {
			return nil, nil, err
		}
		d := &snapDecoder{b: content}
		if (last == 0) != (kind == snapHeader) || kind > snapFooter {
			return nil, nil, fmt.Errorf("%w: a block of kind %d after one of kind %d", ErrSnapshotDamaged, kind, last)
		}
		last = kind
		if kind == snapFooter {
			if err := b.close(d); err != nil {
				return nil, nil, err
			}
			break
		}
		for !d.bad && len(d.b) > 0 {
			l.item(kind, d)
			b.totals[kind]++
		}
		if d.bad {
			return nil, nil, fmt.Errorf("%w: a block of kind %d holds something else", ErrSnapshotDamaged, kind)
		}
	}
	if err := l.finish(); err != nil {
		return nil, nil, err
	}
	return l.m, &l.h, nil
}

// snapLoader fills a Map that nobody else has.
type snapLoader struct {
	m    *Map
	h    SnapshotHeader
	keep func(stream uint8) bool // private parts
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
	case snapRecords:
		l.record(d)
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

// record puts a record where readers find it. Where two sessions list one
// alias, the newer state has it.
func (l *snapLoader) record(d *snapDecoder) {
	r := d.record()
	m := l.m
	if !l.keep(r.SID.Stream()) {
		r.Sealed = r.Sealed.Head()
	}
	d.bad = d.bad || m.get(r.SID) != nil
	if d.bad {
		return
	}
	m.update(r.SID, "", func(*record) *record { return r })
	if !r.known {
		return
	}
	for _, a := range r.Aliases {
		if sid, ok := m.alias(a.Key); ok {
			if other := m.get(sid); other != nil && other.StateSeq >= r.StateSeq {
				continue
			}
		}
		m.addAlias(a.Key, r.SID)
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
