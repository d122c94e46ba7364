package events

import (
	"context"
	"errors"
	"time"
)

// Message is one event as bytes, ready to be appended. It is immutable once
// handed to a Log.
type Message struct {
	Subject string
	Payload []byte
	// Seal is the header Revocast-Seal.
	Seal string
	// TTL is how long the stream keeps the message, in whole seconds; 0 keeps it.
	TTL time.Duration
}

// Expectation is what an append demands of its subject: that Seq is the last
// sequence on it, 0 meaning that there is none. The zero value demands nothing.
type Expectation struct {
	Set bool
	Seq uint64
}

// Expect returns the expectation that seq is the last sequence on the subject.
func Expect(seq uint64) Expectation { return Expectation{Set: true, Seq: seq} }

// Entry is a message as a stream holds it. Nothing in it has been verified.
type Entry struct {
	Seq  uint64
	Time time.Time // when the stream stored it, by the stream's clock
	Message
}

// Info is what a stream says of itself. LastSeq is a lower bound: a leader that
// was deposed goes on answering for some time.
type Info struct {
	FirstSeq, LastSeq uint64
	Bytes, MaxBytes   uint64
}

// Errors of a Log. Any other error of Append means that nothing was stored.
var (
	// ErrUnavailable: no answer came. The message may have been stored; the
	// same message may be appended again.
	ErrUnavailable = errors.New("log unavailable: the event may or may not have been stored")
	// ErrConflict: the expectation failed; nothing was stored.
	ErrConflict = errors.New("the subject was changed meanwhile")
	// ErrFull: the stream is at its budget; nothing was stored.
	ErrFull = errors.New("log is full")
	// ErrTooLarge: the message is larger than a stream takes; nothing was stored.
	ErrTooLarge = errors.New("event is too large")
	// ErrNotFound: the stream holds no message on the subject.
	ErrNotFound = errors.New("no such event")
	// ErrRewound: what was applied is not what the log holds: it went backwards.
	ErrRewound = errors.New("the log went backwards")
	// ErrIdentity: the stream is not the one this log was opened for.
	ErrIdentity = errors.New("the stream is another one than this node knows")
)

// Log is one stream. Both implementations pass eventstest.
//
// Its methods are safe for concurrent use.
type Log interface {
	// Region returns the region whose stream this is, ConfigRegion for CONFIG.
	Region() string
	// Number returns the number of the stream.
	Number() uint8

	// Append stores the message and returns its sequence.
	//
	// It MUST NOT return a nil error before the message is as durable as the
	// stream is. It MUST retry what is safe to retry until ctx ends, and with
	// an expectation MUST take its own earlier attempt for success. When ctx
	// ends unanswered it returns ErrUnavailable.
	Append(ctx context.Context, m Message, e Expectation) (uint64, error)

	// Follow delivers what the stream holds from f.From on, and then all that
	// is appended, to f.Apply: from one goroutine, in ascending sequence, each
	// entry once. Sequences may be absent only where the stream no longer
	// holds them. It returns nil when ctx ends, ErrRewound or ErrIdentity when
	// the stream cannot be trusted to continue what was delivered, or the
	// error of f.Apply. It MUST go on through breaks of the connection.
	Follow(ctx context.Context, f Follow) error

	// Last returns the newest entry on the exact subject, as the stream's
	// leader knows it, or ErrNotFound.
	Last(ctx context.Context, subject string) (Entry, error)

	// Read gives fn, in ascending sequence, what the stream still holds of the range,
	// until fn returns false. It MUST NOT end without an error before all of that was
	// given, however far behind a replica is, and MUST go on through breaks of the
	// connection while its ctx has a deadline. The entry's bytes belong to fn.
	Read(ctx context.Context, r Range, fn func(Entry) bool) error

	// Info returns the stream's state as its leader knows it.
	Info(ctx context.Context) (Info, error)
}

// Range says what to read of a stream.
type Range struct {
	// From is the first sequence wanted; 0 and 1 are the beginning. If Since is set
	// instead, it is the first that was stored then or later, by the stream's clock.
	From  uint64
	Since time.Time
	// To is the last sequence wanted: one that was committed.
	To uint64
	// Filters are NATS wildcards, of which one must match the subject. No two may
	// overlap, or match heartbeats.
	Filters []string
}

// Follow says how to follow a stream.
type Follow struct {
	// From is the first sequence wanted; 0 and 1 are the beginning.
	From uint64
	// Anchor reports whether an entry is the follower's own (a heartbeat or a
	// marker of this incarnation), so that after a break following resumes
	// there and proves that the log did not go backwards. Nil: never.
	Anchor func(Entry) bool
	// Apply is given each entry. The entry's bytes belong to it.
	Apply func(Entry) error
	// Flush, if not nil, is called from the same goroutine before Follow waits
	// for anything, before it calls CaughtUp or Resumed, and before it returns
	// for any reason but an error of Apply. So Apply may put entries aside until
	// then, to do several at once. Its error counts as one of Apply.
	Flush func() error
	// CaughtUp, if not nil, is called from the same goroutine once everything
	// that the stream held when following began has been applied.
	CaughtUp func()
	// Resumed, if not nil, is called from the same goroutine when following
	// begins, and whenever it begins again after anything that may have been a
	// break, before an entry that came after it is applied. It must not call
	// the log.
	Resumed func()
}

// Archive is the whole history of a region's sessions, never compacted.
type Archive interface {
	// History gives fn, oldest first, the entries whose subject matches one of
	// the filters (NATS wildcards), until fn returns false. The sequences are
	// the archive's own; Origin is the sequence in the stream of origin.
	History(ctx context.Context, filters []string, fn func(Archived) bool) error
}

// Archived is an entry of an archive.
type Archived struct {
	Entry
	Origin uint64
}
