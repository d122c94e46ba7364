package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/revocast/revocast/events/eventstest"
	"github.com/revocast/revocast/node/api"
)

// What is promised of a feed, in full:
//
//	go test ./cmd/revocast -run TestProgram/FeedSurvivesKills -v -timeout 0 -feed-readers 2000 -feed-revocations 1000
var (
	feedReadersFlag     = flag.Int("feed-readers", 200, "readers of the feed in TestProgram/FeedSurvivesKills")
	feedRevocationsFlag = flag.Int("feed-revocations", 150, "sessions that TestProgram/FeedSurvivesKills revokes")
)

// feedFollower follows the feed, and connects again behind the last id whenever it
// breaks, as an EventSource does.
type feedFollower struct {
	url, key string
	hello    func()
	last     string
	sids     []string
}

// follow returns once it has heard of so many revocations, or ctx ends.
func (f *feedFollower) follow(ctx context.Context, c *http.Client, want int) error {
	for len(f.sids) < want {
		err := f.once(ctx, c, want)
		if ctx.Err() != nil {
			return fmt.Errorf("after %d revocations: %w", len(f.sids), err)
		}
		select {
		case <-time.After(20 * time.Millisecond): // the node is being restarted
		case <-ctx.Done():
		}
	}
	return nil
}

func (f *feedFollower) once(ctx context.Context, c *http.Client, want int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+"/v1/events?types=session.revoked", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+f.key)
	if f.last != "" {
		req.Header.Set("Last-Event-ID", f.last)
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	lines := bufio.NewScanner(resp.Body)
	id, name := "", ""
	for len(f.sids) < want && lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			_, rest, _ := strings.Cut(value, `"session_id":"`)
			if sid, _, ok := strings.Cut(rest, `"`); ok && name == api.EventRevoked {
				f.sids = append(f.sids, sid)
			}
		case "":
			f.last = id
			if name == "hello" {
				f.hello()
			}
			name = ""
		}
	}
	return lines.Err()
}

// residentKB returns how much memory the process has.
func residentKB(t *testing.T, pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Logf("NOT MEASURED: %v", err)
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kb, _ := strconv.Atoi(strings.Fields(rest)[0])
	return kb
}

// Each of many readers hears each revocation once and in order, though the node is
// killed and begins anew in between.
func testFeedKill(t *testing.T, bin string) {
	readers, revocations := *feedReadersFlag, *feedRevocationsFlag
	data := filepath.Join(t.TempDir(), "data")
	addr, err := eventstest.FreeAddr() // not of those that the clients get
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, bin, data, "--listen", addr)
	client := &http.Client{Transport: &http.Transport{MaxIdleConns: 1, DisableCompression: true}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()

	sids := make([]string, revocations)
	for i := range sids {
		var made api.SessionAnswer
		if status := s.post(ctx, client, "/v1/sessions", s.apiKey, map[string]string{"user_id": "user-" + strconv.Itoa(i)}, &made); status != http.StatusCreated {
			t.Fatalf("create: status %d", status)
		}
		sids[i] = made.Session.SessionID
	}
	before := residentKB(t, s.cmd.Process.Pid)
	var hellos atomic.Int64
	var running sync.WaitGroup
	all := make([]*feedFollower, readers)
	for i := range all {
		all[i] = &feedFollower{url: s.url, key: s.apiKey, hello: func() { hellos.Add(1) }}
		running.Go(func() {
			if err := all[i].follow(ctx, client, revocations); err != nil {
				t.Errorf("reader %d: %v", i, err)
			}
		})
	}
	for int(hellos.Load()) < readers {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%d of %d readers are connected", hellos.Load(), readers)
		}
	}
	connected := residentKB(t, s.cmd.Process.Pid)
	begun := time.Now()
	for i, sid := range sids {
		if i == revocations/3 || i == 2*revocations/3 {
			s.kill()
			s = serve(t, bin, data, "--listen", addr)
		}
		for s.post(ctx, client, "/v1/sessions/revoke", s.apiKey, map[string]string{"session_id": sid}, new(api.RevokeAnswer)) != http.StatusOK {
			if ctx.Err() != nil {
				t.Fatal(ctx.Err())
			}
		}
	}
	running.Wait()
	t.Logf("%d readers, %d revocations, 2 kills: %.1f s; memory of the node %d kB, with its readers %d kB: %.1f kB a reader",
		readers, revocations, time.Since(begun).Seconds(), before, connected, float64(connected-before)/float64(readers))
	for i, f := range all {
		if !slices.Equal(f.sids, sids) {
			t.Errorf("reader %d heard of %d revocations of %d, or in another order", i, len(f.sids), revocations)
		}
	}
}
