package compat

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// cluster is a broker and two nodes on it, which are one service.
type cluster struct {
	broker *exec.Cmd
	a, b   *node
}

// newCluster starts one, and ends it with the test.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	dir := t.TempDir()
	natsAddr := freeAddr(t)
	conf := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: %s\njetstream { store_dir: %q, sync_interval: always }\n", natsAddr, filepath.Join(dir, "nats"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &cluster{broker: exec.Command(program, "broker", "--nats-config", conf)}
	out := &output{}
	c.broker.Env, c.broker.Stdout, c.broker.Stderr = environ(), out, out
	if err := c.broker.Start(); err != nil {
		t.Fatalf("start the broker: %v", err)
	}
	t.Cleanup(func() {
		_ = c.broker.Process.Kill()
		_ = c.broker.Wait()
	})
	for end := time.Now().Add(readyWithin); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", natsAddr)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the broker was not there in %v; it printed:\n%s", readyWithin, out)
		}
	}
	args := []string{"--nats", "nats://" + natsAddr, "--public-url", "https://sessions.example"}
	c.a = &node{data: filepath.Join(dir, "a"), addr: freeAddr(t), args: append(slices.Clone(args), "--init", "--node", "a", "--max-bytes", "256MiB")}
	c.a.start(t)
	t.Cleanup(func() { _ = c.a.kill() })
	c.b = &node{data: filepath.Join(dir, "b"), addr: freeAddr(t), boot: c.a.boot,
		args: append(slices.Clone(args), "--node", "b", "--cluster-key-file", filepath.Join(dir, "a", "cluster.key"))}
	c.b.up(t)
	t.Cleanup(func() { _ = c.b.kill() })
	return c
}

// up starts a node that has no keys of its own.
func (n *node) up(t *testing.T) {
	t.Helper()
	n.launch(t)
	if err := n.awaitReady(); err != nil {
		_ = n.kill()
		t.Fatalf("%v; it printed:\n%s", err, n.out)
	}
}
