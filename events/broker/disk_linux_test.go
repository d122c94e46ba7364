package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"github.com/revocast/revocast/events/broker"
)

// tmpfs mounts a file system of the given size in MiB, unmounted when the test
// ends; the broker on it must be closed by then (start does, if called later).
func tmpfs(t *testing.T, mib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skipf("NOT TESTED on this machine: a full disk needs a tmpfs of its own, and mounting one is not allowed: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// ballast writes a file of n bytes.
func ballast(t *testing.T, dir string, n int) string {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	if err := os.WriteFile(path, bytes.Repeat([]byte{1}, n), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// listening returns the local addresses, as the kernel prints them, of this
// process's TCP listeners.
func listening(t *testing.T) []string {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	mine := map[string]bool{}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, "socket:[") {
			mine[strings.Trim(to, "socket:[]")] = true
		}
	}
	var out []string
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		data, err := os.ReadFile(table)
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6
		} else if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			// sl local remote st … inode; st 0A is TCP_LISTEN.
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" && mine[f[9]] {
				out = append(out, f[1])
			}
		}
	}
	return out
}

func TestNoPortByDefault(t *testing.T) {
	before := len(listening(t))
	b := start(t, broker.Config{})
	if b.ClientURL() != "" {
		t.Errorf("ClientURL = %q, want none", b.ClientURL())
	}
	if got := listening(t); len(got) != before {
		t.Errorf("listening on %v, want %d sockets", got, before)
	}
	// The same look must find a port that is there.
	start(t, broker.Config{Listen: "127.0.0.1:0"})
	if got := listening(t); len(got) != before+1 {
		t.Errorf("listening on %v, want %d sockets", got, before+1)
	}
}

func TestReadOnlyStore(t *testing.T) {
	dir := tmpfs(t, 1)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	b, err := broker.Start(t.Context(), broker.Config{StoreDir: dir})
	if err == nil {
		b.Close()
		t.Fatal("Start on a read-only file system succeeded")
	}
	if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), dir) {
		t.Errorf("Start = %v, want EROFS and the directory's name", err)
	}
}

func TestProbeOnFullDisk(t *testing.T) {
	dir := tmpfs(t, 8)
	b := start(t, broker.Config{StoreDir: dir, MaxStore: 1 << 20})
	free, err := b.FreeBytes()
	if err != nil {
		t.Fatal(err)
	}
	path := ballast(t, dir, int(free)-(512<<10))
	if err := b.Probe(1 << 20); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Probe on a full disk = %v, want ENOSPC", err)
	}
	if now, err := b.FreeBytes(); err != nil || now < 256<<10 || now > 512<<10 {
		t.Errorf("FreeBytes = %d, %v: a failed probe must take its file away", now, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := b.Probe(1 << 20); err != nil {
		t.Errorf("Probe with room: %v", err)
	}
}

// publishBriefly is one publish with a deadline, long for a tmpfs, since a dead
// stream shows itself by silence only.
func publishBriefly(ctx context.Context, js jetstream.JetStream, subject string, data []byte) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return js.Publish(ctx, subject, data)
}

