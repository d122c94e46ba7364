// Package subscribe tells a service of the revocations of one app, from NATS,
// within milliseconds and without missing one. The service needs a NATS
// connection and no cluster key.
//
// Two things are read at once. A durable consumer, which an operator makes
// ("revocast subscriber create"), delivers all revocations in log order; it is
// what nothing gets lost by. The live subjects carry a copy of each as soon as a
// server stored it, and may lose some when a server dies. What is heard live and
// not delivered within Patience is told at once, however long the consumer
// stalls. So a revocation is told, at the latest, that soon after it was heard,
// and each one is told.
//
//	live.<region>.<app>.<user>.<sid>.rev    one session
//	live.<region>.<app>.<user>.-.all        all sessions of a user
//	live.<region>.<app>.-.-.all             all sessions of the app
//
// <user> is [events.UserHash]. In an "all" a number may stand for the second "-":
// then it is about the sessions of the stream of that number. The payloads are in
// events/DESIGN.md.
//
// What holds:
//
//   - Each revocation is told at least once; in a run of [Subscriber.Run], once,
//     unless the log went backwards.
//   - They are told in log order, but for one that was told late ([Revocation]).
//   - A [Cursor] stands for all revocations up to it: none of them is untold. Of
//     two "all" on one subject the newer says what both say, and may be told alone.
//
// What a caller has to do:
//
//   - It MUST run one Subscriber for each region: a session is revoked in the log
//     of the region it lives in.
//   - Two processes MUST NOT read one durable: each would be told a part. Each has
//     a Name and a durable of its own. Run ends with [ErrShared] when it notices.
//   - It MUST NOT take a revocation back: no session becomes good again.
//   - It MUST be in a NATS account of its own, unless it is trusted with the log
//     ([events.SubscriberConfig.Access]). deploy/nats/accounts.conf has one.
//   - It SHOULD keep the Cursor with what it did, and give it as From. Without it
//     the durable goes on after what was acknowledged, and a log that went
//     backwards while the service was down may not be noticed.
//
// A log can go backwards: when its servers are put back to an older copy of their
// disks. Then sequences are used again, and to go on after the last would skip
// what has them now. So each reading, the first and that after each break, begins
// with some of the last revocations that were told. Where the log holds none of
// them any more, or others in their place, Rewound is called, and all that the log
// holds is told again, with the next generation in its positions. The same is done
// when all of them have simply left the log, which it does when their sessions
// would have expired: nobody could tell the one from the other.
package subscribe

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/revocast/revocast/events"
)

var (
	// ErrNoDurable: nobody answers for the durable.
	ErrNoDurable = errors.New("nobody answers for the durable consumer")
	// ErrShared: another process reads the same durable.
	ErrShared = errors.New("another process reads the same durable consumer")
	// ErrDurable: the consumer of that name is not what an operator makes.
	ErrDurable = errors.New("the durable consumer has other settings")
)

// DefaultPatience is the Patience of a Subscriber that has none.
const DefaultPatience = 20 * time.Millisecond

// Subscriber tells of the revocations of one app in one region.
type Subscriber struct {
	// Conn is a connection to the region's servers. It should reconnect for ever
	// (nats.MaxReconnects(-1)), and remains the caller's. Required.
	Conn *nats.Conn
	// Region and App say whose revocations. Required.
	Region, App string
	// Name is that of the durable among those of the app. Empty: the one without.
	Name string
	// Domain is the region's JetStream domain. Empty: the connection's own.
	Domain string
	// Create has a consumer made instead of reading the durable, for a service
	// that may make consumers in the log's own account. Name is then empty.
	Create bool
	// From is where to go on: the Cursor of the last revocation that was dealt
	// with. Zero: where the durable stands, or with Create the beginning, which
	// is all that still matters.
	From Cursor
	// Keys verify what is told. Nil: nothing is verified, and the permissions of
	// the NATS servers alone say who can revoke.
	Keys *events.ClusterKeys
	// Patience is how long a revocation that was heard live waits for those
	// before it, in case one was lost. 0: DefaultPatience. Negative: not at all.
	Patience time.Duration
	// Rewound is called when the log cannot be shown to hold what was told, before
	// all is told again. A caller who keeps more than that sessions are revoked,
	// such as a copy of the log, begins anew. An error ends Run. Nil: nothing is done.
	Rewound func(context.Context) error
	// OnError is told what is wrong and was overcome, or is being tried again: a
	// lost connection, a revocation that cannot be read. It is called from the
	// goroutine of Run, and must not block. Nil: nobody is told.
	OnError func(error)

	// For tests: to wait for less long, and to lose live messages.
	startWait, sharedFor time.Duration
	dropLive             func(seq uint64) bool
}

// Run tells handle the revocations until ctx ends, when it returns nil. It calls
// handle from one goroutine. An error of handle ends it; that revocation is told
// again by the next Run. It also ends with an error when nobody answers as it
// begins, the durable has other settings or another reader, the NATS user lacks a
// permission ([events.ErrDenied]), or the connection is closed. All else it
// overcomes.
//
// With a slow handle revocations wait at the servers. None is lost, as long as
// handle deals with one before it leaves the log, when its session would have
// expired anyhow.
func (s *Subscriber) Run(ctx context.Context, handle func(context.Context, Revocation) error) error {
	c := events.SubscriberConfig{Region: s.Region, App: s.App, Name: s.Name, Domain: s.Domain}
	if err := s.check(handle == nil); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	r := newReader(s, c, handle)
	for _, subject := range c.LiveSubjects() {
		sub, err := s.Conn.ChanSubscribe(subject, r.live)
		if err != nil {
			return fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		// An error means that the connection is closed, and the subscription with it.
		defer func() { _ = sub.Unsubscribe() }()
	}
	if err := r.run(ctx); err != nil {
		return fmt.Errorf("subscribe to revocations of app %s in region %s: %w", s.App, s.Region, err)
	}
	return nil
}

// check names the first field that is wrong.
func (s *Subscriber) check(noHandle bool) error {
	const want = "want [a-z0-9][a-z0-9_-]{0,63}"
	switch {
	case s.Conn == nil:
		return errors.New("no Conn")
	case !events.ValidName(s.Region):
		return fmt.Errorf("bad Region %q: %s", s.Region, want)
	case !events.ValidName(s.App):
		return fmt.Errorf("bad App %q: %s", s.App, want)
	case s.Name != "" && !events.ValidName(s.Name):
		return fmt.Errorf("bad Name %q: %s", s.Name, want)
	case s.Domain != "" && !events.ValidName(s.Domain):
		return fmt.Errorf("bad Domain %q: %s", s.Domain, want)
	case s.Create && s.Name != "":
		return errors.New("name with Create: it is that of a durable")
	case s.From.Seq != 0 && s.From.Region != s.Region:
		return fmt.Errorf("bad From %q: it is of region %s, not %s", s.From, s.From.Region, s.Region)
	case noHandle:
		return errors.New("no handle")
	}
	return nil
}

func (s *Subscriber) report(err error) {
	if s.OnError != nil {
		s.OnError(err)
	}
}
