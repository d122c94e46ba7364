package subscribe

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestLacks: what one server alone does not hold is gone at once; of several, one may
// be behind for some time, unless what is heard live says otherwise.
func TestLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := func(r *reader, c *consumer, gone bool) {
			t.Helper()
			if err := r.lacks(c); (err == errGone) != gone || err != nil && !gone {
				t.Errorf("%v, want it to be gone: %v", err, gone)
			}
		}
		one, some := &consumer{empty: true}, &consumer{empty: true, copies: true}
		want(new(reader), one, true)
		want(&reader{proven: true}, one, false)
		want(new(reader), &consumer{}, false)

		r := new(reader)
		want(r, some, false)
		time.Sleep(behindMost - time.Second)
		want(r, some, false)
		want(r, &consumer{copies: true}, false) // it has caught up
		want(r, some, false)
		time.Sleep(behindMost - time.Second)
		want(r, some, false)
		time.Sleep(time.Second)
		want(r, some, true)
		want(&reader{gone: 1}, some, true)
		want(&reader{doubted: time.Now()}, some, true)
	})
}
