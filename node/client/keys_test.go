package client_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/node/client"
	"github.com/revocast/revocast/signer"
)

// keyTest runs the test in a bubble, with a vault of one key and a client of it.
func keyTest(t *testing.T, test func(t *testing.T, v *vault, c *client.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		v := newVault(t, signer.ES256)
		c := v.client()
		client.SetClock(c, &testClock{begin: time.Now()})
		test(t, v, c)
	})
}

// good verifies a fresh JWT of the key.
func (v *vault) good(c *client.Client, k *signer.Key) error {
	_, err := c.Verify(v.t.Context(), v.jwt(k, signer.Native))
	return err
}

// TestKeyRotation: a JWT of a key that is not known yet is taken at once, and many
// at once make one request.
func TestKeyRotation(t *testing.T) {
	keyTest(t, func(t *testing.T, v *vault, c *client.Client) {
		old := v.keys[0]
		if err := v.good(c, old); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(10 * time.Second)
			next := v.add(signer.ES256)
			before := v.fetches()
			hold := make(chan struct{})
			v.set(func() { v.hold = hold })
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() {
					if err := v.good(c, next); err != nil {
						t.Errorf("a JWT of the new key: %v", err)
					}
				})
			}
			synctest.Wait()
			if err := v.good(c, old); err != nil {
				t.Errorf("a JWT of the old key waits for the new one: %v", err)
			}
			v.set(func() { v.hold = nil })
			close(hold)
			all.Wait()
			if n := v.fetches() - before; n != 1 {
				t.Errorf("%d fetches, want 1", n)
			}
		}
	})
}

// TestKeyFlood: whoever makes up key ids makes one request in three seconds.
func TestKeyFlood(t *testing.T) {
	keyTest(t, func(t *testing.T, v *vault, c *client.Client) {
		began := time.Now()
		for range 200 {
			if err := v.good(c, mustKey(t)); !errors.Is(err, client.ErrInvalid) {
				t.Fatalf("a JWT of nobody's key: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n, most := v.fetches(), int(time.Since(began)/(3*time.Second))+2; n > most {
			t.Errorf("%d fetches in %v, want %d at most", n, time.Since(began), most)
		}
	})
}

// TestKeyOutage: while keys cannot be fetched, the last ones count; and when they
// can, those that were taken off the list do not.
func TestKeyOutage(t *testing.T) {
	keyTest(t, func(t *testing.T, v *vault, c *client.Client) {
		old := v.keys[0]
		if err := v.good(c, old); err != nil {
			t.Fatal(err)
		}
		next := v.add(signer.ES256)
		for name, fail := range map[string]func(){
			"503":           func() { v.status = http.StatusServiceUnavailable },
			"404":           func() { v.status = http.StatusNotFound },
			"no JSON":       func() { v.body = "<html>" },
			"no keys":       func() { v.body = `{"issuer":"` + issuer + `"}` },
			"keys null":     func() { v.body = `{"issuer":"` + issuer + `","keys":null}` },
			"another thing": func() { v.body = `{"issuer":7,"keys":[]}` },
		} {
			v.set(func() { v.status, v.body = 0, ""; fail() })
			for range 10 {
				time.Sleep(time.Minute)
				if err := v.good(c, old); err != nil {
					t.Fatalf("%s: a JWT of the key that is known: %v", name, err)
				}
				if err := v.good(c, next); !errors.Is(err, client.ErrStale) { // it may be a new one
					t.Fatalf("%s: a JWT of a key that is not known: %v", name, err)
				}
			}
		}
		v.set(func() { v.status, v.body, v.keys = 0, "", []*signer.Key{next} })
		time.Sleep(client.DefaultKeyAge + time.Minute)
		if err := v.good(c, next); err != nil {
			t.Errorf("after the outage: %v", err)
		}
		if err := v.good(c, old); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("a JWT of a key that was taken off the list: %v", err)
		}
		v.set(func() { v.keys = nil }) // a list that is empty is a list
		time.Sleep(client.DefaultKeyAge + time.Minute)
		if err := v.good(c, next); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("a JWT when there is no key any more: %v", err)
		}
	})
}

// TestKeyStart: a client that starts before the nodes do says that it cannot judge,
// and judges as soon as it can. Who gives up waiting spoils nothing for others.
func TestKeyStart(t *testing.T) {
	keyTest(t, func(t *testing.T, v *vault, c *client.Client) {
		k := v.keys[0]
		v.set(func() { v.status = http.StatusBadGateway })
		for range 5 {
			if err := v.good(c, k); !errors.Is(err, client.ErrStale) {
				t.Fatalf("without keys: %v", err)
			}
			time.Sleep(time.Second)
		}
		hold := make(chan struct{})
		v.set(func() { v.status, v.hold = 0, hold })
		time.Sleep(time.Minute)
		jwt := v.jwt(k, signer.Native)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := c.Verify(ctx, jwt); !errors.Is(err, client.ErrStale) || !errors.Is(err, context.Canceled) {
				t.Errorf("who gave up: %v", err)
			}
		})
		synctest.Wait()
		for range 10 {
			all.Go(func() {
				if _, err := c.Verify(t.Context(), jwt); err != nil {
					t.Errorf("who waited: %v", err)
				}
			})
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		v.set(func() { v.hold = nil })
		close(hold)
		all.Wait()
	})
}

// TestKeyRemembered: what is remembered of a JWT saves its signature, and nothing
// that can change: time, the list of keys.
func TestKeyRemembered(t *testing.T) {
	keyTest(t, func(t *testing.T, v *vault, c *client.Client) {
		jwt := v.jwt(v.keys[0], signer.Native)
		for range 2 {
			if _, err := c.Verify(t.Context(), jwt); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5*time.Minute - time.Second)
		if _, err := c.Verify(t.Context(), jwt); err != nil {
			t.Errorf("a second before it expires: %v", err)
		}
		time.Sleep(time.Second)
		if _, err := c.Verify(t.Context(), jwt); !errors.Is(err, client.ErrExpired) {
			t.Errorf("when it expires: %v", err)
		}
	})
}
