package subscribe_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/subscribe"
)

func ignore(context.Context, subscribe.Revocation) error { return nil }

// TestRefused has Run say what is wrong, and what to do.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	type sub = subscribe.Subscriber
	for want, change := range map[string]func(*sub){
		"no Conn":            func(c *sub) { c.Conn = nil },
		`bad Region "EU"`:    func(c *sub) { c.Region = "EU" },
		`bad Region "_conf`:  func(c *sub) { c.Region = events.ConfigRegion },
		`bad App "a.>"`:      func(c *sub) { c.App = "a.>" },
		`bad App ""`:         func(c *sub) { c.App = "" },
		`bad Name "a+b"`:     func(c *sub) { c.Name = "a+b" },
		`bad Domain "*"`:     func(c *sub) { c.Domain = "*" },
		"name with Create":   func(c *sub) { c.Create, c.Name = true, "x" },
		`it is of region us`: func(c *sub) { c.From = subscribe.Cursor{Region: "us", Seq: 7, At: time.Unix(1, 0)} },
		// What is not there.
		"nobody answers for the durable consumer rev_app+second of stream EV_eu: an operator makes it (revocast subscriber create)": func(c *sub) {
			c.Conn, c.Name = s.connect(t, "operator", nil), "second"
		},
		"nobody answers for the durable consumer rev_app of stream EV_mars: an operator makes it": func(c *sub) {
			c.Conn, c.Region = s.connect(t, "operator", nil), "mars"
		},
		"region mars: the stream does not exist": func(c *sub) {
			c.Conn, c.Create, c.Region = s.connect(t, "operator", nil), true, "mars"
		},
		// What the user may not.
		"no permission to subscribe to live.eu.other.*.*.": func(c *sub) { c.App = "other" },
		"no permission to publish to $JS.API.CONSUMER.RESET.EV_eu.rev_app+second": func(c *sub) {
			c.Name = "second"
		},
		"no permission to publish to $JS.API.STREAM.INFO.EV_eu": func(c *sub) { c.Create = true },
	} {
		c := s.subscriber(t)
		c.OnError = nil
		c.Hasten(100*time.Millisecond, 0)
		change(c)
		if err := c.Run(t.Context(), ignore); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := s.subscriber(t).Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "no handle") {
		t.Errorf("without handle: %v", err)
	}
}

// TestEnded closes the connection under Run, and has handle end with ctx.
func TestEnded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.revoke(t, 0, 1)
	sub, w := s.subscriber(t), newTold()
	ended := make(chan error, 1)
	go func() { ended <- sub.Run(t.Context(), w.handle) }()
	w.await(t, 1)
	sub.Conn.Close()
	if err := <-ended; !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("without a connection: %v", err)
	}
	s.revoke(t, 1, 1)
	ctx, cancel := context.WithCancel(t.Context())
	err := s.subscriber(t).Run(ctx, func(ctx context.Context, _ subscribe.Revocation) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	})
	if err != nil {
		t.Errorf("ended: %v", err)
	}
}

