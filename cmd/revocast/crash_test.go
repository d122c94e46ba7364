package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/revocast/revocast/node/api"
)

// The program itself, built once, is killed, stopped and pasted from.
func TestProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT TESTED with -short: needs the built program")
	}
	if underRace {
		t.Skip("SKIPPED under the race detector: the program is not built with it")
	}
	bin := filepath.Join(t.TempDir(), "revocast")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for name, test := range map[string]func(*testing.T, string){
		"KillLosesNothingAcknowledged": testKill, "SignalsStopInOrder": testSignals,
		"PrintedCurlLines": testCurlLines, "FullDisk": testFullDisk, "MemoryLimit": testMemoryLimit, "PowerCut": testPowerCut, "TwoNodesOneServer": testTwoNodes, "TwoRegions": testTwoRegions, "ThreeRegions": testThreeRegions, "Mirror": testMirror, "ImportSurvivesKills": testImportKill, "FeedSurvivesKills": testFeedKill,
	} {
		t.Run(name, func(t *testing.T) { test(t, bin) })
	}
}

// serving is a serve process and how to reach it.
type serving struct {
	*process
	url, apiKey, app string
}

// serve starts the program on the data directory.
func serve(t *testing.T, bin, data string, flags ...string) *serving {
	t.Helper()
	cmd := exec.Command(bin, append([]string{"serve", "--data", data, "--listen", "127.0.0.1:0", "--metrics-listen", ""}, flags...)...)
	p, err := startProcess(cmd)
	if err != nil {
		t.Fatalf("serve: %v\n%s%s", err, p.out, p.stderr)
	}
	t.Cleanup(p.kill)
	b, err := dataDir(data).readBootstrap()
	if err != nil || b == nil {
		t.Fatalf("bootstrap.json: %v, %v", b, err)
	}
	return &serving{process: p, url: b.URL, apiKey: b.APIKey, app: b.App}
}

// post sends in and reads the answer into out; it returns the status, 0 when
// no answer came.
func (s *serving) post(ctx context.Context, c *http.Client, path, key string, in, out any) int {
	body, err := json.Marshal(in)
	if err != nil {
		panic(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+path, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if out != nil && resp.StatusCode < 300 {
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			return 0 // cut off: not acknowledged
		}
	}
	return resp.StatusCode
}

// verify returns the status of /v1/verify for the token.
func (s *serving) verify(t *testing.T, c *http.Client, token string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/verify", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// acknowledged is what a worker was told. A session whose revocation was asked
// for and not answered may be either.
type acknowledged struct {
	active, revoked, asked []string // tokens
}

// load creates sessions, and revokes each second one, until no answer comes any
// more; progress is called after each acknowledgement.
func (s *serving) load(ctx context.Context, c *http.Client, worker int, progress func()) (a acknowledged, unexpected error) {
	for i := 0; ; i++ {
		var made api.SessionAnswer
		switch status := s.post(ctx, c, "/v1/sessions", s.apiKey, api.CreateSession{UserID: fmt.Sprintf("user-%d-%d", worker, i)}, &made); status {
		case 0:
			return a, nil
		case http.StatusCreated:
		default:
			return a, fmt.Errorf("create answered %d", status)
		}
		progress()
		if i%2 == 0 {
			a.active = append(a.active, made.SessionToken)
			continue
		}
		var answer api.RevokeAnswer
		switch status := s.post(ctx, c, "/v1/sessions/revoke", s.apiKey, api.Revoke{SessionToken: made.SessionToken}, &answer); {
		case status == 0:
			a.asked = append(a.asked, made.SessionToken)
			return a, nil
		case status != http.StatusOK || answer.Revoked != 1:
			return a, fmt.Errorf("revoke answered %d, %+v", status, answer)
		}
		progress()
		a.revoked = append(a.revoked, made.SessionToken)
	}
}

// A node that is killed in the middle of creates and revokes has, when it
// comes back, every one that it acknowledged.
func testKill(t *testing.T, bin string) {
	const rounds, workers = 3, 16
	data := filepath.Join(t.TempDir(), "data")
	var all acknowledged
	for round := range rounds {
		s := serve(t, bin, data)
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}, Timeout: 30 * time.Second}
		// The kill comes at a random acknowledgement, so in the middle of others.
		killAt := 500 + rand.IntN(1500)
		acks := make(chan struct{}, 1)
		var wg sync.WaitGroup
		var mu sync.Mutex // guards what the workers add to
		var round1 acknowledged
		for w := range workers {
			wg.Go(func() {
				a, err := s.load(t.Context(), client, round*workers+w, func() { acks <- struct{}{} })
				mu.Lock()
				defer mu.Unlock()
				round1.active = append(round1.active, a.active...)
				round1.revoked = append(round1.revoked, a.revoked...)
				round1.asked = append(round1.asked, a.asked...)
				if err != nil {
					t.Error(err)
				}
			})
		}
		finished := make(chan struct{})
		go func() { wg.Wait(); close(finished) }()
		for n, killed := 0, false; ; {
			select {
			case <-acks:
				if n++; n >= killAt && !killed {
					s.kill()
					killed = true
				}
				continue
			case <-finished:
			}
			break
		}
		all.active = append(all.active, round1.active...)
		all.revoked = append(all.revoked, round1.revoked...)
		client.CloseIdleConnections()

		s = serve(t, bin, data)
		lost, revived := 0, 0
		for _, token := range all.active {
			if status := s.verify(t, client, token); status != http.StatusNoContent {
				lost++
				t.Errorf("an acknowledged session is answered %d", status)
			}
		}
		for _, token := range all.revoked {
			if status := s.verify(t, client, token); status != http.StatusUnauthorized {
				revived++
				t.Errorf("an acknowledged revocation is answered %d", status)
			}
		}
		t.Logf("round %d: killed at acknowledgement %d; creates %d + revokes %d acknowledged in it, %d revokes unanswered; of %d sessions and %d revocations since the beginning, lost %d and %d",
			round+1, killAt, len(round1.active)+len(round1.revoked)+len(round1.asked), len(round1.revoked), len(round1.asked), len(all.active), len(all.revoked), lost, revived)
		if len(round1.active) == 0 || len(round1.revoked) == 0 {
			t.Error("the load did nothing")
		}
		s.kill()
		client.CloseIdleConnections()
	}
}

