package projection

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"

	"github.com/revocast/revocast/events"
)

// The format of a snapshot; DESIGN.md has the tables.
const (
	snapMagic   = "\x89RVSNAP\n"
	snapVersion = 2
	// snapBlock is the size at which a block ends, snapBlockMax the largest
	// that is read, in bytes. One item is far below the difference.
	snapBlock    = 1 << 20
	snapBlockMax = 16 << 20
	snapHead     = 5 // kind and length
)

// The kinds of blocks, in the order in which they come.
const (
	snapHeader byte = iota + 1
	snapMarks
	snapRecords
	snapTouches
	snapRing
	snapFooter
)

// Why a snapshot is refused. Nothing of a refused one is held.
var (
	// ErrSnapshotDamaged: it is cut short, or a byte is not what was written.
	ErrSnapshotDamaged = errors.New("snapshot is damaged")
	// ErrSnapshotVersion: a newer program wrote it.
	ErrSnapshotVersion = errors.New("snapshot has a newer format")
	// ErrSnapshotForeign: it is of another cluster, another stream, or was
	// authenticated by another key.
	ErrSnapshotForeign = errors.New("snapshot is of another cluster")
)

// SnapshotHeader says of what a snapshot is, and from where the log is to be
// read on.
type SnapshotHeader struct {
	// Cluster is the cluster's id, Node the name of the node that wrote it.
	Cluster, Node string
	// Created is when it was written, unix ms.
	Created int64
	// SettingsGen is the generation of CONFIG, which is not in the snapshot.
	SettingsGen uint32
	// Streams are all streams that the projection applied something of.
	Streams []SnapshotStream
}

// SnapshotStream is a stream in a snapshot.
type SnapshotStream struct {
	Number uint8
	// Region and Epoch say which stream has that number.
	Region, Epoch string
	// Anchor is an entry of the writing node's own, long-lived and at or below
	// Seq, from which the stream is to be followed. The zero value: there is
	// none, and the stream is to be read again from its beginning.
	Anchor Passed

	// Set by WriteSnapshot. All that stands at or below Seq is in the snapshot,
	// of what stands above it up to High any part may be, of what stands above
	// High nothing.
	Gen       uint32
	Seq, High uint64
	// Ring is what was applied after Anchor up to High, ascending, as the log
	// held it then.
	Ring []Passed
}

// Passed is an entry that was applied.
type Passed struct {
	Seq uint64
	Sum EntrySum
}

// EntrySum tells an entry from any other at its sequence.
type EntrySum [16]byte

// SumEntry returns the sum of the entry: of the stream's time, subject and
// payload. Not of its headers, which a hostile writer can make so that two ways
// to read them differ.
func SumEntry(e *events.Entry) (sum EntrySum) {
	h := sha256.New()
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(e.Time.UnixNano()))
	binary.BigEndian.PutUint64(b[8:], uint64(len(e.Subject)))
	// Writes to a hash never fail.
	_, _ = h.Write(b[:])
	_, _ = io.WriteString(h, e.Subject)
	_, _ = h.Write(e.Payload)
	copy(sum[:], h.Sum(nil))
	return sum
}

// Check returns ErrSnapshotForeign, saying what differs, unless the snapshot is
// of the cluster and each of its streams has the epoch that epochs names for
// its number.
func (h *SnapshotHeader) Check(cluster string, epochs map[uint8]string) error {
	if h.Cluster != cluster {
		return fmt.Errorf("%w: cluster %q, not %q", ErrSnapshotForeign, h.Cluster, cluster)
	}
	for _, s := range h.Streams {
		if epoch, ok := epochs[s.Number]; !ok || epoch != s.Epoch {
			return fmt.Errorf("%w: stream %q (%d) has epoch %q, not %q", ErrSnapshotForeign, s.Region, s.Number, s.Epoch, epoch)
		}
	}
	return nil
}