// TestOtherDurable is one of that name that something else made.
func TestOtherDurable(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	js, err := jetstream.New(s.connect(t, "operator", nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteConsumer(t.Context(), "EV_eu", "rev_app"); err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateConsumer(t.Context(), "EV_eu", jetstream.ConsumerConfig{
		Durable: "rev_app", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "ev.eu.other.*.*.rev",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.subscriber(t).Run(t.Context(), ignore); !errors.Is(err, subscribe.ErrDurable) {
		t.Errorf("run: %v", err)
	}
}

// TestDurableDeleted deletes the durable under a subscriber, which goes on with
// what it hears live, and with all once there is a durable again.
func TestDurableDeleted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	w := newTold()
	sub := s.subscriber(t)
	missing := make(chan error, 1)
	sub.OnError = func(err error) {
		if errors.Is(err, subscribe.ErrNoDurable) {
			select {
			case missing <- err:
			default:
			}
		}
	}
	run(t, sub, w.handle)
	s.revoke(t, 0, 5)
	w.await(t, 5)
	operator, c := s.connect(t, "operator", nil), events.SubscriberConfig{Region: region, App: app}
	if err := events.DeleteSubscriber(t.Context(), operator, c); err != nil {
		t.Fatal(err)
	}
	<-missing
	s.revoke(t, 5, 5)
	w.await(t, 10)
	if err := events.CreateSubscriber(t.Context(), operator, c); err != nil {
		t.Fatal(err)
	}
	s.revoke(t, 10, 5)
	wantOnce(t, w.await(t, 15), 15)
}

// TestKinds has all that can be on these subjects, with and without the keys.
func TestKinds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	at := time.UnixMilli(1764428400123).UTC()
	encode := func(e events.Event) events.Message {
		m, err := s.keys.Encode(region, e, nil, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	one := encode(&events.Revoke{App: app, User: "ada", SID: sid(1), Reason: "stolen", By: "admin", At: at.UnixMilli()})
	all := encode(&events.RevokeAll{App: app, User: "ada", Except: []events.SID{sid(2)}, Reason: "out", By: "user", At: at.UnixMilli()})
	away := encode(&events.RevokeAll{App: app, User: "bob", At: at.UnixMilli(), Home: 3})
	whole := encode(&events.RevokeAll{App: app, At: at.UnixMilli()})
	forged := events.Message{Subject: one.Subject, Payload: all.Payload, Seal: one.Seal}
	spared := all // somebody spares a session
	spared.Payload = []byte(strings.Replace(string(all.Payload), sid(2).String(), sid(9).String(), 1))
	bad := events.Message{Subject: "ev.eu.app.u." + sid(3).String() + ".rev", Payload: []byte("not JSON")}
	newer := events.Message{Subject: "ev.eu.app.u." + sid(4).String() + ".rev", Payload: []byte(`{"v":7}`)}
	junk := events.Message{Subject: "ev.eu.app.u.nobody.rev", Payload: []byte("{}")}
	hash := events.UserHash(app, "ada")

	type rev = subscribe.Revocation
	steps := []struct {
		name     string
		m        events.Message
		with     rev // the keys
		without  rev
		err, bad error
	}{
		{"one", one, rev{SID: sid(1), Stream: 2, User: "ada", UserHash: hash, Reason: "stolen", By: "admin", Verified: true},
			rev{SID: sid(1), Stream: 2, User: "ada", UserHash: hash, Reason: "stolen", By: "admin"}, nil, nil},
		{"all of a user", all, rev{Stream: 2, User: "ada", UserHash: hash, Except: []events.SID{sid(2)}, Reason: "out", By: "user", Verified: true},
			rev{Stream: 2, User: "ada", UserHash: hash, Except: []events.SID{sid(2)}, Reason: "out", By: "user"}, nil, nil},
		{"recorded elsewhere", away, rev{Stream: 3, User: "bob", UserHash: events.UserHash(app, "bob"), Verified: true},
			rev{Stream: 3, User: "bob", UserHash: events.UserHash(app, "bob")}, nil, nil},
		{"all of the app", whole, rev{Stream: 2, Verified: true}, rev{Stream: 2}, nil, nil},
		{"something else's payload", forged, rev{SID: sid(1), Stream: 2, UserHash: hash}, rev{SID: sid(1), Stream: 2, UserHash: hash},
			subscribe.ErrForged, subscribe.ErrForged},
		{"changed", spared, rev{Stream: 2, UserHash: hash},
			rev{Stream: 2, User: "ada", UserHash: hash, Except: []events.SID{sid(9)}, Reason: "out", By: "user"}, subscribe.ErrForged, nil},
		{"no JSON", bad, rev{SID: sid(3), Stream: 2, UserHash: "u"}, rev{SID: sid(3), Stream: 2, UserHash: "u"},
			subscribe.ErrForged, subscribe.ErrUnreadable},
		{"newer", newer, rev{SID: sid(4), Stream: 2, UserHash: "u"}, rev{SID: sid(4), Stream: 2, UserHash: "u"},
			subscribe.ErrForged, subscribe.ErrUnreadable},
	}
	for name, keys := range map[string]*events.ClusterKeys{"with keys": s.keys, "without": nil} {
		t.Run(name, func(t *testing.T) {
			w := newTold()
			sub := &subscribe.Subscriber{Conn: s.node, Region: region, App: app, Create: true, Keys: keys}
			var mu sync.Mutex
			var said []error
			sub.OnError = func(err error) { mu.Lock(); defer mu.Unlock(); said = append(said, err) }
			info, err := s.log.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			before := info.LastSeq
			run(t, sub, w.handle)
			if err := inject(s.node, junk); err != nil { // told of to OnError alone
				t.Fatal(err)
			}
			told := 0
			for _, step := range steps {
				if err := inject(s.node, step.m); err != nil {
					t.Fatal(err)
				}
				want, wantErr := step.without, step.bad
				if keys != nil {
					want, wantErr = step.with, step.err
				}
				var got rev
				for got.Position.Seq <= before {
					told++
					got = w.await(t, told)[told-1]
				}
				before = got.Position.Seq
				if !errors.Is(got.Err, wantErr) || (got.Err == nil) != (wantErr == nil) {
					t.Errorf("%s: error %v, want %v", step.name, got.Err, wantErr)
				}
				if wantAt := at; got.Err == nil && !got.At.Equal(wantAt) || got.Err != nil && !got.At.Equal(got.Time) {
					t.Errorf("%s: at %v", step.name, got.At)
				}
				got.Position, got.Cursor, got.At, got.Time, got.Err, got.Late = want.Position, want.Cursor, want.At, want.Time, want.Err, false
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%s:\n%+v, want\n%+v", step.name, got, want)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if !slices.ContainsFunc(said, func(err error) bool { return strings.Contains(err.Error(), "nobody.rev names nobody") }) {
				t.Errorf("nothing was said of a subject that names nobody: %v", said)
			}
		})
	}
}

// inject stores a message as a raw client would.
func inject(nc *nats.Conn, m events.Message) error {
	msg := &nats.Msg{Subject: m.Subject, Data: m.Payload, Header: nats.Header{}}
	if m.Seal != "" {
		msg.Header["Revocast-Seal"] = []string{m.Seal}
		msg.Header["Nats-TTL"] = []string{fmt.Sprint(int(m.TTL / time.Second))}
	}
	if m.TTL == 0 {
		delete(msg.Header, "Nats-TTL")
	}
	_, err := nc.RequestMsg(msg, 5*time.Second)
	return err
}

// TestImitated has somebody publish to live. what no log holds: without keys it is
// told, as nothing tells it from a copy, and takes nothing away from what follows;
// with keys it is not.
func TestImitated(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	link := s.connect(t, "backbone", nil) // may publish to live., as a link does
	w := newTold()
	sub := &subscribe.Subscriber{Conn: s.node, Region: region, App: app, Create: true, Keys: s.keys}
	run(t, sub, w.handle)
	s.revoke(t, 0, 1)
	w.await(t, 1)
	for seq := uint64(1); seq < 60; seq++ {
		m := &nats.Msg{Subject: "live.eu.app.u." + sid(500).String() + ".rev", Data: []byte("{}"), Header: nats.Header{
			"Nats-Stream": {"EV_eu"}, "Nats-Subject": {"ev.eu.app.u." + sid(500).String() + ".rev"},
			"Nats-Sequence": {fmt.Sprint(seq)}, "Nats-Time-Stamp": {time.Now().UTC().Format(time.RFC3339Nano)},
		}}
		if err := link.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range []nats.Header{
		nil, {"Nats-Stream": {"EV_eu"}}, {"Nats-Stream": {"EV_us"}, "Nats-Subject": {""}, "Nats-Sequence": {"9"}},
		{"Nats-Stream": {"EV_eu"}, "Nats-Subject": {"e"}, "Nats-Sequence": {"99"}, "Nats-Time-Stamp": {"2026-01-01T00:00:00Z"}},
		{"Nats-Stream": {"EV_eu"}, "Nats-Subject": {"ev.eu.other.-.-.all"}, "Nats-Sequence": {"99"}, "Nats-Time-Stamp": {"0001-01-01T00:00:00Z"}},
		{"Nats-Stream": {"EV_eu"}, "Nats-Sequence": {"18446744073709551616"}},
	} {
		if err := link.PublishMsg(&nats.Msg{Subject: "live.eu.app.-.-.all", Header: h}); err != nil {
			t.Fatal(err)
		}
	}
	if err := link.FlushTimeout(time.Second); err != nil {
		t.Fatal(err)
	}
	s.revoke(t, 1, 49)
	wantOnce(t, w.await(t, 50), 50)
}

// TestCreate needs no durable, and leaves no consumer behind.
func TestCreate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	w := newTold()
	var at subscribe.Cursor
	for part := range 3 {
		sub := &subscribe.Subscriber{Conn: s.node, Region: region, App: app, Create: true, From: at, Keys: s.keys}
		sub.Rewound = func(context.Context) error { t.Error("rewound"); return nil }
		s.revoke(t, part*100, 50) // missed live
		stop := run(t, sub, w.handle)
		w.await(t, part*100+50)
		s.revoke(t, part*100+50, 50)
		all := w.await(t, part*100+100)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		at = all[len(all)-1].Cursor
		parsed, err := subscribe.ParseCursor(at.String())
		if err != nil || parsed != at {
			t.Fatalf("cursor %v became %v, %v", at, parsed, err)
		}
	}
	wantOnce(t, w.copied(), 300)
	js, err := jetstream.New(s.connect(t, "operator", nil))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "EV_eu")
	if err != nil {
		t.Fatal(err)
	}
	for name := range stream.ConsumerNames(t.Context()).Name() {
		if strings.HasPrefix(name, "sub_") {
			t.Errorf("consumer %s is left", name)
		}
	}
}

func TestCursor(t *testing.T) {
	for _, text := range []string{"", "eu:0:1:1", "eu:4294967295:18446744073709551615:1764428400123456789"} {
		c, err := subscribe.ParseCursor(text)
		if err != nil || c.String() != text {
			t.Errorf("%q became %q, %v", text, c, err)
		}
	}
	for _, text := range []string{"eu", "eu:0:1", "eu:0:0:1", "eu:0:1:0", "eu:0:1:-1", "eu:0:1:x", "EU:0:1:1", "_config:0:1:1", ":0:1:1", "eu:0:1:1:1", "eu:4294967296:1:1"} {
		if c, err := subscribe.ParseCursor(text); err == nil {
			t.Errorf("%q is %+v", text, c)
		}
	}
}
