package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Way is a direction of a Link.
type Way int

// The directions: to the server that the link leads to, and back from it.
const (
	Forth Way = iota
	Back
)

// Trouble is what a link does to one of its directions. The zero value passes
// everything on at once.
type Trouble struct {
	// Hold keeps everything until it is false again: a cut that neither side is
	// told of. As with a real one, nothing that was sent is lost, only late.
	Hold bool
	// Delay is how late everything comes, up to Jitter more of it by chance.
	Delay, Jitter time.Duration
	// Rate is bytes per second, at most; 0: no limit. The sender then meets a
	// reader that is slow.
	Rate int
}

// Link is a TCP proxy to one address. Its methods are safe for concurrent use.
type Link struct {
	target   string
	listener net.Listener

	mu      sync.Mutex // guards what follows
	trouble [2]Trouble
	changed chan struct{} // closed and replaced at each change of trouble
	refuses bool
	conns   map[net.Conn]struct{}
}

// NewLink listens on a free loopback port for connections to the target. The
// caller runs Run, which closes the port in the end.
func NewLink(target string) (*Link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for a link: %w", err)
	}
	return &Link{target: target, listener: l, changed: make(chan struct{}), conns: map[net.Conn]struct{}{}}, nil
}

// Addr is where the link is entered.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Set makes trouble in a direction, also for connections that are open.
func (l *Link) Set(w Way, t Trouble) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trouble[w] = t
	close(l.changed)
	l.changed = make(chan struct{})
}

// Refuse breaks all connections, and every new one until it is called with
// false: both sides are told.
func (l *Link) Refuse(refuses bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuses = refuses
	if refuses {
		for c := range l.conns {
			_ = c.Close()
		}
	}
}

// Heal ends all trouble.
func (l *Link) Heal() {
	l.Set(Forth, Trouble{})
	l.Set(Back, Trouble{})
	l.Refuse(false)
}

func (l *Link) now(w Way) (Trouble, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trouble[w], l.changed
}

// add notes an open connection; it returns false when the link refuses it.
func (l *Link) add(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.refuses {
		l.conns[c] = struct{}{}
	}
	return !l.refuses
}

func (l *Link) remove(c net.Conn) {
	_ = c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// Run passes on until ctx ends.
func (l *Link) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		_ = l.listener.Close()
		l.Refuse(true)
	})
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := l.listener.Accept()
		if ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("accept on link to %s: %w", l.target, err)
		}
		all.Go(func() { l.carry(ctx, c) })
	}
}

// carry joins a connection with one to the target until either ends.
func (l *Link) carry(ctx context.Context, from net.Conn) {
	defer l.remove(from)
	if !l.add(from) {
		return
	}
	to, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer l.remove(to)
	if !l.add(to) {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var both sync.WaitGroup
	for w, ends := range [2][2]net.Conn{Forth: {from, to}, Back: {to, from}} {
		both.Go(func() {
			l.pump(ctx, Way(w), ends[0], ends[1])
			cancel()
			_ = from.Close()
			_ = to.Close()
		})
	}
	both.Wait()
}

// piece is some bytes and when they are to arrive at the earliest.
type piece struct {
	data []byte
	due  time.Time
}

// pump passes on one direction of a connection.
func (l *Link) pump(ctx context.Context, w Way, from io.Reader, to io.WriteCloser) {
	pieces := make(chan piece, 256)
	var writing sync.WaitGroup
	defer writing.Wait()
	defer close(pieces)
	writing.Go(func() {
		for p := range pieces {
			if l.await(ctx, w, p) != nil {
				break
			}
			if _, err := to.Write(p.data); err != nil {
				break
			}
		}
		_ = to.Close()
		for range pieces { // so that the reader ends
		}
	})
	for {
		buf := make([]byte, 16<<10)
		n, err := from.Read(buf)
		if n > 0 {
			t, _ := l.now(w)
			due := time.Now().Add(t.Delay)
			if t.Jitter > 0 {
				due = due.Add(rand.N(t.Jitter))
			}
			pieces <- piece{buf[:n], due}
		}
		if err != nil {
			return
		}
	}
}

// await returns when the piece may be written.
func (l *Link) await(ctx context.Context, w Way, p piece) error {
	for {
		t, changed := l.now(w)
		due := p.due
		if t.Rate > 0 {
			due = time.Now().Add(time.Duration(len(p.data)) * time.Second / time.Duration(t.Rate))
		}
		switch d := time.Until(due); {
		case t.Hold:
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
		case d > 0:
			if err := pause(ctx, d); err != nil {
				return err
			}
			if t, _ := l.now(w); !t.Hold {
				return nil
			}
		default:
			return nil
		}
	}
}

// errEnded is why a wait ended early.
var errEnded = errors.New("ended")

// pause returns after d, or with an error when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errEnded, context.Cause(ctx))
	}
}
