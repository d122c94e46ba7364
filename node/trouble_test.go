package node_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/node"
)

// A stream that was made again is another one: fenced, with what differs and
// what to do, and nothing is answered from what was read of the old one.
func TestAnotherStream(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		token := h.login("ada").str("session_token")
		h.home.Recreate()
		for range 10 {
			time.Sleep(5 * time.Second)
			h.wantVerify(token, http.StatusServiceUnavailable, "identity")
			h.wantProblem("identity", "another", "restore it from a backup", "account")
		}
		h.do("", "GET", "/readyz", nil).want(http.StatusServiceUnavailable)
	})
}

// A region that cannot be reached is named, whether it never was or is cut off
// later; its sessions get no answer, and those of the node's own region go on.
func TestUnreachableRegion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *node.Config) { c.Solo = false })
		us := h.abroad()
		here, there := h.login("ada").str("session_token"), us.login("eve").str("session_token")
		never, _ := h.another(func(c *node.Config) { c.Open = unreachable })
		never.start()
		link := us.log.Link()
		once, _ := h.another(func(c *node.Config) {
			c.Name, c.Open = "n3", func(context.Context, *events.Region) (events.Log, error) { return link, nil }
		})
		once.start()
		time.Sleep(20 * time.Second)
		once.wantVerify(there, http.StatusNoContent, "-")
		once.wantNoProblems()
		never.wantProblem("unreachable", "region us", "no route")
		never.wantVerify(there, http.StatusServiceUnavailable, "home_unreachable")
		link.Cut()
		time.Sleep(20 * time.Second)
		once.wantProblem("silent", "out of reach")
		once.wantVerify(there, http.StatusServiceUnavailable, "silent")
		for _, n := range []*harness{never, once} {
			n.wantVerify(here, http.StatusNoContent, "-")
			n.do("", "GET", "/readyz", nil).want(http.StatusOK)
		}
	})
}

// restricted is a NATS server whose users differ in one permission.
const restricted = `
listen: "127.0.0.1:-1"
jetstream { store_dir: %q, sync_interval: always }
accounts { APP { jetstream: enabled, users: [
  { user: operator, password: pw }
  { user: mute, password: pw, permissions: { publish: { deny: ["ev.eu.>"] } } }
  { user: deaf, password: pw, permissions: { subscribe: { deny: ["live.>"] } } }
  { user: blind, password: pw, permissions: { publish: { deny: ["$JS.API.DIRECT.GET.>"] } } }
] } }
`

// A denied call looks like a time-out, because the server answers nothing. So
// the permission is named, and nothing is answered wrongly meanwhile.
func TestDeniedSubjects(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, restricted, t.TempDir()), 0o600); err != nil {
		t.Fatal(err)
	}
	server, err := broker.StartFile(broker.FileConfig{File: file})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimPrefix(server.ClientURL(), "nats://")
	boot := node.NewBootstrap("acme")
	start := func(user string) (*harness, *events.Denials) {
		denials := new(events.Denials)
		nc, err := events.Connect(events.ConnectConfig{URL: "nats://" + user + ":pw@" + addr, OnError: denials.Note})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		if user == "operator" {
			if err := events.CreateCluster(t.Context(), nc, events.ClusterConfig{Cluster: "c1", Region: "eu", Keys: keys, MaxBytes: 64 << 20, Replicas: 1}); err != nil {
				t.Fatal(err)
			}
		}
		open := func(region string) *events.JetStream {
			s, err := events.Open(t.Context(), nc, events.StreamConfig{Region: region})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		archive, err := events.OpenArchive(t.Context(), nc, events.ArchiveConfig{Region: "eu", Cluster: "c1"})
		if err != nil {
			t.Fatal(err)
		}
		h := &harness{t: t, keys: keys, app: boot.App, key: boot.APIKey, admin: boot.Admin}
		conf := node.Config{
			Name: user, PublicURL: publicURL, Settings: open(events.ConfigRegion), Home: open("eu"), Archive: archive, Keys: keys,
			Mesh: events.NewMesh(nc, keys), Denials: denials,
		}
		fast(&conf)
		if h.node, err = node.New(conf); err != nil {
			t.Fatal(err)
		}
		h.handler = h.node.Handler()
		h.begin()
		return h, denials
	}
	good, _ := start("operator")
	<-good.node.Ready()
	if err := good.node.Bootstrap(t.Context(), boot); err != nil {
		t.Fatal(err)
	}
	token := good.login("ada").str("session_token")
	for user, want := range map[string]string{
		"mute":  "denied: publish ev.eu.>",
		"deaf":  "denied: subscribe live.eu.>",
		"blind": "denied: publish $JS.API.DIRECT.GET.>",
	} {
		t.Run(user, func(t *testing.T) {
			h, _ := start(user)
			h.t = t
			eventually(t, 20*time.Second, want, func() bool {
				// Nothing that the others know to be good may be "not found" here.
				if v := h.do(token, "GET", "/v1/verify", nil); v.Status != http.StatusServiceUnavailable && v.Status != http.StatusNoContent {
					t.Fatalf("verify: %d %s", v.Status, v.Header.Get("X-Session-Reason"))
				}
				return strings.Contains(h.problem("denied"), want)
			})
			// Others see it as well: it answers them, even if it cannot write.
			r := good.do(good.admin, "GET", "/v1/nodes", nil).want(http.StatusOK)
			if !strings.Contains(string(r.Raw), want) {
				t.Errorf("/v1/nodes does not say %q: %s", want, r.Raw)
			}
			h.stop()
		})
	}
	good.wantNoProblems()
}
