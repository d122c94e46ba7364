package projection

import (
	"encoding/binary"
	"slices"
	"unique"
	"unsafe"

	"github.com/revocast/revocast/events"
)

// snapEncoder appends values: integers as varints, signed ones in zigzag, text
// with its length before it.
type snapEncoder []byte

func (e snapEncoder) byte(b byte) snapEncoder      { return append(e, b) }
func (e snapEncoder) uint(n uint64) snapEncoder    { return binary.AppendUvarint(e, n) }
func (e snapEncoder) int(n int64) snapEncoder      { return binary.AppendVarint(e, n) }
func (e snapEncoder) sid(s events.SID) snapEncoder { return append(e, s[:]...) }
func (e snapEncoder) text(s string) snapEncoder    { return append(e.uint(uint64(len(s))), s...) }
func (e snapEncoder) bytes(b []byte) snapEncoder   { return append(e.uint(uint64(len(b))), b...) }

func (e snapEncoder) sids(s []events.SID) snapEncoder {
	e = e.uint(uint64(len(s)))
	for i := range s {
		e = e.sid(s[i])
	}
	return e
}

func (e snapEncoder) passed(p Passed) snapEncoder { return append(e.uint(p.Seq), p.Sum[:]...) }

// Bits of the flags of a record and of a mark.
const (
	snapKnown = 1 << iota
	snapFound
	snapForged
	snapGone
	snapBound // a program that does not know it refuses the file
)

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

func (e snapEncoder) record(r *record) snapEncoder {
	e = e.sid(r.SID).byte(flag(r.known, snapKnown) | flag(r.found, snapFound) | flag(r.gone, snapGone) | flag(r.known && r.Bound, snapBound))
	e = e.text(r.App).text(r.User).int(r.AbsoluteAt)
	e = e.byte(byte(r.rank)).byte(r.from).int(r.RevokedAt).text(r.RevokedBy).text(r.RevokeReason)
	e = e.int(r.longest).int(r.until)
	if !r.known {
		return e
	}
	e = e.int(r.CreatedAt).int(r.ExpiresAt).int(r.SeenAt).int(r.Idle)
	e = e.uint(r.CreatedSeq).uint(r.StateSeq).uint(r.AuthSeq)
	e = e.int(r.OriginalUntil).text(r.By)
	n := len(r.Aliases)
	for n > 0 && r.Aliases[n-1] == (events.Alias{}) {
		n--
	}
	e = e.byte(byte(n))
	for _, a := range r.Aliases[:n] {
		e = e.sid(a.Key).int(a.Until)
	}
	return e.bytes(r.Sealed)
}

func (e snapEncoder) mark(k *mark) snapEncoder {
	e = e.byte(flag(k.forged, snapForged)).uint(k.seq).uint(k.last).sids(k.except)
	e = e.text(k.user).text(k.reason).text(k.by).int(k.at).int(k.time).bytes(k.nonce)
	e = e.uint(uint64(len(k.kept)))
	for _, old := range k.kept {
		e = e.mark(old)
	}
	return e
}

func (e snapEncoder) group(k groupKey) snapEncoder {
	return e.byte(k.stream).byte(k.home).text(k.app).text(k.hash)
}

// snapDecoder takes values from b. Once something does not fit, all it returns
// is zero and bad is set.
type snapDecoder struct {
	b   []byte
	bad bool
	// lent: texts and bytes are handed out as they stand in b, for as long as
	// that is not written to.
	lent bool
}

// end reports whether all was taken and fitted.
func (d *snapDecoder) end() bool { return !d.bad && len(d.b) == 0 }

func (d *snapDecoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	taken := d.b[:n:n]
	d.b = d.b[n:]
	return taken
}

