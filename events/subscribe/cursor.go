package subscribe

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
)

// Cursor is a place in the log of a region: all revocations of the app up to it
// were told. As text it is "eu:1:1234:1764428400123456789": the position of the
// last one, and when the log stored it, in unix nanoseconds. By both that one is
// known again. The zero Cursor is no place, its text is empty.
//
// The generation is the subscriber's own: how often it found that the log went
// backwards. It says nothing of the generation in a node's positions.
type Cursor struct {
	Region string
	Gen    uint32
	Seq    uint64
	At     time.Time
}

// String returns the text form.
func (c Cursor) String() string {
	if c.Seq == 0 {
		return ""
	}
	return c.Position().String() + ":" + strconv.FormatInt(c.At.UnixNano(), 10)
}

// Position returns the position of the last revocation.
func (c Cursor) Position() events.Position {
	return events.Position{Stream: c.Region, Gen: c.Gen, Seq: c.Seq}
}

// ParseCursor reads the text form.
func ParseCursor(text string) (Cursor, error) {
	if text == "" {
		return Cursor{}, nil
	}
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return Cursor{}, badCursor(text)
	}
	p, err := events.ParsePosition(text[:i])
	ns, nerr := strconv.ParseInt(text[i+1:], 10, 64)
	if err != nil || nerr != nil || ns <= 0 || p.Seq == 0 || p.Stream == events.ConfigRegion {
		return Cursor{}, badCursor(text)
	}
	return Cursor{Region: p.Stream, Gen: p.Gen, Seq: p.Seq, At: time.Unix(0, ns).UTC()}, nil
}

func badCursor(text string) error {
	return fmt.Errorf("not a cursor: %q; want region:generation:sequence:nanoseconds", text)
}

// MarshalText implements [encoding.TextMarshaler].
func (c Cursor) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (c *Cursor) UnmarshalText(text []byte) (err error) {
	*c, err = ParseCursor(string(text))
	return err
}
