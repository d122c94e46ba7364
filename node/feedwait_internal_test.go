package node

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// halfLog is a log whose connection breaks in the middle of a read, which takes long.
type halfLog struct {
	events.Log
	held []events.Entry
}

func (l *halfLog) Read(_ context.Context, r events.Range, fn func(events.Entry) bool) error {
	time.Sleep(feedBeat + time.Second)
	for _, e := range l.held {
		if e.Seq >= r.From && !fn(e) {
			return nil
		}
	}
	return errors.New("the connection broke")
}

// A stream that is left while a heartbeat is due has no part in what that promises: what
// happened there was not told.
func TestFeedPromisesNothingOfWhatItLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFed(t)
		log := &halfLog{Log: f.settings.log}
		for i := range feedChunk + 100 {
			a := &events.App{App: "acme", State: events.AppActive, Prev: uint64(i)}
			if i%2 == 1 {
				a.State = events.AppSuspended
			}
			m, err := f.keys.Encode(events.ConfigRegion, a, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			e := events.Entry{Seq: uint64(i + 1), Time: f.conf.Clock.Wall(), Message: m}
			log.held = append(log.held, e)
			if err := errors.Join(f.settings.take(e), f.settings.flush()); err != nil {
				t.Fatal(err)
			}
		}
		f.settings.log = log
		for _, s := range []*stream{f.settings, f.home} {
			s.lease.deadline.Store(math.MaxInt64)
			s.lease.proven.Store(int64(f.conf.Clock.Boot()))
		}
		cursor, err := events.ParseRevision("_config:0:0,eu:0:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		w := httptest.NewRecorder()
		f.serveFeed(ctx, newSSEWriter(w), f.reader(cursor), &api.FeedHello{}, nil, func() bool { return true })
		beats := 0
		for frame := range strings.SplitSeq(w.Body.String(), "\n\n") {
			_, data, ok := strings.Cut(frame, "event: heartbeat\ndata: ")
			if !ok {
				continue
			}
			var h api.FeedHeartbeat
			if err := json.Unmarshal([]byte(data), &h); err != nil {
				t.Fatal(err)
			}
			beats++
			for _, s := range h.Streams {
				if s.Region == events.ConfigRegion && s.Stale == "" {
					t.Errorf("heartbeat %d at %s promises all of CONFIG", beats, h.Revision)
				}
			}
		}
		if beats < 2 {
			t.Errorf("%d heartbeats: %.300s", beats, w.Body)
		}
	})
}