// Each signal that asks for an end gets one: orderly, with exit code 0, soon,
// also while requests come in.
func testSignals(t *testing.T, bin string) {
	data := filepath.Join(t.TempDir(), "data")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		s := serve(t, bin, data)
		ctx, cancel := context.WithCancel(t.Context())
		busy := make(chan struct{}, 1)
		var wg sync.WaitGroup
		wg.Go(func() {
			for ctx.Err() == nil {
				var made api.SessionAnswer
				if s.post(ctx, http.DefaultClient, "/v1/sessions", s.apiKey, api.CreateSession{UserID: "ada"}, &made) == http.StatusCreated {
					select {
					case busy <- struct{}{}:
					default:
					}
				}
			}
		})
		<-busy
		begun := time.Now()
		if err := s.signal(sig); err != nil {
			t.Errorf("%v: ended with %v\n%s", sig, err, s.stderr)
		}
		took := time.Since(begun)
		cancel()
		wg.Wait()
		t.Logf("%v: ended after %v", sig, took)
		if took > shutdownTimeout {
			t.Errorf("%v: ended only after %v", sig, took)
		}
		if strings.Contains(s.stderr.String(), "farewell was not written") {
			t.Errorf("%v: no farewell:\n%s", sig, s.stderr)
		}
	}
}

// What serve prints can be pasted into a shell, and does what it says.
func testCurlLines(t *testing.T, bin string) {
	for _, tool := range []string{"curl", "sed", "sh"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("NOT TESTED on this machine: the lines that serve prints need %s: %v", tool, err)
		}
	}
	s := serve(t, bin, filepath.Join(t.TempDir(), "data"))
	_, lines, ok := strings.Cut(s.out.String(), "a session:\n\n")
	if !ok || strings.Count(lines, "curl ") != 3 {
		t.Fatalf("serve printed no three curl lines:\n%s", s.out)
	}
	// The same verify again must be refused.
	verify := strings.Split(lines, "\n")[1]
	cmd := exec.Command("sh")
	cmd.Stdin = strings.NewReader(lines + "\necho\n" + verify + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("sh: %v\n%s", err, out)
	}
	want := regexp.MustCompile(`(?s)^[A-Za-z0-9_-]{44}\n.*200 OK.*"user_id":"ada".*"revoked":1.*401 Unauthorized.*revoked`)
	if !want.Match(out) {
		t.Errorf("the lines gave\n%s\nwant a match of %v", out, want)
	}
}
