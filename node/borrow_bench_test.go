package node_test

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/node"
)

// lending makes a node of the name one of several, with snapshots in dir.
func (l *realLog) lending(name, dir string) func(*node.Config) {
	return func(c *node.Config) {
		c.Name, c.SnapshotDir, c.Solo, c.Disk = name, dir, false, nil
		c.Mesh = events.NewMesh(l.connect(name), l.keys)
	}
}

// TestJoinOverNATS: the same over core NATS and JetStream, with a snapshot of
// several pieces, sessions altered and revoked meanwhile, and two that join at
// once.
func TestJoinOverNATS(t *testing.T) {
	l := newRealLog(t, broker.Config{Lazy: true}, events.ClusterConfig{})
	n := l.start(t, l.lending("n1", t.TempDir()))
	all := n.enterMany(t, 2000)
	for i := range all[:20] {
		n.do(n.key, "POST", "/v1/sessions/revoke", m{"session_token": all[i].token}).want(http.StatusOK)
	}
	var joined []*realNode
	for i := range 2 {
		joined = append(joined, l.start(t, l.lending("n"+strconv.Itoa(2+i), t.TempDir())))
		// After the snapshot, before the next one joins.
		n.do(n.key, "POST", "/v1/sessions/revoke", m{"session_token": all[20+i].token}).want(http.StatusOK)
	}
	now := time.Now().UnixMilli()
	for _, j := range joined {
		if got := j.metric("revocast_snapshot_transfer_total", `result="loaded"`); got != 1 {
			t.Errorf("loaded %v snapshots", got)
		}
		if got := j.metric("revocast_rebuilds_total"); got != 0 {
			t.Errorf("read from the beginning %v times", got)
		}
		j.applied("eu", n.position("eu").Seq)
		for i := range all[:40] {
			want := http.StatusNoContent
			if i < 22 {
				want = http.StatusUnauthorized
			}
			j.wantVerdict(t, &all[i], want)
		}
		if got, want := j.node.SessionDigest(now), n.node.SessionDigest(now); got != want {
			t.Errorf("digest %s, not %s", got, want)
		}
	}
}

// BenchmarkJoin starts a node beside one that holds 170,000 sessions (of 200,000
// events): with what its peer lends, and from the log. Times are until it is
// ready, snapshots of the peer already written.
func BenchmarkJoin(b *testing.B) {
	l := newRealLog(b, broker.Config{Lazy: true}, events.ClusterConfig{})
	l.storeSessions(b, stored)
	lender, _ := l.newNode(l.lending("n1", b.TempDir()))
	l.run(b, lender)
	starting := func(changes ...func(*node.Config)) time.Duration {
		n, _ := l.newNode(changes...)
		begin := time.Now()
		stop := l.run(b, n)
		took := time.Since(begin)
		stop()
		if got, _ := n.SessionCount(); got < stored*85/100 {
			b.Fatalf("it holds %d sessions", got)
		}
		return took
	}
	first := starting(l.lending("n2", ""))
	var lent, log time.Duration
	for b.Loop() {
		lent += starting(l.lending("n2", ""))
		log += starting(func(c *node.Config) { c.Name, c.Solo, c.Disk = "n3", false, nil })
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(first.Seconds(), "s-first")
	b.ReportMetric(lent.Seconds()/float64(b.N), "s-lent")
	b.ReportMetric(log.Seconds()/float64(b.N), "s-log")
	b.ReportMetric(log.Seconds()/lent.Seconds(), "log/lent")
}