// Find returns the stream with the number.
func (h *SnapshotHeader) Find(number uint8) (SnapshotStream, bool) {
	for _, s := range h.Streams {
		if s.Number == number {
			return s, true
		}
	}
	return SnapshotStream{}, false
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// snapTotals count what a snapshot holds. The footer repeats them.
type snapTotals [snapFooter + 1]uint64

// blockWriter writes items as blocks of one kind each. After an error it does
// nothing more.
type blockWriter struct {
	w      io.Writer
	mac    hash.Hash
	kind   byte
	block  []byte // the block in the making, its head included
	totals snapTotals
	err    error
}

func newBlockWriter(w io.Writer, key []byte) *blockWriter {
	b := &blockWriter{w: w, mac: hmac.New(sha256.New, key)}
	b.write(binary.BigEndian.AppendUint32([]byte(snapMagic), snapVersion))
	return b
}

func (b *blockWriter) write(p []byte) {
	if b.err != nil {
		return
	}
	_, _ = b.mac.Write(p)
	_, b.err = b.w.Write(p)
}

// add appends one item of the kind, which encode appends to what it is given.
func (b *blockWriter) add(kind byte, encode func(snapEncoder) snapEncoder) {
	if b.kind != kind || len(b.block) >= snapBlock {
		b.flush()
		b.kind = kind
		b.block = append(b.block[:0], kind, 0, 0, 0, 0)
	}
	b.block = encode(b.block)
	b.totals[kind]++
}

func (b *blockWriter) flush() {
	if len(b.block) <= snapHead {
		return
	}
	if len(b.block) > snapBlockMax && b.err == nil {
		b.err = fmt.Errorf("block of kind %d has %d bytes", b.kind, len(b.block))
	}
	binary.BigEndian.PutUint32(b.block[1:], uint32(len(b.block)-snapHead))
	b.block = binary.BigEndian.AppendUint32(b.block, crc32.Checksum(b.block, castagnoli))
	b.write(b.block)
	b.block = b.block[:0]
}

// close writes the footer and the authentication.
func (b *blockWriter) close() error {
	b.add(snapFooter, func(e snapEncoder) snapEncoder {
		for _, n := range b.totals {
			e = e.uint(n)
		}
		return e
	})
	b.flush()
	b.write(b.mac.Sum(nil))
	return b.err
}

// blockReader reads what a blockWriter wrote.
type blockReader struct {
	r      io.Reader
	macs   []hash.Hash // one for each key that may have authenticated it
	totals snapTotals
}

func newBlockReader(r io.Reader, keys [][]byte) (*blockReader, error) {
	b := &blockReader{r: r}
	for _, key := range keys {
		b.macs = append(b.macs, hmac.New(sha256.New, key))
	}
	head := make([]byte, len(snapMagic)+4)
	if err := b.read(head); err != nil {
		return nil, err
	}
	if string(head[:len(snapMagic)]) != snapMagic {
		return nil, fmt.Errorf("%w: it does not begin as one", ErrSnapshotDamaged)
	}
	switch v := binary.BigEndian.Uint32(head[len(snapMagic):]); {
	case v > snapVersion:
		return nil, fmt.Errorf("%w: %d, this program reads %d", ErrSnapshotVersion, v, snapVersion)
	case v < snapVersion:
		return nil, fmt.Errorf("%w: format %d never was", ErrSnapshotDamaged, v)
	}
	return b, nil
}

// read fills p.
func (b *blockReader) read(p []byte) error {
	if _, err := io.ReadFull(b.r, p); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: it is cut short", ErrSnapshotDamaged)
		}
		return fmt.Errorf("read snapshot: %w", err)
	}
	for _, mac := range b.macs {
		_, _ = mac.Write(p)
	}
	return nil
}

// next returns the kind and the content of the next block, in buf if that is large
// enough.
func (b *blockReader) next(buf []byte) (byte, []byte, error) {
	var head [snapHead]byte
	if err := b.read(head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n == 0 || n > snapBlockMax {
		return 0, nil, fmt.Errorf("%w: block of %d bytes", ErrSnapshotDamaged, n)
	}
	body := slices.Grow(buf[:0], int(n)+4)[:n+4]
	if err := b.read(body); err != nil {
		return 0, nil, err
	}
	content := body[:n]
	sum := crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, content)
	if sum != binary.BigEndian.Uint32(body[n:]) {
		return 0, nil, fmt.Errorf("%w: checksum of a block of kind %d", ErrSnapshotDamaged, head[0])
	}
	return head[0], content, nil
}

// close reads what follows the footer: the authentication, and nothing else.
func (b *blockReader) close(footer *snapDecoder) error {
	for kind := range b.totals {
		if n := footer.uint(); n != b.totals[kind] {
			return fmt.Errorf("%w: %d items of kind %d, not %d", ErrSnapshotDamaged, b.totals[kind], kind, n)
		}
	}
	if !footer.end() {
		return fmt.Errorf("%w: its footer", ErrSnapshotDamaged)
	}
	got := make([]byte, sha256.Size+1)
	switch n, err := io.ReadFull(b.r, got); {
	case err == nil:
		return fmt.Errorf("%w: something follows it", ErrSnapshotDamaged)
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("read snapshot: %w", err)
	case n != sha256.Size:
		return fmt.Errorf("%w: it is cut short", ErrSnapshotDamaged)
	}
	for _, mac := range b.macs {
		if hmac.Equal(mac.Sum(nil), got[:sha256.Size]) {
			return nil
		}
	}
	return fmt.Errorf("%w: it was not authenticated by this cluster's key", ErrSnapshotForeign)
}
