package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/eventstest"
	"github.com/revocast/revocast/node/api"
)

// importRowsFlag is how many sessions are imported. The million:
//
//	go test ./cmd/revocast -run TestProgram/ImportSurvivesKills -v -timeout 0 -import-rows 1000000
var importRowsFlag = flag.Int("import-rows", 20_000, "sessions that TestProgram/ImportSurvivesKills imports")

func legacyToken(i int) string { return "legacy-" + strconv.Itoa(i) + "-token" }

// writeImport writes a file of so many sessions.
func writeImport(t *testing.T, name string, rows int) {
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	began, ends := time.Now().Add(-24*time.Hour).UTC().Format(time.RFC3339), time.Now().Add(90*24*time.Hour).UTC().Format(time.RFC3339)
	for i := range rows {
		hash := events.TokenHash(legacyToken(i))
		fmt.Fprintf(w, `{"token_sha256":%q,"user_id":"user-%d","started_at":%q,"expires_at":%q,"attributes":{"ip_address":"192.0.2.1","user_agent":"Mozilla/5.0"}}`+"\n",
			hex.EncodeToString(hash[:]), i/3, began, ends)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
}

// importing is an import process, and what the state file says of it.
type importing struct {
	*exec.Cmd
	out   *lockedBuffer
	state string
	done  chan error
	begun time.Time
}

func startImport(t *testing.T, bin, file, state, url, key string, chunk int) *importing {
	t.Helper()
	i := &importing{
		Cmd: exec.Command(bin, "import", file, "--state", state, "--url", url, "--api-key", key, "--chunk", strconv.Itoa(chunk), "--json"),
		out: new(lockedBuffer), state: state, done: make(chan error, 1), begun: time.Now(),
	}
	i.Stdout, i.Stderr = i.out, i.out
	if err := i.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Process.Kill() })
	go func() { i.done <- i.Wait() }()
	return i
}

// line returns how far the import says it came.
func (i *importing) line() (s importState) {
	b, err := os.ReadFile(i.state)
	if err == nil {
		_ = json.Unmarshal(b, &s) // a file that is being replaced is whole
	}
	return s
}

// reach waits until the import says that it came so far.
func (i *importing) reach(t *testing.T, line int64) {
	t.Helper()
	for i.line().Line < line {
		select {
		case err := <-i.done:
			t.Fatalf("the import ended before line %d: %v\n%s", line, err, i.out)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// An import of which first the command is killed and then the node ends with each
// session there, once.
func testImportKill(t *testing.T, bin string) {
	rows := *importRowsFlag
	chunk := max(500, rows/50)
	dir := t.TempDir()
	data, file, state := filepath.Join(dir, "data"), filepath.Join(dir, "sessions.ndjson"), filepath.Join(dir, "state")
	writeImport(t, file, rows)
	addr, err := eventstest.FreeAddr() // not of those that the clients get
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, bin, data, "--listen", addr)

	first := startImport(t, bin, file, state, s.url, s.apiKey, chunk)
	first.reach(t, int64(rows/2))
	came, took := first.line().Line, time.Since(first.begun)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-first.done
	t.Logf("%d sessions in %.1f s, %.0f a second, with an fsync for each batch; then the command was killed", came, took.Seconds(), float64(came)/took.Seconds())

	second := startImport(t, bin, file, state, s.url, s.apiKey, chunk)
	second.reach(t, came+int64(rows/4))
	s.kill()
	t.Logf("the node was killed at line %d", second.line().Line)
	s = serve(t, bin, data, "--listen", addr)
	if err := <-second.done; err != nil {
		t.Fatalf("import: %v\n%s", err, second.out)
	}
	end := second.line()
	t.Logf("at the end: %+v", end.Counts)
	if end.Line != int64(rows) || end.Counts.Bad+end.Counts.Expired+end.Counts.Ended != 0 || end.Counts.Imported+end.Counts.Exists != int64(rows) {
		t.Errorf("of %d lines: %+v", rows, end)
	}
	client := &http.Client{Timeout: time.Minute}
	count := func() int {
		var list api.SessionList
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/sessions?limit=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+s.apiKey)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
			t.Fatal(err)
		}
		return list.Total
	}
	if got := count(); got != rows {
		t.Errorf("%d sessions of %d", got, rows)
	}
	// From the log alone it is the same.
	s.kill()
	if err := os.RemoveAll(dataAt(data).snapshotDir()); err != nil {
		t.Fatal(err)
	}
	s = serve(t, bin, data, "--listen", addr)
	if got := count(); got != rows {
		t.Errorf("%d sessions of %d in the log", got, rows)
	}
	lost := 0
	step := max(1, rows/20_000)
	for i := 0; i < rows; i += step {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/verify?app="+s.app, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+legacyToken(i))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent || resp.Header.Get("X-Session-User") != "user-"+strconv.Itoa(i/3) {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d tokens that were looked at are not good", lost, (rows+step-1)/step)
	}
}
