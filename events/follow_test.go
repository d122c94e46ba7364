package events_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/events/eventstest"
)

// tailing is one running Follow.
type tailing struct {
	t       *testing.T
	cancel  context.CancelFunc
	ended   chan struct{}
	err     error // read after ended
	mu      sync.Mutex
	got     []events.Entry // guarded by mu
	changed chan struct{}  // guarded by mu; closed at each change
}

func tailLog(t *testing.T, j events.Log, f events.Follow) *tailing {
	ctx, cancel := context.WithCancel(t.Context())
	tl := &tailing{t: t, cancel: cancel, ended: make(chan struct{}), changed: make(chan struct{})}
	f.Apply = func(e events.Entry) error {
		tl.mu.Lock()
		defer tl.mu.Unlock()
		tl.got = append(tl.got, e)
		close(tl.changed)
		tl.changed = make(chan struct{})
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(tl.ended)
		tl.err = j.Follow(ctx, f)
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return tl
}

// reaches waits for a sequence.
func (tl *tailing) reaches(seq uint64) []events.Entry {
	tl.t.Helper()
	late := time.NewTimer(30 * time.Second)
	defer late.Stop()
	for {
		tl.mu.Lock()
		got, changed := tl.got, tl.changed
		tl.mu.Unlock()
		if len(got) > 0 && got[len(got)-1].Seq >= seq {
			return got
		}
		select {
		case <-changed:
		case <-tl.ended:
			tl.t.Fatalf("following ended at %d entries: %v", len(got), tl.err)
		case <-late.C:
			tl.t.Fatalf("sequence %d was not reached; %d entries", seq, len(got))
		}
	}
}

// fails waits for the end of following with the error.
func (tl *tailing) fails(want error) {
	tl.t.Helper()
	select {
	case <-tl.ended:
		if !errors.Is(tl.err, want) {
			tl.t.Fatalf("following ended with %v, want %v", tl.err, want)
		}
	case <-time.After(30 * time.Second):
		tl.t.Fatalf("following goes on, want %v", want)
	}
}

func beatMessage(t *testing.T, s *site, inc events.Incarnation, n uint64) events.Message {
	t.Helper()
	m, err := s.keys.Encode("eu", &events.Beat{Node: "n1", Incarnation: inc, N: n, Keys: s.keys.IDs()}, nil, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func own(inc events.Incarnation) func(events.Entry) bool {
	return func(e events.Entry) bool { return strings.Contains(e.Subject, "."+inc.String()+"-") }
}

func put(t *testing.T, j events.Log, m events.Message) uint64 {
	t.Helper()
	seq, err := j.Append(t.Context(), m, events.Expectation{})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// TestFollowRestarts restarts the broker under load: every acknowledged event
// is delivered once and in order.
func TestFollowRestarts(t *testing.T) {
	s := newSite(t, false)
	log := s.create(t, s.cluster())
	inc := events.NewIncarnation()
	tl := tailLog(t, log, events.Follow{Anchor: own(inc)})
	var mu sync.Mutex
	acked := map[string]uint64{}
	var wg sync.WaitGroup
	for c := range 32 {
		wg.Go(func() {
			for i := range 30 {
				m := benchMessage(t, s.keys, c*100+i)
				if c == 0 {
					m = beatMessage(t, s, inc, uint64(i))
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				seq, err := log.Append(ctx, m, events.Expectation{})
				cancel()
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				mu.Lock()
				acked[m.Seal] = seq
				mu.Unlock()
			}
		})
	}
	for i := range uint64(3) {
		last := put(t, log, beatMessage(t, s, inc, 1000+i)) // some progress between two restarts
		tl.reaches(last)
		if err := s.b.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	got := tl.reaches(put(t, log, beatMessage(t, s, inc, 5000)))
	at := map[string]uint64{}
	for i, e := range got {
		if i > 0 && e.Seq <= got[i-1].Seq {
			t.Fatalf("%d came after %d", e.Seq, got[i-1].Seq)
		}
		at[e.Seal] = e.Seq
	}
	for seal, seq := range acked {
		if at[seal] < seq {
			t.Errorf("acknowledged as %d, delivered as %d", seq, at[seal])
		}
	}
	if c := log.Counters(); len(c.Resumes) == 0 || c.Rewinds != 0 {
		t.Errorf("counters: %+v", c)
	}
}

// restored is a site with a port, whose log can be set back.
type restored struct {
	*site
	addr string
}

func newRestored(t *testing.T) *restored {
	t.Helper()
	r := &restored{site: &site{t: t, dir: t.TempDir()}}
	var err error
	if r.addr, err = eventstest.FreeAddr(); err != nil {
		t.Fatal(err)
	}
	r.start(r.addr)
	t.Cleanup(func() { r.b.Close() })
	nc, err := nats.Connect(r.b.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	r.nc = nc
	if r.keys, err = events.NewClusterKeys(events.NewClusterKey()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *restored) start(addr string) {
	r.t.Helper()
	b, err := broker.Start(context.Background(), broker.Config{StoreDir: r.dir, Listen: addr})
	if err != nil {
		r.t.Fatal(err)
	}
	r.b = b
}

// save stops the server, copies its store and starts it again.
func (r *restored) save() string {
	r.t.Helper()
	old := filepath.Join(r.t.TempDir(), "old")
	r.b.Close()
	if err := os.CopyFS(old, os.DirFS(filepath.Join(r.dir, "jetstream"))); err != nil {
		r.t.Fatal(err)
	}
	r.start(r.addr)
	return old
}

// restore stops the server, puts the copy in the place of its store and starts
// it again. meanwhile writes to it before anybody else is told the address.
func (r *restored) restore(old string, meanwhile func(*nats.Conn)) {
	r.t.Helper()
	r.b.Close()
	store := filepath.Join(r.dir, "jetstream")
	if err := os.RemoveAll(store); err != nil {
		r.t.Fatal(err)
	}
	if err := os.CopyFS(store, os.DirFS(old)); err != nil {
		r.t.Fatal(err)
	}
	r.start("")
	nc, err := r.b.Connect("meanwhile")
	if err != nil {
		r.t.Fatal(err)
	}
	meanwhile(nc)
	nc.Close()
	r.b.Close()
	r.start(r.addr)
}

// TestFollowRewound sets the log back below what was applied. It is found out
// by the anchor when others wrote meanwhile, even up to where it was or
// beyond; and by the own next append when nobody did.
func TestFollowRewound(t *testing.T) {
	for _, c := range []struct {
		name      string
		meanwhile int
		anchored  bool
		append    bool
	}{
		{"grown beyond, anchored", 30, true, false},
		{"grown beyond, no anchor", 30, false, false},
		{"grown to the same", 10, true, false},
		{"nobody wrote", 0, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRestored(t)
			log := r.create(t, r.cluster())
			inc := events.NewIncarnation()
			f := events.Follow{}
			if c.anchored {
				f.Anchor = own(inc)
			}
			tl := tailLog(t, log, f)
			for i := range 10 {
				put(t, log, benchMessage(t, r.keys, i))
			}
			old := r.save()
			var last uint64
			for i := range 10 {
				last = put(t, log, beatMessage(t, r.site, inc, uint64(i)))
			}
			tl.reaches(last)
			r.restore(old, func(nc *nats.Conn) {
				other, err := events.Open(t.Context(), nc, events.StreamConfig{Region: "eu"})
				if err != nil {
					t.Fatal(err)
				}
				for i := range c.meanwhile {
					put(t, other, benchMessage(t, r.keys, 100+i))
				}
			})
			if c.append {
				put(t, log, beatMessage(t, r.site, inc, 99))
			}
			tl.fails(events.ErrRewound)
			if n := log.Counters().Rewinds; n != 1 {
				t.Errorf("%d rewinds were counted", n)
			}
			// The rebuild begins from the beginning, and goes well.
			info, err := log.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			tailLog(t, log, events.Follow{Anchor: own(inc)}).reaches(info.LastSeq)
		})
	}
}

// TestFollowRecreated deletes the stream below a follower and makes it again.
func TestFollowRecreated(t *testing.T) {
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	tl := tailLog(t, log, events.Follow{})
	tl.reaches(put(t, log, benchMessage(t, s.keys, 1)))
	js, err := jetstream.New(s.nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "EV_eu"); err != nil {
		t.Fatal(err)
	}
	again := s.create(t, s.cluster())
	put(t, again, benchMessage(t, s.keys, 2))
	tl.fails(events.ErrIdentity)
	if _, err := events.Open(t.Context(), s.nc, events.StreamConfig{Region: "eu", Epoch: log.Epoch()}); err == nil {
		t.Error("the stream was opened under its old epoch")
	}
}

// makeAgain deletes the region's stream and makes it again with the same identity.
func (s *site) makeAgain(t *testing.T) {
	t.Helper()
	js, err := jetstream.New(s.nc)
	if err != nil {
		t.Fatal(err)
	}
	old, err := js.Stream(t.Context(), "EV_eu")
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "EV_eu"); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), old.CachedInfo().Config); err != nil {
		t.Fatal(err)
	}
}

// TestFollowMadeAgain deletes the stream below a follower and makes it again with
// the same identity: the log went backwards, and is then followed from its
// beginning.
func TestFollowMadeAgain(t *testing.T) {
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	tl := tailLog(t, log, events.Follow{})
	tl.reaches(put(t, log, benchMessage(t, s.keys, 1)))
	s.makeAgain(t)
	put(t, log, benchMessage(t, s.keys, 2))
	tl.fails(events.ErrRewound)
	tailLog(t, log, events.Follow{}).reaches(put(t, log, benchMessage(t, s.keys, 3)))
}

// rawPublish writes one message with exactly these header bytes.
func rawPublish(t *testing.T, s *site, subject, header, payload string) {
	t.Helper()
	conn, err := s.b.InProcessConn()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var said []byte
	until := func(word string) {
		buf := make([]byte, 4096)
		for !strings.Contains(string(said), word) {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("%q: %v", said, err)
			}
			said = append(said, buf[:n]...)
		}
	}
	until("INFO") // the pipe has no buffer
	_, err = fmt.Fprintf(conn, "CONNECT {\"headers\":true,\"verbose\":false,\"pedantic\":false,\"protocol\":1}\r\nHPUB %s %d %d\r\n%s%s\r\nPING\r\n",
		subject, len(header), len(header)+len(payload), header, payload)
	if err != nil {
		t.Fatal(err)
	}
	until("PONG")
	if strings.Contains(string(said), "-ERR") {
		t.Fatalf("the server said %q", said)
	}
}

// TestFollowHostileHeaders stores authentic events with headers that the
// server and the client library read differently. They are delivered, in their
// place, and none of them verifies unless it is what was sealed.
func TestFollowHostileHeaders(t *testing.T) {
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	m := benchMessage(t, s.keys, 1)
	live := tailLog(t, log, events.Follow{})
	live.reaches(put(t, log, m))
	seal := "Revocast-Seal: " + m.Seal
	hostile := []string{
		"NATS/1.0\r\n" + seal + "\nNats-TTL: 3600\r\n\r\n",                                       // a TTL only the client sees
		"NATS/1.0\r\n" + seal + "\r\nX: y\nNats-TTL: 3600\n\r\nNats-TTL: 86400\r\n\r\n",          // one for each
		"NATS/1.0\r\n" + seal + "\r\nNats-TTL: 7200\r\nNats-TTL: 3600\r\n\r\n",                   // two
		"NATS/1.0\r\n" + seal + "\r\nRevocast-Seal: x\r\nNats-TTL: 3600\r\n\r\n",                 // two seals
		"NATS/1.0\r\nno colon\r\n" + seal + "\r\nNats-TTL: 3600\r\n\r\n",                         // unreadable
		"NATS/1.0\r\n" + seal + "\r\nNats-TTL: 7200\r\n\r\n",                                     // another TTL
		"NATS/1.0\r\nNats-Sequence: 3\r\nNats-Stream: EV_eu\r\n" + seal + "\r\n\r\nX: y\r\n\r\n", // a place of its own
		"NATS/1.0\r\nNats-Sequence: 999999\r\nNats-Stream: EV_eu\r\nNats-Subject: ev.eu.a.b.c.st\r\n" +
			"Nats-Time-Stamp: 2026-01-01T00:00:00Z\r\n" + seal + "\r\n\r\nX: y\r\n\r\n",
		"NATS/1.0\r\nRevocast-Seal:  " + m.Seal + "\r\nNats-TTL: 7200\r\n\r\n", // two spaces
		"NATS/1.0\r\nRevocast-Seal:" + m.Seal + "\r\nNats-TTL:  3600 \r\n\r\n", // none and two
		"NATS/1.0 503\r\n" + seal + "\r\nNats-TTL: 7200\r\n\r\n",               // a status
	}
	for _, h := range hostile {
		rawPublish(t, s, m.Subject+"x", h, string(m.Payload))
		live.reaches(put(t, log, benchMessage(t, s.keys, 7)))
	}
	for i, h := range hostile {
		rawPublish(t, s, fmt.Sprintf("%s%d", m.Subject, i), h, string(m.Payload))
	}
	put(t, log, benchMessage(t, s.keys, 8))
	// What is read again after a break, in another way, is taken for the same.
	if err := s.b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := put(t, log, benchMessage(t, s.keys, 9))
	for name, tl := range map[string]*tailing{"live": live, "later": tailLog(t, log, events.Follow{})} {
		n := 0
		for _, e := range tl.reaches(last) {
			if !strings.HasPrefix(e.Subject, m.Subject) || e.Subject == m.Subject {
				continue
			}
			n++
			e.Subject = m.Subject
			if r := s.keys.Decode(2, e); r.Trust == events.Authentic {
				t.Errorf("%s: entry %d is believed: TTL %v", name, e.Seq, e.TTL)
			}
		}
		if n < len(hostile) {
			t.Errorf("%s: %d hostile entries, want %d at least", name, n, len(hostile))
		}
	}
	if c := log.Counters(); len(c.Resumes) == 0 || c.Rewinds != 0 {
		t.Errorf("counters: %+v", c)
	}
}

// TestFollowForgedLive sends what was never stored to live., as somebody can
// whose server does not forbid it. It must neither stop following nor move its
// position.
func TestFollowForgedLive(t *testing.T) {
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	tl := tailLog(t, log, events.Follow{})
	tl.reaches(put(t, log, benchMessage(t, s.keys, 1)))
	js, err := jetstream.New(s.nc)
	if err != nil {
		t.Fatal(err)
	}
	// The embedded server lets nobody publish there. It delivers there itself
	// what a stream of the stranger's holds.
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "FORGED", Subjects: []string{"forged"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreatePushConsumer(t.Context(), "FORGED", jetstream.ConsumerConfig{
		DeliverSubject: "live.eu.demo.u.s.st", AckPolicy: jetstream.AckNonePolicy,
	})
	if err != nil {
		t.Fatal(err)
	}
	arrived, err := s.nc.SubscribeSync("live.eu.demo.u.s.st")
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range []string{"1", "900", "18446744073709551615", "0", "-1", ""} {
		_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "forged", Data: []byte("{}"), Header: nats.Header{
			"Nats-Stream": {"EV_eu"}, "Nats-Subject": {"ev.eu.demo.u.s.st"}, "Nats-Sequence": {seq},
			"Nats-Time-Stamp": {"2026-01-01T00:00:00Z"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if m, err := arrived.NextMsgWithContext(t.Context()); err != nil || m.Header.Get("Nats-Sequence") != seq {
			t.Fatalf("the forged %q did not arrive: %v", seq, err)
		}
		got := tl.reaches(put(t, log, benchMessage(t, s.keys, 2)))
		for i, e := range got {
			if e.Seq != uint64(i+1) || e.Subject == "ev.eu.demo.u.s.st" {
				t.Fatalf("after a forged %q entry %d is %d on %s", seq, i, e.Seq, e.Subject)
			}
		}
	}
}

// TestFollowReplay reads far behind while there are writes.
func TestFollowReplay(t *testing.T) {
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	var wg sync.WaitGroup
	fill := func(n int) {
		for c := range 16 {
			wg.Go(func() {
				for i := range n / 16 {
					put(t, log, benchMessage(t, s.keys, c*n+i))
				}
			})
		}
	}
	fill(4800)
	wg.Wait()
	fill(1600)
	tl := tailLog(t, log, events.Follow{})
	wg.Wait()
	for i, e := range tl.reaches(put(t, log, benchMessage(t, s.keys, 0))) {
		if e.Seq != uint64(i+1) {
			t.Fatalf("entry %d has sequence %d", i, e.Seq)
		}
	}
}

// TestFollowLeavesNothing counts subscriptions and consumers afterwards.
func TestFollowLeavesNothing(t *testing.T) {
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	js, err := jetstream.New(s.nc)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for c := range 16 {
		wg.Go(func() {
			for i := range 100 { // enough for a bulk read
				put(t, log, benchMessage(t, s.keys, c*100+i))
			}
		})
	}
	wg.Wait()
	before := s.nc.NumSubscriptions()
	for _, end := range []int{1, 700, 1600} {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		err := log.Follow(ctx, events.Follow{Apply: func(events.Entry) error {
			if n++; n == end {
				cancel()
			}
			return nil
		}})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	if after := s.nc.NumSubscriptions(); after > before {
		t.Errorf("%d subscriptions before, %d after", before, after)
	}
	stream, err := js.Stream(t.Context(), "EV_eu")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Consumers; n != 0 {
		t.Errorf("%d consumers are left", n)
	}
}
