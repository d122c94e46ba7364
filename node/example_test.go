package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/node"
)

// A Go program that embeds a node: the log, the node and the program's own
// handlers in one process. Whoever wants more than one node gives them streams
// on NATS servers instead of the broker.
func Example_embedded() {
	if err := embedded(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// ada is in
	// revoked: true
}

func embedded() error {
	dir, err := os.MkdirTemp("", "revocast")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	// The log: a NATS server in this process, synced before it acknowledges.
	server, err := broker.Start(ctx, broker.Config{StoreDir: dir})
	if err != nil {
		return err
	}
	defer server.Close()
	conn, err := server.Connect("node")
	if err != nil {
		return err
	}
	defer conn.Close()
	// The cluster key opens and seals what is in the log: keep it, in a file of
	// mode 0600 or in a secret store, and give it to each start.
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		return err
	}
	// At the first start only: a program that lost its log must not begin an
	// empty one by itself.
	if err := events.CreateCluster(ctx, conn, events.ClusterConfig{Cluster: "shop", Region: "local", Keys: keys, MaxBytes: 256 << 20}); err != nil {
		return err
	}
	settings, err := events.Open(ctx, conn, events.StreamConfig{Region: events.ConfigRegion, Cluster: "shop"})
	if err != nil {
		return err
	}
	home, err := events.Open(ctx, conn, events.StreamConfig{Region: "local", Cluster: "shop"})
	if err != nil {
		return err
	}
	archive, err := events.OpenArchive(ctx, conn, events.ArchiveConfig{Region: "local", Cluster: "shop"})
	if err != nil {
		return err
	}

	n, err := node.New(node.Config{
		Name: "n1", PublicURL: "https://id.example.com", Keys: keys,
		Solo:     true, // the broker listens on no port: no other process reaches the log
		Settings: settings, Home: home, Archive: archive, Disk: server,
		Durability: func() string { return "fsync" },
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	<-n.Ready()
	first := node.NewBootstrap("shop") // at the first start only; keep the keys
	if err := n.Bootstrap(ctx, first); err != nil {
		return err
	}

	// The API is a handler like any other; here it is called without a listener.
	call := func(path, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", path, strings.NewReader(body))
		r.SetBasicAuth(first.App, first.APIKey)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, r)
		return w
	}
	w := call("/v1/sessions", `{"user_id":"ada"}`)
	if w.Code != http.StatusCreated {
		return fmt.Errorf("create: %s", w.Body)
	}
	var created struct {
		Token string `json:"session_token"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &created); err != nil {
		return err
	}

	// On every request of the program: in memory, in less than a microsecond.
	session, err := n.Verify(ctx, created.Token, node.VerifyOptions{App: "shop"})
	if err != nil {
		return err // errors.Is(err, node.ErrStale): 503, and sign nobody out
	}
	fmt.Println(session.User, "is in")

	call("/v1/sessions/revoke", `{"session_token":"`+created.Token+`"}`)
	_, err = n.Verify(ctx, created.Token, node.VerifyOptions{App: "shop"})
	fmt.Println("revoked:", errors.Is(err, node.ErrRevoked))

	// In this order: farewell while the log is there, then the node, then the log.
	if err := n.Leave(ctx); err != nil {
		return err
	}
	cancel()
	return <-ended
}
