package subscribe

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/revocast/revocast/events"
)

// Why only the subject of a revocation is believed.
var (
	// ErrForged: its seal fails under the Keys, or it is not about what its
	// subject says. It may have taken the place of a real one.
	ErrForged = errors.New("the event is not authentic")
	// ErrUnreadable: its payload cannot be read.
	ErrUnreadable = errors.New("the event cannot be read")
)

// Revocation is one session, or all older sessions of a user or of the app, that
// are good no more.
type Revocation struct {
	// Position names it in the log.
	Position events.Position
	// Cursor is where to go on once it was dealt with. It lies before Position
	// where something between them was not told yet.
	Cursor Cursor
	// Late: something that stands after it was told before. The consumer stalled,
	// and the live subjects lost this one.
	Late bool

	// SID is the session. Zero: all sessions that began before At, of the user
	// UserHash, or if that is empty of the app, and that live in the stream of number
	// Stream, which is the first byte of their ids. At is by the clock of a node:
	// of a session that began within a minute of it, only a node can say.
	SID    events.SID
	Stream uint8
	// User is the user's id, if it is known, and UserHash events.UserHash of it.
	User, UserHash string
	// Except are sessions that are spared.
	Except []events.SID
	// Reason and By say why and by whom, At when, by the node that recorded it;
	// Time when the log stored it.
	Reason, By string
	At, Time   time.Time

	// Verified: it is authentic by the Subscriber's Keys.
	Verified bool
	// Err is nil, or says why only its subject was believed: User, Except, Reason
	// and By are then empty, and At is Time. It is a revocation all the same.
	// ErrForged or ErrUnreadable.
	Err error
}

// read returns what the entry revokes; false when its subject names nothing that
// could be.
func (s *Subscriber) read(e *events.Entry, number uint8) (Revocation, bool) {
	subject, err := events.ParseSubject(e.Subject)
	if err != nil {
		return Revocation{}, false
	}
	r := Revocation{Stream: number, UserHash: subject.User, At: e.Time, Time: e.Time}
	switch subject.Kind {
	case events.KindRevoke:
		if r.SID, err = events.ParseSID(subject.ID); err != nil {
			return Revocation{}, false
		}
		r.Stream = r.SID.Stream()
	case events.KindAll:
		home, ok := subject.Home()
		if !ok {
			return Revocation{}, false
		}
		if home != 0 {
			r.Stream = home
		}
	default:
		return Revocation{}, false
	}
	ev, err := s.decode(e, subject)
	if err != nil {
		r.Err = err
		return r, true
	}
	r.Verified = s.Keys != nil
	switch ev := ev.(type) {
	case *events.Revoke:
		r.User, r.Reason, r.By, r.At = ev.User, ev.Reason, ev.By, time.UnixMilli(ev.At).UTC()
	case *events.RevokeAll:
		r.User, r.Reason, r.By, r.At, r.Except = ev.User, ev.Reason, ev.By, time.UnixMilli(ev.At).UTC(), ev.Except
	}
	return r, true
}

// decode returns the entry's event, with its seal verified if there are keys.
func (s *Subscriber) decode(e *events.Entry, at events.Subject) (events.Event, error) {
	if s.Keys != nil {
		switch r := s.Keys.Decode(0, *e); {
		case r.Event != nil:
			return r.Event, nil
		case r.Trust == events.Foreign:
			return nil, fmt.Errorf("%w: it is of a newer version", ErrUnreadable)
		}
		return nil, ErrForged
	}
	var ev events.Event
	var v *int
	if at.Kind == events.KindRevoke {
		one := new(events.Revoke)
		ev, v = one, &one.V
	} else {
		all := new(events.RevokeAll)
		ev, v = all, &all.V
	}
	if err := json.Unmarshal(e.Payload, ev); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	switch {
	case *v != 1:
		return nil, fmt.Errorf("%w: it is of version %d", ErrUnreadable, *v)
	case ev.Subject(at.Region) != at:
		return nil, fmt.Errorf("%w: its subject is that of something else", ErrForged)
	}
	return ev, nil
}
