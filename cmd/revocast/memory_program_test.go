package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/revocast/revocast/node/api"
)

// testMemoryLimit fills the memory that a node may take: then it refuses to
// create, and says why, and does all else, and is not killed.
func testMemoryLimit(t *testing.T, bin string) {
	for name, flags := range map[string][]string{"Flag": {"--memory-limit", "128MiB"}, "GOMEMLIMIT": nil} {
		t.Run(name, func(t *testing.T) {
			if flags == nil {
				t.Setenv("GOMEMLIMIT", "128MiB")
			}
			s := serve(t, bin, t.TempDir(), flags...)
			client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			var mu sync.Mutex // guards tokens
			var tokens []string
			var all sync.WaitGroup
			for w := range 32 {
				all.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						token, refused := s.createBig(ctx, client, fmt.Sprintf("user-%d-%d", w, i))
						switch refused {
						case "":
							mu.Lock()
							tokens = append(tokens, token)
							mu.Unlock()
						case api.MemoryFull:
							return
						default:
							t.Errorf("create %d of worker %d: %s", i, w, refused)
							return
						}
					}
				})
			}
			all.Wait()
			if ctx.Err() != nil || len(tokens) < 1000 {
				t.Fatalf("%d sessions: %v", len(tokens), ctx.Err())
			}
			t.Logf("refused after %d sessions; resident at most %s, now %s beside files", len(tokens),
				resident(s.cmd.Process.Pid, "VmHWM"), resident(s.cmd.Process.Pid, "RssAnon"))
			for i := 0; i < len(tokens); i += 1 + len(tokens)/200 {
				if got := s.verify(t, client, tokens[i]); got != http.StatusNoContent {
					t.Fatalf("verify of a session answered %d", got)
				}
			}
			revoked := new(api.RevokeAnswer)
			if got := s.post(ctx, client, "/v1/sessions/revoke", s.apiKey, api.Revoke{SessionToken: tokens[0]}, revoked); got != 200 || revoked.Revoked != 1 {
				t.Errorf("revoke answered %d, %v", got, revoked)
			}
			if got := s.verify(t, client, tokens[0]); got != http.StatusUnauthorized {
				t.Errorf("verify of a revoked session answered %d", got)
			}
			if _, refused := s.createBig(ctx, client, "late"); refused != api.MemoryFull {
				t.Errorf("one more create: %q", refused)
			}
			resp, err := client.Get(s.url + "/readyz")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var ready api.Ready
			if err := json.NewDecoder(resp.Body).Decode(&ready); err != nil || !ready.Ready || ready.Memory == nil ||
				!ready.Memory.Full || ready.Memory.LimitBytes != 128<<20 {
				t.Errorf("readyz: %v, %+v, %+v", err, ready.Ready, ready.Memory)
			}
		})
	}
}

// createBig creates a session with a private part of nearly 8 KiB. It returns its
// token, or why it was refused.
func (s *serving) createBig(ctx context.Context, c *http.Client, user string) (token, refused string) {
	text, err := json.Marshal(map[string]string{"text": strings.Repeat("x", 7500)})
	if err != nil {
		return "", err.Error()
	}
	body, err := json.Marshal(api.CreateSession{UserID: user, Metadata: text})
	if err != nil {
		return "", err.Error()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/v1/sessions", bytes.NewReader(body))
	if err != nil {
		return "", err.Error()
	}
	req.Header.Set("Authorization", "Bearer "+s.apiKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return "", err.Error()
	}
	defer resp.Body.Close()
	var out struct {
		api.SessionAnswer
		ErrorType string `json:"error_type"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return "", err.Error()
	}
	if resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusCreated {
		return out.SessionToken, out.ErrorType
	}
	return "", fmt.Sprint(resp.StatusCode, " ", out.ErrorType)
}

// resident returns what Linux says of the process's memory.
func resident(pid int, what string) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, after, ok := strings.Cut(string(b), what+":")
	if err != nil || !ok {
		return "unknown"
	}
	line, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(line)
}
