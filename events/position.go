package events

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Position is a place in the log: a stream, by its region, its generation, and
// a sequence. The generation counts how often the stream was found to have
// gone backwards, so that a sequence used twice is not mistaken for itself.
type Position struct {
	Stream string
	Gen    uint32
	Seq    uint64
}

// String returns "eu:3:1234".
func (p Position) String() string {
	return p.Stream + ":" + strconv.FormatUint(uint64(p.Gen), 10) + ":" + strconv.FormatUint(p.Seq, 10)
}

// ParsePosition reads the text form.
func ParsePosition(text string) (Position, error) {
	stream, rest, _ := strings.Cut(text, ":")
	gen, seq, ok := strings.Cut(rest, ":")
	g, gerr := strconv.ParseUint(gen, 10, 32)
	s, serr := strconv.ParseUint(seq, 10, 64)
	if !ok || gerr != nil || serr != nil || (!ValidName(stream) && stream != ConfigRegion) {
		return Position{}, fmt.Errorf("not a position: %q; want stream:generation:sequence", text)
	}
	return Position{Stream: stream, Gen: uint32(g), Seq: s}, nil
}

// Revision is what the API calls the place of a write: one position, or one
// per stream where several are meant, ordered by stream.
type Revision []Position

// String returns the positions joined by commas.
func (r Revision) String() string {
	text := make([]string, len(r))
	for i, p := range r {
		text[i] = p.String()
	}
	return strings.Join(text, ",")
}

// ParseRevision reads the text form. A stream may appear once.
func ParseRevision(text string) (Revision, error) {
	var r Revision
	for part := range strings.SplitSeq(text, ",") {
		p, err := ParsePosition(part)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(r, func(q Position) bool { return q.Stream == p.Stream }) {
			return nil, fmt.Errorf("not a revision: stream %q twice", p.Stream)
		}
		r = append(r, p)
	}
	slices.SortFunc(r, func(a, b Position) int { return cmp.Compare(a.Stream, b.Stream) })
	return r, nil
}

// In returns the position of r in the stream.
func (r Revision) In(stream string) (Position, bool) {
	for _, p := range r {
		if p.Stream == stream {
			return p, true
		}
	}
	return Position{}, false
}