func (d *snapDecoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

// flags takes a byte in which no other bits are set.
func (d *snapDecoder) flags(known byte) byte {
	b := d.byte()
	d.bad = d.bad || b&^known != 0
	return b
}

func (d *snapDecoder) uint() uint64 {
	n, size := binary.Uvarint(d.b)
	if d.bad || size <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *snapDecoder) uint32() uint32 {
	n := d.uint()
	d.bad = d.bad || n > 1<<32-1
	return uint32(n)
}

func (d *snapDecoder) int() int64 {
	n, size := binary.Varint(d.b)
	if d.bad || size <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *snapDecoder) sid() (s events.SID) {
	copy(s[:], d.take(uint64(len(s))))
	return s
}

func (d *snapDecoder) text() string {
	b := d.take(d.uint())
	if d.lent {
		return unsafe.String(unsafe.SliceData(b), len(b))
	}
	return string(b)
}

// name takes a text of which there are few.
func (d *snapDecoder) name() string {
	b := d.take(d.uint())
	if len(b) == 0 {
		return ""
	}
	return unique.Make(string(b)).Value()
}

// bytes takes bytes; none are nil.
func (d *snapDecoder) bytes() []byte {
	b := d.take(d.uint())
	switch {
	case len(b) == 0:
		return nil
	case d.lent:
		return b
	}
	return slices.Clone(b)
}

// count takes the number of items that follow, of at least size bytes each.
func (d *snapDecoder) count(size uint64) int {
	n := d.uint()
	if n > uint64(len(d.b))/size {
		d.bad = true
		return 0
	}
	return int(n)
}

func (d *snapDecoder) sids() []events.SID {
	n := d.count(uint64(len(events.SID{})))
	if n == 0 {
		return nil
	}
	s := make([]events.SID, n)
	for i := range s {
		s[i] = d.sid()
	}
	return s
}

func (d *snapDecoder) passed() (p Passed) {
	p.Seq = d.uint()
	copy(p.Sum[:], d.take(uint64(len(p.Sum))))
	return p
}

func (d *snapDecoder) rank() rank {
	r := rank(d.byte())
	d.bad = d.bad || r > rankSession
	return r
}

// record takes a record into r, which is zero.
func (d *snapDecoder) record(r *record) {
	r.SID = d.sid()
	flags := d.flags(snapKnown | snapFound | snapGone | snapBound)
	r.known, r.found, r.gone = flags&snapKnown != 0, flags&snapFound != 0, flags&snapGone != 0
	r.App, r.User, r.AbsoluteAt = d.text(), d.text(), d.int()
	r.rank, r.from, r.RevokedAt, r.RevokedBy, r.RevokeReason = d.rank(), d.byte(), d.int(), d.text(), d.text()
	r.longest, r.until = d.int(), d.int()
	if !r.known {
		d.bad = d.bad || !r.revoked() || flags&snapBound != 0 // there is neither a state nor a tombstone
		return
	}
	r.Bound = flags&snapBound != 0
	r.CreatedAt, r.ExpiresAt, r.SeenAt, r.Idle = d.int(), d.int(), d.int(), d.int()
	r.CreatedSeq, r.StateSeq, r.AuthSeq = d.uint(), d.uint(), d.uint()
	r.OriginalUntil, r.By = d.int(), d.text()
	n := int(d.byte())
	d.bad = d.bad || n > len(r.Aliases)
	for i := range r.Aliases[:min(n, len(r.Aliases))] {
		r.Aliases[i] = events.Alias{Key: d.sid(), Until: d.int()}
	}
	r.Sealed = d.bytes()
}

func (d *snapDecoder) mark(home uint8) *mark {
	k := d.oneMark()
	k.home = home
	for n := d.count(1); n > 0 && !d.bad; n-- {
		old := d.oneMark()
		old.home = home
		k.kept = append(k.kept, old)
		d.bad = d.bad || d.uint() != 0 // what is kept keeps nothing
	}
	return k
}

func (d *snapDecoder) oneMark() *mark {
	k := new(mark)
	k.forged = d.flags(snapForged) != 0
	k.guessed = k.forged // any other was repaired before the snapshot
	k.seq, k.last, k.except = d.uint(), d.uint(), d.sids()
	k.user, k.reason, k.by = d.text(), d.name(), d.name()
	k.at, k.time, k.nonce = d.int(), d.int(), d.bytes()
	return k
}

func (d *snapDecoder) group() groupKey {
	return groupKey{stream: d.byte(), home: d.byte(), app: d.name(), hash: d.text()}
}
