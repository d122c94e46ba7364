package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/revocast/revocast/node/api"
)

var powerSeed = flag.Uint64("power-seed", 0, "decides when the power is cut; 0: by chance")

// disk is an ext4 file system of its own in an image. What a process wrote to it
// and did not sync is in the memory of the kernel alone: the file system writes
// nothing back by itself for ten minutes.
type disk struct {
	dir   string // where it is mounted
	image string
	cuts  int
}

// newDisk mounts an empty disk. It skips the test where that is not possible.
func newDisk(t *testing.T, size int64) *disk {
	t.Helper()
	for _, tool := range []string{"mkfs.ext4", "mount", "cp"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("NOT TESTED on this machine: a power cut needs a disk of its own, and that needs %s: %v", tool, err)
		}
	}
	at := t.TempDir()
	d := &disk{dir: filepath.Join(at, "disk"), image: filepath.Join(at, "image")}
	for _, err := range []error{os.Mkdir(d.dir, 0o700), os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, size)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// Else the kernel goes on making the file system after it is mounted.
	if out, err := exec.Command("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	if err := d.mount(); err != nil {
		t.Skipf("NOT TESTED on this machine: a power cut needs a disk of its own, and mounting one is not allowed: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return d
}

func (d *disk) mount() error {
	if out, err := exec.Command("mount", "-o", "loop,commit=600", d.image, d.dir).CombinedOutput(); err != nil {
		return fmt.Errorf("mount %s: %w: %s", d.image, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// cut takes the power from the disk, whose user was killed: in its place comes a
// copy with what had been written to the device, and nothing else.
func (d *disk) cut(t *testing.T) {
	t.Helper()
	d.cuts++
	after := fmt.Sprintf("%s-%d", d.image, d.cuts)
	if out, err := exec.Command("cp", "--sparse=always", d.image, after).CombinedOutput(); err != nil {
		t.Fatalf("copy the image: %v\n%s", err, out)
	}
	// This writes the rest back, to the image that is left behind.
	if err := unix.Unmount(d.dir, 0); err != nil {
		t.Fatalf("unmount: %v", err)
	}
	if err := os.Remove(d.image); err != nil {
		t.Fatal(err)
	}
	d.image = after
	if err := d.mount(); err != nil {
		t.Fatal(err)
	}
}

// told is what the clients were told of a session.
type told struct {
	token, sid string
	expires    time.Time // at the earliest
	revoked    bool
	asked      bool // to be revoked, without an answer
}

// changes creates sessions, revokes every third one and extends every third one
// until no answer comes any more; progress is called after each answer.
func (s *serving) changes(ctx context.Context, c *http.Client, worker int, progress func()) (all []told, unexpected error) {
	for i := 0; ; i++ {
		var made api.SessionAnswer
		in := api.CreateSession{UserID: fmt.Sprintf("user-%d-%d", worker, i), SessionDurationMinutes: 60}
		switch status := s.post(ctx, c, "/v1/sessions", s.apiKey, in, &made); status {
		case 0:
			return all, nil
		case http.StatusCreated:
		default:
			return all, fmt.Errorf("create answered %d", status)
		}
		progress()
		all = append(all, told{token: made.SessionToken, sid: made.Session.SessionID, expires: made.Session.ExpiresAt})
		it := &all[len(all)-1]
		status, want := 0, http.StatusOK
		switch i % 3 {
		case 0:
			continue
		case 1:
			it.asked = true
			if status = s.post(ctx, c, "/v1/sessions/revoke", s.apiKey, api.Revoke{SessionToken: it.token}, new(api.RevokeAnswer)); status == want {
				it.revoked = true
			}
		case 2:
			var more api.SessionAnswer
			status = s.post(ctx, c, "/v1/sessions/authenticate", s.apiKey, api.Authenticate{SessionToken: it.token, SessionDurationMinutes: 600}, &more)
			if status == want {
				it.expires = more.Session.ExpiresAt
			}
		}
		switch status {
		case 0:
			return all, nil
		case want:
			progress()
		default:
			return all, fmt.Errorf("a change answered %d", status)
		}
	}
}

// cutUnderLoad kills the node at the given acknowledgement, in the middle of
// others, takes the power from its disk, and returns what its clients were told.
func cutUnderLoad(t *testing.T, d *disk, s *serving, at int) (all []told) {
	t.Helper()
	const workers = 8
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	var mu sync.Mutex // guards what follows
	acknowledged, reached := 0, make(chan struct{})
	for w := range workers {
		wg.Go(func() {
			mine, err := s.changes(t.Context(), client, d.cuts*workers+w, func() {
				mu.Lock()
				defer mu.Unlock()
				if acknowledged++; acknowledged == at {
					close(reached)
				}
			})
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
			if err != nil {
				t.Error(err)
			}
		})
	}
	select {
	case <-reached:
	case <-time.After(time.Minute):
		t.Errorf("%d acknowledgements in a minute, the cut comes at %d\n%s", acknowledged, at, s.stderr)
	}
	s.kill()
	wg.Wait()
	d.cut(t)
	t.Logf("power cut %d at acknowledgement %d", d.cuts, at)
	return all
}

// losses counts what was acknowledged and is not so.
func (s *serving) losses(t *testing.T, all []told) (sessions, revocations, extensions int) {
	t.Helper()
	for _, it := range all {
		var out api.SessionAnswer
		status := s.get(t, "/v1/sessions/"+it.sid, &out)
		switch {
		case it.revoked:
			// Lost with its session it grants nothing, but it is lost.
			if got := s.verify(t, http.DefaultClient, it.token); out.Session.Status != "revoked" || got != http.StatusUnauthorized {
				revocations++
			}
		case it.asked:
		case status != http.StatusOK || s.verify(t, http.DefaultClient, it.token) != http.StatusNoContent:
			sessions++
		case out.Session.ExpiresAt.Before(it.expires):
			extensions++
		}
	}
	return sessions, revocations, extensions
}

// lasting requires that nothing is lost.
func (s *serving) lasting(t *testing.T, all []told, when string) {
	t.Helper()
	sessions, revocations, extensions := s.losses(t, all)
	t.Logf("%s: of %d sessions that were acknowledged lost %d, and %d revocations, %d extensions", when, len(all), sessions, revocations, extensions)
	if sessions+revocations+extensions > 0 || len(all) < 50 {
		t.Errorf("%s: lost %d sessions, %d revocations, %d extensions of %d", when, sessions, revocations, extensions, len(all))
	}
	s.remembers(t, all)
}

// remembers requires that the history names the end of a session: it is not
// synced, and is made again from the log.
func (s *serving) remembers(t *testing.T, all []told) {
	t.Helper()
	i := slices.IndexFunc(all, func(it told) bool { return it.revoked })
	if i < 0 {
		t.Fatal("nothing was revoked")
	}
	until(t, "history", func() int {
		var out api.SessionEvents
		s.get(t, "/v1/sessions/"+all[i].sid+"/events", &out)
		return len(slices.DeleteFunc(out.Events, func(e api.SessionEvent) bool { return e.Type != "session.revoked" }))
	}, 1, 0)
}

// durability is what status says an acknowledgement is worth.
func (s *serving) durability(t *testing.T) string {
	t.Helper()
	var out api.Ready
	if status := s.get(t, "/readyz", &out); status != http.StatusOK {
		t.Fatalf("readyz answers %d", status)
	}
	return out.Durability
}

// A power cut takes what did not reach the disk. What was acknowledged did, with
// the settings that are shipped; with those of nats-server it did not, and the
// node said so.
func testPowerCut(t *testing.T, bin string) {
	seed := *powerSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d; again: go test ./cmd/revocast -run '^TestProgram$/^PowerCut$' -power-seed %d -v", seed, seed)
	for name, test := range map[string]func(*testing.T, string, *rand.Rand){
		"Embedded":    powerCutEmbedded,
		"FileAlways":  func(t *testing.T, bin string, dice *rand.Rand) { powerCutFile(t, bin, dice, true) },
		"FileDefault": func(t *testing.T, bin string, dice *rand.Rand) { powerCutFile(t, bin, dice, false) },
		"Snapshot":    powerCutSnapshot,
	} {
		t.Run(name, func(t *testing.T) { test(t, bin, rand.New(rand.NewPCG(seed, uint64(len(name))))) })
	}
}

// diskSize holds a log of the smallest size and all that is around it.
const diskSize = 160 << 20

// Twice, because the second life's files are partly those of the first.
func powerCutEmbedded(t *testing.T, bin string, dice *rand.Rand) {
	d := newDisk(t, diskSize)
	data := filepath.Join(d.dir, "data")
	var all []told
	s := serve(t, bin, data)
	if got := s.durability(t); got != "fsync" {
		t.Errorf("durability is %q", got)
	}
	for range 2 {
		all = append(all, cutUnderLoad(t, d, s, 100+dice.IntN(400))...)
		s = serve(t, bin, data)
		s.lasting(t, all, "after the power came back")
	}
	s.kill()
}

// powerCutFile is a node with a NATS server of a file in its process.
func powerCutFile(t *testing.T, bin string, dice *rand.Rand, always bool) {
	d := newDisk(t, diskSize)
	sync, durability := "", "interval"
	if always {
		sync, durability = "sync_interval: always", "fsync"
	}
	file := filepath.Join(t.TempDir(), "server.conf")
	text := fmt.Sprintf("server_name: alone\nlisten: %q\njetstream {\n  store_dir: %q\n  domain: eu\n  %s\n}\n", free(t), filepath.Join(d.dir, "nats"), sync)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(d.dir, "data")
	flags := []string{"--nats-config", file, "--public-url", "https://sessions.example"}
	s := serve(t, bin, data, append(flags, "--init", "--replicas", "1", "--max-bytes", "32MiB")...)
	if got := s.durability(t); got != durability {
		t.Errorf("durability is %q, want %q", got, durability)
	}
	all := cutUnderLoad(t, d, s, 100+dice.IntN(400))
	if always {
		s = serve(t, bin, data, flags...)
		s.lasting(t, all, "after the power came back")
		s.kill()
		return
	}
	// A stream that is gone is not taken for an empty one.
	cmd := exec.Command(bin, append([]string{"serve", "--data", data, "--listen", "127.0.0.1:0", "--metrics-listen", ""}, flags...)...)
	p, err := startProcess(cmd)
	if err != nil {
		t.Logf("all %d sessions are lost, and the node does not begin anew: %v", len(all), err)
		if !strings.Contains(p.stderr.String(), "lacks a stream of cluster") {
			t.Errorf("it ended for another reason:\n%s", p.stderr)
		}
		return
	}
	defer p.kill()
	s = &serving{process: p, url: field(p.out.String(), "address"), apiKey: s.apiKey, app: s.app}
	sessions, revocations, extensions := s.losses(t, all)
	t.Logf("of %d sessions lost %d, and %d revocations, %d extensions", len(all), sessions, revocations, extensions)
	if sessions == 0 {
		t.Error("nothing was lost although nothing was synced: this power cut proves nothing")
	}
}

// The power goes while a node that was asked to end writes its snapshot; then the
// end of a snapshot is missing although its name is there. Neither is believed,
// and nothing is lost.
func powerCutSnapshot(t *testing.T, bin string, dice *rand.Rand) {
	d := newDisk(t, diskSize)
	data := filepath.Join(d.dir, "data")
	s := serve(t, bin, data)
	all := cutUnderLoad(t, d, s, 100+dice.IntN(200))
	s = serve(t, bin, data)
	after := time.Duration(dice.Int64N(int64(15 * time.Millisecond)))
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-time.After(after):
	case <-s.done:
	}
	s.kill()
	d.cut(t)
	t.Logf("power cut %v after the node was asked to end; its snapshots: %v", after.Round(time.Millisecond), names(t, data))
	s = serve(t, bin, data)
	s.lasting(t, all, "cut while it ended")
	if err := s.signal(syscall.SIGTERM); err != nil {
		t.Fatalf("ended with %v\n%s", err, s.stderr)
	}

	snaps := names(t, data)
	if len(snaps) == 0 {
		t.Fatalf("a node that ended in order left no snapshot\n%s", s.stderr)
	}
	for _, name := range snaps {
		tear(t, filepath.Join(data, "snapshots", name), dice)
	}
	s = serve(t, bin, data)
	s.lasting(t, all, "with torn snapshots")
	if log := s.stderr.String(); strings.Count(log, "snapshot is refused") != len(snaps) {
		t.Errorf("%d snapshots are torn:\n%s", len(snaps), log)
	}
	s.kill()
}

// tear leaves a file as long as it is, with zeros for what was not written.
func tear(t *testing.T, path string, dice *rand.Rand) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	from := dice.IntN(len(b) - 1)
	clear(b[from:])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// names returns the names of the snapshots in the data directory.
func names(t *testing.T, data string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(data, "snapshots"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