// publishBatch publishes two messages as one atomic batch and returns the error
// code of the answer, or the error of a request without one.
func publishBatch(nc *nats.Conn, id string, data []byte) (int, error) {
	first := &nats.Msg{Subject: "ev.batch.1", Data: data, Header: nats.Header{"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {"1"}}}
	last := &nats.Msg{Subject: "ev.batch.2", Data: data, Header: nats.Header{"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {"2"}, "Nats-Batch-Commit": {"1"}}}
	if err := nc.PublishMsg(first); err != nil {
		return 0, err
	}
	reply, err := nc.RequestMsg(last, 2*time.Second)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Error struct {
			Code int `json:"err_code"`
		} `json:"error"`
	}
	return answer.Error.Code, json.Unmarshal(reply.Data, &answer)
}

// This test holds what the package comment says of a dead stream.
func TestFullDiskKillsStreamUntilRestart(t *testing.T) {
	dir := tmpfs(t, 24)
	path := ballast(t, dir, 8<<20)
	// A limit beyond the disk, so that the disk's own end is met.
	b := start(t, broker.Config{StoreDir: dir, MaxStore: 1 << 30})
	nc, js := connect(t, b)
	createStream(t, js)

	acked := map[uint64]string{}
	data := func(i int) []byte { return append(bytes.Repeat([]byte{'x'}, 60<<10), fmt.Sprint(i)...) }
	var failed error
	for i := 0; failed == nil; i++ {
		if i > 1000 {
			t.Fatal("60 MiB fit into a tmpfs of 24")
		}
		ack, err := publishBriefly(t.Context(), js, "ev.a", data(i))
		if err != nil {
			failed = err
			break
		}
		acked[ack.Sequence] = string(data(i))
	}
	if !errors.Is(failed, context.DeadlineExceeded) {
		t.Errorf("publish on the full disk = %v, want silence until the deadline", failed)
	}
	if len(acked) < 100 {
		t.Errorf("only %d messages fitted", len(acked))
	}
	if err := b.Check(); err == nil || !strings.Contains(err.Error(), "EV") || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("Check on the full disk = %v, want the stream and the reason", err)
	}
	if err := b.Probe(4 << 20); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Probe on the full disk = %v, want ENOSPC", err)
	}
	if code, err := publishBatch(nc, "full", data(0)); err != nil || code != 10176 {
		t.Errorf("batch on the full disk = %d, %v; want err_code 10176", code, err)
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := b.Probe(4 << 20); err != nil {
		t.Fatalf("Probe with room: %v", err)
	}
	if _, err := publishBriefly(t.Context(), js, "ev.a", []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("publish to the dead stream = %v, want silence until the deadline", err)
	}
	if _, err := nc.Request("ev.a", []byte("x"), time.Second); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("request to the dead stream = %v, want %v", err, nats.ErrTimeout)
	}
	if code, err := publishBatch(nc, "room", []byte("x")); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("batch to the dead stream = %d, %v; want %v", code, err, nats.ErrTimeout)
	}
	if err := b.Check(); err == nil {
		t.Error("Check calls the dead stream good")
	}
	wantMsg(t, js, 1, acked[1]) // reads go on

	if err := b.Restart(t.Context()); err != nil {
		t.Fatalf("Restart: %v", err)
	}
	_, js = connect(t, b)
	if err := b.Check(); err != nil {
		t.Errorf("Check after Restart: %v", err)
	}
	for seq, want := range acked {
		wantMsg(t, js, seq, want)
	}
	seq := publish(t, js, "ev.a", "alive")
	wantMsg(t, js, seq, "alive")
	if acked[seq] != "" {
		t.Errorf("sequence %d was given out twice", seq)
	}
}

// With the default limit the stream refuses before the disk is full, and goes
// on refusing rather than dying.
func TestDefaultMaxStoreEndsBeforeDisk(t *testing.T) {
	b := start(t, broker.Config{StoreDir: tmpfs(t, 24)})
	_, js := connect(t, b)
	createStream(t, js)
	data := bytes.Repeat([]byte{'x'}, 60<<10)
	var failed error
	for i := 0; failed == nil && i < 1000; i++ {
		_, failed = publishBriefly(t.Context(), js, "ev.a", data)
	}
	api, ok := errors.AsType[*jetstream.APIError](failed)
	if !ok || api.ErrorCode != 10023 {
		t.Fatalf("publish at the limit = %v, want err_code 10023", failed)
	}
	if err := b.Check(); err != nil {
		t.Errorf("Check at the limit: %v", err)
	}
	if err := b.Restart(t.Context()); err != nil {
		t.Fatalf("Restart: %v", err)
	}
	_, js = connect(t, b)
	publish(t, js, "ev.a", "what is stored always fits, and a part of the reserve with it")
}
