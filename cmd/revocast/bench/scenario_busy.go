package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/revocast/revocast/events"
)

// lean measures the listener for verifies only, on TCP and on a Unix socket.
func (r *runner) lean(ctx context.Context) error {
	const flag = "--verify-listen"
	knows, err := r.Program.knows(ctx, "serve", flag)
	if err != nil || !knows {
		if err == nil {
			r.report.skip("lean", "serve has no flag %s", flag)
		}
		return err
	}
	s, err := r.start(ctx)
	if err != nil {
		return err
	}
	tokens, err := r.tokens(ctx)
	if err != nil {
		return err
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	for _, at := range []struct{ scenario, what, network, addr, flag string }{
		{"lean", "verify on the listener of its own", "tcp", addr, addr},
		{"lean-unix", "verify on a Unix socket", "unix", filepath.Join(r.dir, "verify.sock"), "unix:" + filepath.Join(r.dir, "verify.sock")},
	} {
		if err := s.restart(ctx, flag, at.flag); err != nil {
			return err
		}
		t := &Target{Name: at.scenario, Network: at.network, Addr: at.addr, Requests: getting(tokens), Server: []int{s.node.pid()}}
		if _, err := r.held(ctx, at.scenario, at.what, t); err != nil {
			return err
		}
	}
	return s.restart(ctx)
}

// knows reports whether the command of the program has the flag.
func (p Program) knows(ctx context.Context, command, flag string) (bool, error) {
	c, err := p.start(command, "--help")
	if err != nil {
		return false, err
	}
	defer c.kill()
	select {
	case <-c.done:
		return strings.Contains(c.out.String(), flag), nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// eventRate is how many events a second are applied while a node is busy, and
// busySnapshots how often it is told to write a snapshot.
const (
	eventRate     = 2000
	busySnapshots = "1s"
)

// busy measures verifies while events are applied and snapshots are written.
func (r *runner) busy(ctx context.Context) error {
	s, err := r.start(ctx)
	if err != nil {
		return err
	}
	tokens, err := r.tokens(ctx)
	if err != nil {
		return err
	}
	if err := s.restart(ctx, "--snapshot-every", busySnapshots); err != nil {
		return err
	}
	t, err := r.verifyTarget(ctx, "busy", getting(tokens))
	if err != nil {
		return err
	}
	before, err := s.snapshots()
	if err != nil {
		return err
	}
	appended, err := s.feed(ctx, eventRate, func(ctx context.Context) error {
		_, err := r.held(ctx, "busy", fmt.Sprintf("verify while %d events/s are applied and snapshots are written", eventRate), t)
		return err
	})
	if err != nil {
		return err
	}
	after, err := s.snapshots()
	if err != nil {
		return err
	}
	r.report.figure("busy/events", "events applied meanwhile", appended, "/s")
	if slices.Equal(before, after) {
		r.refuse("busy/rps", "failed: no snapshot was written meanwhile")
	}
	if appended < 0.8*eventRate {
		r.refuse("busy/rps", fmt.Sprintf("failed: only %.0f events a second could be appended", appended))
	}
	return s.restart(ctx)
}

// refuse takes a figure back.
func (r *runner) refuse(id, why string) {
	for i := range r.report.Figures {
		if r.report.Figures[i].ID == id {
			r.report.Figures[i].Refused = why
		}
	}
}

// snapshots returns the names of the node's snapshots.
func (s *system) snapshots() (names []string, err error) {
	all, err := os.ReadDir(filepath.Join(s.dir, "n1", "snapshots"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range all {
		if strings.HasSuffix(e.Name(), ".snap") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// feeders is how many events are on their way at once.
const feeders = 512

// feed appends events at the rate while during runs, and returns at which rate
// it did: new sessions and uses of old ones by turns.
func (s *system) feed(ctx context.Context, rate float64, during func(context.Context) error) (float64, error) {
	feeding, stop := context.WithCancel(ctx)
	defer stop()
	var next, done atomic.Int64
	var failed atomic.Pointer[error]
	var working sync.WaitGroup
	begun := time.Now()
	for range feeders {
		working.Go(func() {
			for {
				n := next.Add(1)
				due := begun.Add(time.Duration(float64(n) / rate * float64(time.Second)))
				if sleep(feeding, time.Until(due)) != nil {
					return
				}
				e, private := s.event(int(n))
				if err := s.append(ctx, s.log, e, private); err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
				done.Add(1)
			}
		})
	}
	err := during(ctx)
	took := time.Since(begun)
	stop()
	working.Wait()
	if err == nil && failed.Load() != nil {
		err = *failed.Load()
	}
	return float64(done.Load()) / took.Seconds(), err
}

// event is the n-th event of those that feed appends.
func (s *system) event(n int) (events.Event, []byte) {
	if n%2 == 0 {
		return newSession(s.log.Number(), s.access.App, fmt.Sprintf("fed-%d", n), s.sessions+int(s.fed.Add(1)), time.Now().UnixMilli())
	}
	e, _ := s.session(s.anySession())
	st := e.(*events.State)
	return &events.Touch{App: st.App, User: st.User, SID: st.SID, At: time.Now().UnixMilli()}, nil
}

// tail measures how long verifies take at a quarter of what the machine can
// while a node does what it seldom does, beside what they take while it does
// nothing else.
func (r *runner) tail(ctx context.Context) error {
	s, err := r.start(ctx)
	if err != nil {
		return err
	}
	tokens, err := r.tokens(ctx)
	if err != nil {
		return err
	}
	requests := getting(tokens)
	t, err := r.verifyTarget(ctx, "tail", requests)
	if err != nil {
		return err
	}
	l := r.load()
	if l.Rate == 0 {
		l.Rate = max(100, Load{Conns: r.Conns, Duration: time.Second}.Run(ctx, t).Rate()/4)
	}
	// An app's next key can be published once only: each round is another app's.
	apps := []string{s.access.App}
	for i := range r.Rounds - 1 {
		apps = append(apps, fmt.Sprintf("rotated-%d", i))
		if err := s.call(ctx, "POST", "/v1/apps", s.access.Admin, map[string]string{"app_id": apps[i+1]}, nil); err != nil {
			return err
		}
	}
	rotate := func() error {
		app := apps[0]
		apps = apps[1:]
		return s.call(ctx, "POST", "/v1/apps/"+app+"/keys/rotate", s.access.Admin, struct{}{}, nil)
	}
	if err := r.tailOf(ctx, "rotation", "a key rotation", r.Rounds, l, t, rotate); err != nil {
		return err
	}
	if err := r.tailOf(ctx, "revoke", "a user-wide revoke", 1, l, t, func() error { return r.everywhere(ctx) }); err != nil {
		return err
	}
	before, err := s.snapshots()
	if err != nil {
		return err
	}
	if err := r.tailInLives(ctx, l, requests); err != nil {
		return err
	}
	if after, err := s.snapshots(); err != nil {
		return err
	} else if slices.Equal(before, after) {
		r.refuse("tail/snapshot", "failed: no snapshot was written")
	}
	return r.replay(ctx, l, requests)
}

// everywhere logs the user with many sessions out.
func (r *runner) everywhere(ctx context.Context) error {
	var out struct {
		Revoked int `json:"revoked"`
	}
	s := r.system
	if err := s.call(ctx, "POST", "/v1/sessions/revoke", s.access.APIKey, map[string]string{"user_id": crowd}, &out); err != nil {
		return err
	}
	r.report.figure("tail/revoked", "sessions of the user who was logged out everywhere", float64(out.Revoked), "")
	if out.Revoked != s.crowded() {
		return fmt.Errorf("%d of the user's %d sessions were revoked", out.Revoked, s.crowded())
	}
	return nil
}

// tailOf measures rounds of idleness and of trouble by turns, and notes the
// ratio of their p99. The trouble begins with the load.
func (r *runner) tailOf(ctx context.Context, id, what string, rounds int, l Load, t *Target, trouble func() error) error {
	idle, during := &Measured{Name: "idle"}, &Measured{Name: what}
	for range rounds {
		idle.measure(ctx, l, t)
		done := make(chan error, 1)
		go func() { done <- trouble() }()
		during.measure(ctx, l, t)
		if err := <-done; err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	r.noteTail(id, what, idle, during)
	return nil
}

func (r *runner) noteTail(id, what string, idle, during *Measured) {
	for _, m := range []*Measured{idle, during} {
		m.Latency = quantiles(&m.histogram)
	}
	r.report.Comparisons = append(r.report.Comparisons, &Comparison{Scenario: "tail/" + id, Targets: []*Measured{idle, during}})
	r.report.ratio("tail/"+id, "p99 of a verify during "+what+" to that while idle", tailRatio(during, idle))
}

// tailNoise is how many times the p99 of one idle round may be that of another:
// beyond it, as much could be the machine's as the targets allow the node.
const tailNoise = 2

// tailRatio returns the p99 of all rounds to that of all idle ones.
func tailRatio(during, idle *Measured) Ratio {
	for _, m := range []*Measured{during, idle} {
		if t := m.trouble(); t != "" {
			return Ratio{Refused: fmt.Sprintf("failed: %s: %s", m.Name, t)}
		}
	}
	all, _ := idle.values(p99) // each round has one
	if x := slices.Max(all) / slices.Min(all); x > tailNoise {
		return Ratio{Refused: fmt.Sprintf("noisy: the p99 of idle rounds differ by a factor of %.1f", x)}
	}
	return Ratio{Value: during.Latency.P99 / idle.Latency.P99}
}

// tailInLives measures a node that writes snapshots all the time, beside one
// that writes none: each round is two lives of the node.
func (r *runner) tailInLives(ctx context.Context, l Load, requests []Request) error {
	idle, during := &Measured{Name: "idle"}, &Measured{Name: "snapshots"}
	for range r.Rounds {
		for _, life := range []struct {
			m     *Measured
			flags []string
		}{{idle, nil}, {during, []string{"--snapshot-every", busySnapshots}}} {
			if err := r.system.restart(ctx, life.flags...); err != nil {
				return err
			}
			t, err := r.verifyTarget(ctx, "tail", requests)
			if err != nil {
				return err
			}
			warm := l
			warm.Duration = min(l.Duration, 2*time.Second) // and until there is an anchor to write a snapshot from
			warm.Run(ctx, t)
			life.m.measure(ctx, l, t)
		}
	}
	r.noteTail("snapshot", "snapshots", idle, during)
	return nil
}

// replayed is how many events the stream has that is read while verifies of
// another one are measured.
const replayed = 200_000

// replay measures a node that reads the stream of another region from its
// beginning.
func (r *runner) replay(ctx context.Context, l Load, requests []Request) error {
	s := r.system
	n := min(replayed, s.sessions)
	if err := s.node.end(); err != nil {
		return err
	}
	number, err := s.addRegion(ctx, n)
	if err != nil {
		return fmt.Errorf("add another region: %w", err)
	}
	// The node knows nothing of it: its snapshot is older.
	begun := time.Now()
	if err := s.startNode(ctx); err != nil {
		return err
	}
	t, err := r.verifyTarget(ctx, "replay", requests)
	if err != nil {
		return err
	}
	idle, during := &Measured{Name: "idle"}, &Measured{Name: "a replay"}
	last := getVerify("/v1/verify", token(number, n-1).Reveal())
	reading := true
	read := make(chan error, 1)
	go func() {
		read <- until(ctx, startTimeout, func() error { return probe(ctx, "tcp", s.listen, last) })
	}()
	slice := l
	slice.Duration = min(l.Duration, 500*time.Millisecond)
	for reading {
		during.measure(ctx, slice, t)
		select {
		case err := <-read:
			if err != nil {
				return err
			}
			reading = false
		default:
		}
	}
	took := time.Since(begun)
	for range during.Rounds {
		idle.measure(ctx, slice, t)
	}
	r.report.figure("tail/replay/rate", "events of the other region, read from the start of the node on", float64(n)/took.Seconds(), "/s")
	r.noteTail("replay", "the replay of another stream", idle, during)
	return nil
}
