package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// within is how long anything here may take that takes a second or two.
const within = 60 * time.Second

// started is a peer that was started as "revocast bench" starts it.
type started struct {
	line
	cmd    *exec.Cmd
	stdin  io.Closer
	stdout *bufio.Reader
	stderr bytes.Buffer
	temp   string // where it makes its temporary files
}

// begin starts the peer and does not wait for it.
func begin(t *testing.T, name, sessions string) *started {
	t.Helper()
	p := &started{temp: t.TempDir()}
	// Others than the one who runs the test get through, as below /tmp.
	if err := os.Chmod(filepath.Dir(p.temp), 0o711); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.CommandContext(t.Context(), "./run", "run", name, "--sessions", sessions, "--body-bytes", "599")
	p.cmd.Env = append(os.Environ(), "TMPDIR="+p.temp)
	p.cmd.Stderr = &p.stderr
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin, p.stdout = stdin, bufio.NewReader(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// start starts the peer and reads its line.
func start(t *testing.T, name string) *started {
	t.Helper()
	p := begin(t, name, "100")
	text, err := p.stdout.ReadBytes('\n')
	if err != nil {
		_ = p.cmd.Wait()
		t.Fatalf("no line on standard output: %v, %v\n%s", err, p.cmd.ProcessState, &p.stderr)
	}
	in := json.NewDecoder(bytes.NewReader(text))
	in.DisallowUnknownFields()
	if err := in.Decode(&p.line); err != nil {
		t.Fatalf("read %s: %v", text, err)
	}
	return p
}

// gone waits until nothing of the peer is left and returns what is after all.
func (p *started) gone(t *testing.T) {
	t.Helper()
	end := time.After(within)
	for _, pid := range append(slices.Clone(p.BackendPIDs), p.PID) {
		for running(pid) {
			select {
			case <-end:
				t.Fatalf("process %d is left", pid)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

// running says whether there is a process that is more than the memory of one.
func running(pid int) bool {
	if pid == 0 || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}

// clean checks that the peer ended well and left no file.
func (p *started) clean(t *testing.T) {
	t.Helper()
	rest, err := io.ReadAll(p.stdout)
	if p.PID != 0 && len(rest) > 0 || err != nil {
		t.Errorf("more on standard output: %q, %v", rest, err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("it ended with %v, want 0\n%s", err, &p.stderr)
	}
	p.gone(t)
	left, err := os.ReadDir(p.temp)
	if len(left) > 0 || err != nil {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
}

// each runs a test on every peer that can run here, but for what is left out.
func each(t *testing.T, without []string, test func(*testing.T, string)) {
	for _, p := range peers {
		if slices.Contains(without, p.name) {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			if why := p.missing(t.Context(), os.Stderr); why != "" {
				fmt.Fprintf(os.Stderr, "SKIPPED: %s: %s\n", t.Name(), why)
				t.Skipf("NOT TESTED on this machine: %s", why)
			}
			test(t, p.name)
		})
	}
}

// TestList reads what "list" prints: one line for each peer, and a reason
// exactly where one cannot run.
func TestList(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "./run", "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	in := json.NewDecoder(bytes.NewReader(out))
	in.DisallowUnknownFields()
	for in.More() {
		var l listed
		if err := in.Decode(&l); err != nil {
			t.Fatalf("read %s: %v", out, err)
		}
		if l.Available != (l.Why == "") || strings.Contains(l.Why, "\n") {
			t.Errorf("%+v: want one line of why exactly when it is not available", l)
		}
		names = append(names, l.Name)
	}
	for _, want := range []string{"bare", "go-redis", "scs", "pgx", "jwt-rs256", "jwt-es256", "jwt-eddsa", "express-session", "kratos"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not in %v", want, names)
		}
	}
	if got := strings.Count(string(out), "\n"); got != len(names) {
		t.Errorf("%d lines for %d peers:\n%s", got, len(names), out)
	}
}

// TestMissing runs without any other program on the PATH.
func TestMissing(t *testing.T) {
	path := t.TempDir()
	t.Setenv("PATH", path)
	for _, p := range peers {
		why := p.missing(t.Context(), io.Discard)
		local := slices.Contains(noBackend, p.name)
		// Debian's PostgreSQL is not on the PATH.
		if p.name != "pgx" && local != (why == "") {
			t.Errorf("%s with an empty PATH: missing is %q", p.name, why)
		}
	}
}

// Some peers differ from another one only in how they verify; the JWT peers, as
// bare, have no process but their own.
var (
	noBackend   = []string{"bare", "jwt-rs256", "jwt-es256", "jwt-eddsa"}
	alike       = append([]string{"go-redis-auto", "scs-gob"}, noBackend[1:]...)
	alikeOrBare = append([]string{"bare"}, alike...)
)

// TestServes is the contract of a peer that runs: what it prints, what it
// answers, and that nothing is left once its standard input is closed.
func TestServes(t *testing.T) {
	each(t, nil, func(t *testing.T, name string) {
		p := start(t, name)
		if p.Name != name || p.Status != http.StatusOK || !running(p.PID) {
			t.Errorf("wrong line: %+v", p.line)
		}
		for _, pid := range p.BackendPIDs {
			if !running(pid) || pid == p.PID {
				t.Errorf("backend %d does not run beside %d", pid, p.PID)
			}
		}
		// A backend cannot hold a session in fewer bytes than the session has.
		if stateful := len(p.BackendPIDs) > 0; stateful != (p.BytesPerSession >= 400) {
			t.Errorf("%d backends, %d bytes a session", len(p.BackendPIDs), p.BytesPerSession)
		}
		checkAnswers(t, p)
		p.stdin.Close()
		p.clean(t)
	})
}

func checkAnswers(t *testing.T, p *started) {
	text, err := os.ReadFile(p.Credentials)
	if err != nil {
		t.Fatal(err)
	}
	credentials := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(credentials) != 100 {
		t.Fatalf("%d credentials for 100 sessions", len(credentials))
	}
	header, value, _ := strings.Cut(credentials[0], ": ")
	most := 610
	if p.Name == "kratos" {
		most = 2000 // its answer is its own
	}
	bodies := map[string]bool{}
	for _, i := range []int{0, 49, 99} {
		h, v, ok := strings.Cut(credentials[i], ": ")
		status, body := get(t, p.URL, h, v)
		if !ok || h != header || status != http.StatusOK || !json.Valid([]byte(body)) || len(body) < 590 || len(body) > most {
			t.Errorf("credential %d (%s): %d, %d bytes: %s", i, h, status, len(body), body)
		}
		bodies[body] = true
	}
	if p.Name != "bare" && len(bodies) != 3 {
		t.Errorf("3 sessions answered with %d bodies", len(bodies))
	}
	half := len(value) / 2
	for what, v := range map[string]string{
		"none":       "",
		"garbage":    "garbage",
		"changed":    value[:half] + flip(value[half:]),
		"lengthened": value + "A",
		"cut":        value[:len(value)-1],
		"unknown":    strings.SplitAfter(value, " ")[0] + newToken(),
	} {
		if status, body := get(t, p.URL, header, v); status != http.StatusUnauthorized {
			t.Errorf("%s credential: %d, want 401: %s", what, status, body)
		}
	}
}

// flip changes the first character of a credential's tail.
func flip(s string) string {
	if s[0] == 'x' {
		return "y" + s[1:]
	}
	return "x" + s[1:]
}

// get sends one request; no header when value is empty.
func get(t *testing.T, url, header, value string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if value != "" {
		r.Header.Set(header, value)
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a.StatusCode, string(body)
}

// TestTerminated sends SIGTERM while a request's connection is still open.
func TestTerminated(t *testing.T) {
	each(t, alike, func(t *testing.T, name string) {
		p := start(t, name)
		get(t, p.URL, "Authorization", "garbage")
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p.clean(t)
	})
}

// TestUnwanted closes standard input while the peer is still being prepared:
// as soon as it has a temporary file, and a while after that.
func TestUnwanted(t *testing.T) {
	each(t, alikeOrBare, func(t *testing.T, name string) {
		for _, begun := range []string{"*", "*/*/base/1/PG_VERSION", "*/redis.conf"} {
			if strings.Contains(begun, "redis") == (name == "pgx" || name == "kratos") && begun != "*" {
				continue // the other kind's
			}
			p := begin(t, name, "300000")
			end := time.After(within)
			for found := false; !found; {
				select {
				case <-end:
					t.Fatalf("no %s within %v\n%s", begun, within, &p.stderr)
				case <-time.After(5 * time.Millisecond):
				}
				paths, err := filepath.Glob(filepath.Join(p.temp, begun))
				if err != nil {
					t.Fatal(err)
				}
				found = len(paths) > 0
			}
			p.stdin.Close()
			p.clean(t)
		}
	})
}

// TestKilled kills the peer in the one way it cannot notice: its processes end
// all the same, its files stay.
func TestKilled(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		fmt.Fprintln(os.Stderr, "SKIPPED: TestKilled: only Linux can end a process together with its parent")
		t.Skip("NOT TESTED on this machine: it has no /proc")
	}
	each(t, alike, func(t *testing.T, name string) {
		p := start(t, name)
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Wait() // it was killed
		p.gone(t)
	})
}

// TestBackendEnds ends the backend: a peer without it must not be
// measured any further.
func TestBackendEnds(t *testing.T) {
	each(t, alikeOrBare, func(t *testing.T, name string) {
		p := start(t, name)
		if err := syscall.Kill(p.BackendPIDs[0], syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadAll(p.stdout) // until it ends
		var exit *exec.ExitError
		if err := p.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(p.stderr.String(), " ended: ") {
			t.Errorf("it ended with %v, want 1 and a reason\n%s", err, &p.stderr)
		}
		p.gone(t)
		if left, err := os.ReadDir(p.temp); len(left) > 0 || err != nil {
			t.Errorf("left in the temporary directory: %v, %v", left, err)
		}
	})
}

// TestRefused are command lines that must not start anything.
func TestRefused(t *testing.T) {
	for _, args := range [][]string{
		{}, {"run"}, {"run", "nobody"}, {"list", "more"}, {"run", "bare", "--sessions", "0"},
		{"run", "bare", "--body-bytes", "0"}, {"run", "bare", "--unknown"}, {"run", "bare", "more"},
	} {
		var stdout bytes.Buffer
		if err := run(t.Context(), args, strings.NewReader(""), &stdout, io.Discard); !errors.Is(err, errUsage) || stdout.Len() > 0 {
			t.Errorf("%q: %v, printed %q", args, err, &stdout)
		}
	}
}

// TestPicked checks that credentials are spread over all sessions.
func TestPicked(t *testing.T) {
	for _, n := range []int{1, 100, maxCredentials, 2001, 2999, 1_000_000} {
		s := &stage{sessions: n}
		count, last, gap := 0, -1, 0
		for i := range n {
			if s.picked(i) {
				count, gap, last = count+1, max(gap, i-last), i
			}
		}
		if want := min(n, maxCredentials); count != want || gap > n/want+1 || last != n-1 {
			t.Errorf("%d of %d sessions, %d apart at most, the last is %d", count, n, gap, last)
		}
	}
}

// TestSessionSize checks that a session has the size asked for.
func TestSessionSize(t *testing.T) {
	for _, size := range []int{1, 200, 400, 560, 599, 4000} {
		now := time.Now().UTC().Truncate(time.Second)
		tmpl, err := newTemplate(now, now.Add(time.Hour), size)
		if err != nil {
			t.Fatal(err)
		}
		user, text := tmpl.session(7)
		var got session
		err = json.Unmarshal(text, &got)
		if err != nil || checked(text) != nil || got.UserID != user || size >= 200 && len(text) != size || len(text) > max(size, 200) {
			t.Errorf("asked for %d bytes: %d, %v: %s", size, len(text), err, text)
		}
	}
}
