// Package projection folds events into what a node knows: which sessions there
// are and whether each is good, and the settings of apps.
//
// The fold is pure: no clock, no network, no goroutine, no log line. Time is an
// argument. It is idempotent, in order per stream: a record applied twice
// changes nothing, and a log compacted anywhere folds to the same state. Only
// loading a snapshot uses goroutines, which end before it returns.
//
// Two things hold whatever comes in. Revoked is absorbing: nothing makes a
// revoked session good again. And what is not authentic never grants; where it
// says "revoked", it is believed.
package projection

import (
	"iter"
	"time"

	"github.com/revocast/revocast/events"
)

// Verdict answers "is this session good?".
type Verdict uint8

// The verdicts. Only Active grants.
const (
	Unknown Verdict = iota
	Active
	IdleExpired
	Expired
	Revoked
)

// String returns the word used in the API: unknown, active, idle, expired, revoked.
func (v Verdict) String() string {
	return [...]string{"unknown", "active", "idle", "expired", "revoked"}[v]
}

// Session is what a projection knows of a session. It is a copy; its Sealed
// bytes are shared and immutable.
type Session struct {
	SID       events.SID
	App, User string

	// Unix milliseconds. SeenAt is the last use known from the log.
	CreatedAt, ExpiresAt, AbsoluteAt, SeenAt int64
	// Idle is the idle timeout in seconds; 0 none.
	Idle int64

	// CreatedSeq is the sequence of its creation, StateSeq that of its newest
	// state: what a change must expect.
	CreatedSeq, StateSeq uint64
	// AuthSeq is the position of the stream when the log-in began; 0 not given.
	AuthSeq uint64

	// OriginalUntil is until when the token that the sid derives from is
	// accepted (unix ms; 0 as long as the session lives); Aliases are its
	// other tokens, the newest last.
	OriginalUntil int64
	Aliases       [events.MaxAliases]events.Alias

	// By is the API key that made the newest state.
	By string

	// Bound: nobody is let in by the session without a proof of the key to which
	// it is bound. Never taken back.
	Bound bool

	// Set once revoked.
	RevokedAt               int64
	RevokedBy, RevokeReason string

	// Sealed is the private part.
	Sealed events.Sealed
}

// Effect says what applying a record did.
type Effect uint8

// The effects.
const (
	// Applied: the record is part of the state now, or said nothing new.
	Applied Effect = iota
	// Overwrite: the entry may not stand where it stands. What the node holds
	// for its subject is to be appended again (Repair).
	Overwrite
	// Skipped: a kind or version this code does not know, or junk.
	Skipped
)

// Projection is what a node knows of sessions. One goroutine per stream calls
// Apply and Rewind; any number may read at the same time. A reader never waits
// for more than one Apply.
type Projection interface {
	// Apply folds the record. Records of one stream come in ascending
	// sequence; a sequence at or below the applied one is dropped.
	Apply(r events.Record) Effect

	// Lookup returns the session of the sid and its verdict at the wall clock
	// now (unix ms). It does not allocate. A revoked session whose state is
	// gone has only SID, AbsoluteAt and what its revocation says.
	Lookup(sid events.SID, now int64) (Session, Verdict)

	// LookupToken is Lookup by a token's key: the sid it derives from, unless
	// that token was rotated away, or an alias. rotated reports that the
	// token is accepted only for some time, because a newer one replaced it.
	LookupToken(key events.SID, now int64) (s Session, v Verdict, rotated bool)

	// Replaced returns the session of which the key was a token until a newer one
	// replaced it, once that counts no more at now; Unknown: none is known.
	Replaced(key events.SID, now int64) (Session, Verdict)

	// User yields the sessions of a user that are known, revoked ones
	// included, oldest first. It is a moment's copy.
	User(app, user string, now int64) iter.Seq2[Session, Verdict]

	// App yields the sessions of an app in no order. It may take long; it
	// blocks nobody.
	App(app string, now int64) iter.Seq2[Session, Verdict]

	// Repair returns the event, its private part and its remaining life that
	// are to be appended again where an Overwrite stands at sequence seq of
	// the subject, and false when nothing is held for the subject.
	Repair(subject events.Subject, seq uint64, now int64) (Repair, bool)

	// LastAll returns the sequence of the newest "all" held of the user (empty
	// user: of the app) in the stream, 0 for none: what the next must expect.
	LastAll(stream uint8, app, user string) uint64

	// LastAway is LastAll of an "all" that stands in the stream because the
	// home was out of reach. The next must not have been asked for before at
	// (unix ms), and may spare only what SparedAway reports as not revoked by
	// those before, where the session itself is not known.
	LastAway(stream, home uint8, app, user string) (seq uint64, at int64)
	SparedAway(stream, home uint8, app, user string, sid events.SID) bool

	// Pending yields, in no order, what was recorded in other streams because
	// the home was out of reach and does not stand in the home's yet, as events
	// to append there. An "all" must expect the sequence in its Prev. It is
	// right for who has applied the home's stream up to its end. PendingHomes
	// names the homes with any, in order, PendingLen counts, and PendingSession
	// and PendingAll (by the user's hash, empty for the app) report of one
	// whether it is pending.
	Pending(home uint8, now int64) iter.Seq[Repair]
	PendingHomes() []uint8
	PendingLen(home uint8) int
	PendingSession(sid events.SID) bool
	PendingAll(home uint8, app, hash string) bool

	// Position returns generation and sequence up to which the stream is
	// applied: everything at or below is visible to readers.
	Position(stream uint8) (gen uint32, seq uint64)

	// LogTime returns the newest time of the stream's applied records.
	LogTime(stream uint8) time.Time

	// Rewind begins a new generation of the stream because it went backwards:
	// its sessions are forgotten, its revocations and watermarks are kept.
	Rewind(stream uint8)

	// Adopt names the present generation of the stream gen, if that is higher:
	// another node counted further. Nothing is forgotten.
	Adopt(stream uint8, gen uint32)

	// Stands reports whether the session's own stream, as read in this
	// generation, says that it is revoked. What is revoked and does not stand
	// is known only from what the log lost, or from another stream.
	Stands(sid events.SID) bool

	// Reread begins the stream anew because it was read without a cluster key
	// that came since: what was believed of it only because an entry could not
	// be opened is forgotten, with its sessions, until it is read again. What
	// it said authentically of revocations is kept. The generation stays.
	Reread(stream uint8)

	// Lost yields, once a rewound stream was read again, the revocations that
	// were kept and are no longer in it, as events to append again.
	Lost(stream uint8, now int64) iter.Seq[Repair]

	// Sweep forgets what can no longer matter at now, judged by the earlier
	// of now and the stream's time, in one of 256 slices a call; it returns
	// how many sessions it forgot.
	Sweep(slice uint8, now int64) int

	// Digest returns a hash over (sid, newest state, revoked) of the stream's
	// unexpired sessions at now, tagged with the version of the fold.
	Digest(stream uint8, now int64) string

	// States yields, in no order, the sessions of the stream that are unexpired
	// at now (unix ms) and whose newest state stands above after and at most at
	// last, revoked ones included, each with that sequence. It walks over all
	// sessions.
	States(stream uint8, after, last uint64, now int64) iter.Seq2[events.SID, uint64]

	// Len returns the number of sessions and of tombstones held.
	Len() (sessions, tombstones int)
}

// Repair is an event to append again.
type Repair struct {
	Event  events.Event
	Sealed events.Sealed // its private part, to be opened and sealed anew; empty for kinds without
	TTL    time.Duration
}
