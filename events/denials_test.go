package events_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/events"
)

// TestDenials: one permission is named once, however many subjects it covers,
// and forgotten when it is no longer missed.
func TestDenials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d events.Denials
		note := func(verb, subject string) {
			d.Note(fmt.Errorf("send: %w", &events.DeniedError{Verb: verb, Subject: subject}))
		}
		for i := range 500 {
			note("publish to", fmt.Sprintf("ev.eu.-.n1.%d.hb", i))
		}
		for _, s := range []string{"$JS.API.STREAM.INFO.EV_eu", "$JS.us.API.CONSUMER.CREATE.EV_us.x", "$JS.API.DIRECT.GET.EV_eu.>"} {
			note("publish to", s)
		}
		note("subscribe to", "live.eu.>")
		note("subscribe to", "_INBOX.abc.def")
		note("publish to", "confirm.eu.x.y")
		d.Note(errors.New("connection lost"))
		d.Note(events.ErrDenied)
		want := []string{
			"publish $JS.API.DIRECT.GET.>", "publish $JS.API.STREAM.INFO.>", "publish $JS.us.API.CONSUMER.CREATE.>",
			"publish confirm.>", "publish ev.eu.>", "subscribe _INBOX.>", "subscribe live.eu.>",
		}
		if diff := cmp.Diff(want, d.Within(time.Minute)); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		time.Sleep(2 * time.Minute)
		note("publish to", "ev.eu.x")
		if diff := cmp.Diff([]string{"publish ev.eu.>"}, d.Within(time.Minute)); diff != "" {
			t.Errorf("later: -want +got\n%s", diff)
		}
		for i := range 1000 {
			note("publish to", fmt.Sprint("other", i))
		}
		if n := len(d.Within(time.Minute)); n != 64 {
			t.Errorf("%d permissions are remembered", n)
		}
	})
}
