package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/revocast/revocast/node"
)

// firstApp is the id of the app that a new cluster begins with.
const firstApp = "app"

// waitingEvery is how often a node that is not ready says so.
const waitingEvery = 10 * time.Second

// begin waits until the node is ready, makes the first app and its keys if
// this is the first start, and says what to do next.
func (s *service) begin(ctx context.Context) error {
	tick := time.NewTicker(waitingEvery)
	defer tick.Stop()
	for ready := false; !ready; {
		select {
		case <-s.node.Ready():
			ready = true
		case <-tick.C:
			s.log.Warn("not ready yet: the log has not answered with this node's heartbeat")
		case <-ctx.Done():
			return nil
		}
	}
	b, first, err := s.firstKeys(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil // stopped meanwhile; the next start finishes it
		}
		return err
	}
	ready := []any{"url", s.url, "region", s.store.state.Region, "durability", s.store.durability()}
	if s.verify != nil {
		ready = append(ready, "verify", verifyAddr(s.verify.Addr()))
	}
	s.log.Info("ready", ready...)
	s.welcome(s.out.stdout, b, first)
	return nil
}

// firstKeys makes what a new cluster begins with. The secrets are on disk
// before they are in the log, so that a crash in between loses none: the next
// start finishes with the same ones. Until they are in the log they are in a
// file that nobody looks for: bootstrap.json means that its keys work.
func (s *service) firstKeys(ctx context.Context) (b *bootstrap, first bool, err error) {
	if s.store.state.Joined {
		return nil, false, nil // the first keys are those of the node that began the cluster
	}
	if s.store.state.Bootstrapped {
		b, err = s.dir.readBootstrap()
		if b != nil && b.URL != s.url {
			b.URL = s.url
			err = s.dir.writeBootstrap(b)
		}
		return b, false, err
	}
	if b, err = s.dir.readPending(); b == nil && err == nil {
		b, err = s.dir.readBootstrap() // published, but not recorded as such
	}
	if err != nil {
		return nil, false, err
	}
	if b == nil {
		k := node.NewBootstrap(firstApp)
		b = &bootstrap{App: k.App, APIKey: k.APIKey, AdminKey: k.Admin}
	}
	b.URL = s.url
	if err := s.dir.writePending(b); err != nil {
		return nil, false, err
	}
	if err := s.node.Bootstrap(ctx, node.Bootstrap{App: b.App, APIKey: b.APIKey, Admin: b.AdminKey}); err != nil {
		return nil, false, fmt.Errorf("make the first app and its keys: %w; start again to finish", err)
	}
	if err := s.dir.publishBootstrap(); err != nil {
		return nil, false, err
	}
	s.store.state.Bootstrapped = true
	return b, true, s.dir.writeState(s.store.state)
}

// welcome says where everything is. The keys are shown at the first start only.
func (s *service) welcome(w io.Writer, b *bootstrap, first bool) {
	dir, err := filepath.Abs(string(s.dir))
	if err != nil {
		dir = string(s.dir)
	}
	fmt.Fprintf(w, "Revocast is ready.\n\n  address  %s\n  data     %s\n", s.url, dir)
	if s.metrics != nil {
		fmt.Fprintf(w, "  metrics  %s/metrics\n", localURL(s.metrics.Addr()))
	}
	if s.verify != nil {
		fmt.Fprintf(w, "  verify   %s\n", verifyAddr(s.verify.Addr()))
	}
	if s.dev {
		fmt.Fprintf(w, "  demo     %s/demo/\n", s.url)
	}
	if nats := s.store.natsURL(); nats != "" {
		fmt.Fprintf(w, "  nats     %s\n", nats)
	}
	switch {
	case !first && b != nil:
		fmt.Fprintf(w, "  keys     %s\n\n", dataDir(dir).bootstrapFile())
		return
	case !first:
		fmt.Fprintln(w)
		return
	}
	fmt.Fprintf(w, "  app      %s\n  API key  %s\n  (both, and the admin key, are in %s)\n\n", b.App, b.APIKey, dataDir(dir).bootstrapFile())
	fmt.Fprintf(w, "Paste these to create, verify and revoke a session:\n\n%s\n", curlLines(s.url, b))
}

// curlLines are three commands for a shell, to be run in order: create a
// session and keep its token, verify it, revoke it.
func curlLines(url string, b *bootstrap) string {
	post := fmt.Sprintf("curl -s -u %s:%s -H 'Content-Type: application/json'", b.App, b.APIKey)
	return fmt.Sprintf(`  TOKEN=$(%s -d '{"user_id":"ada"}' %s/v1/sessions | sed -n 's/.*"session_token":"\([^"]*\)".*/\1/p'); echo "$TOKEN"
  curl -s -i -H "Authorization: Bearer $TOKEN" '%[2]s/v1/verify?body=1'
  %[1]s -d "{\"session_token\":\"$TOKEN\"}" %[2]s/v1/sessions/revoke
`, post, url)
}
