package events

import (
	"encoding/json"
	"fmt"
	"time"
)

// Record is a decoded entry: what a fold is given.
type Record struct {
	Stream  uint8 // number of the stream
	Seq     uint64
	Time    time.Time // the stream's time
	Subject Subject
	// Event is nil when the entry is not authentic, or of a kind or version
	// this code cannot read; then only Subject says what it is about.
	Event Event
	// Sealed is the private part of an authentic entry, and carries its nonce.
	Sealed Sealed
	// Trust says why Event is nil.
	Trust Trust
	// Ignorable: the entry is Foreign and says of itself that who cannot read
	// it may skip it. Any other one may take something away.
	Ignorable bool
}

// Trust says what is known of a record's authenticity.
type Trust uint8

// The kinds of trust.
const (
	// Authentic: sealed with a cluster key for this subject, payload and TTL.
	Authentic Trust = iota
	// Forged: the seal is missing or fails, or the payload is not what its
	// subject says. An overwrite.
	Forged
	// Foreign: authentic, but of a kind or version this code does not know.
	Foreign
	// Junk: not even the subject has the form of an event's.
	Junk
)

// String returns the word used in metrics and logs.
func (t Trust) String() string {
	return [...]string{"authentic", "forged", "foreign", "junk"}[t]
}

// Encode returns the message that says e in the stream of region, with the
// private part sealed into it and kept for ttl (rounded up to a second; 0 for
// good). It sets the event's version.
func (ks *ClusterKeys) Encode(region string, e Event, private []byte, ttl time.Duration) (Message, error) {
	*e.version() = versionOf(e)
	if x, ok := e.(*Expire); ok {
		x.Ignorable = true // or nodes of before the kind would answer nothing
	}
	payload, err := json.Marshal(e)
	if err != nil {
		return Message{}, fmt.Errorf("encode event: %w", err)
	}
	if len(payload) > MaxEvent || len(private) > MaxPrivate {
		return Message{}, ErrTooLarge
	}
	m := Message{
		Subject: e.Subject(region).String(),
		Payload: payload,
		TTL:     (ttl + time.Second - 1).Truncate(time.Second),
	}
	m.Seal = ks.seal(&m, private)
	return m, nil
}

// Decode says what the entry is and whether it can be believed. It never
// fails: what cannot be believed is said in the record's Trust.
func (ks *ClusterKeys) Decode(stream uint8, e Entry) Record {
	r := Record{Stream: stream, Seq: e.Seq, Time: e.Time}
	subject, err := ParseSubject(e.Subject)
	if err != nil {
		r.Trust = Junk
		return r
	}
	r.Subject = subject
	sealed, err := ks.open(&e.Message)
	if err != nil {
		r.Trust = Forged
		return r
	}
	r.Sealed = sealed
	ev, err := decodePayload(subject, e.Payload)
	switch {
	case err != nil:
		r.Trust = Forged
	case ev == nil:
		r.Trust, r.Ignorable = Foreign, ignorable(e.Payload)
	case !isAt(ev, subject):
		r.Trust = Forged
	default:
		r.Event = ev
	}
	return r
}

// ignorable reports whether a payload that cannot be read may be skipped.
func ignorable(payload []byte) bool {
	var p struct {
		Ignorable bool `json:"ignorable"`
	}
	return json.Unmarshal(payload, &p) == nil && p.Ignorable
}

// decodePayload returns the event, or nil for a kind or version this code does
// not know.
func decodePayload(at Subject, payload []byte) (Event, error) {
	if ev := scanPayload(at, payload); ev != nil {
		return ev, nil
	}
	k := at.Kind
	ev := newEvent(k)
	if ev == nil {
		return nil, nil
	}
	if err := json.Unmarshal(payload, ev); err != nil {
		return nil, fmt.Errorf("decode %s: %w", k, err)
	}
	switch v := *ev.version(); {
	case v < 1:
		return nil, fmt.Errorf("decode %s: version %d", k, v)
	case v > newestOf(ev):
		return nil, nil
	}
	return ev, nil
}
