package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/alexedwards/scs/v2"
)

// peer is one alternative to Revocast.
type peer struct {
	name string
	// missing says in plain words why the peer cannot run on this machine, ""
	// when it can. It may install what package-lock.json pins.
	missing func(ctx context.Context, stderr io.Writer) string
	// start starts what the peer consists of on s, loads the sessions and
	// returns once it serves.
	start func(ctx context.Context, s *stage) (service, error)
}

// peers are all peers, in the order of "list".
var peers = []peer{
	{"bare", nothing, startBare},
	{"go-redis", missingRedis, startGoRedis},
	{"go-redis-auto", missingRedis, startGoRedisAuto},
	{"scs", missingRedis, startSCS(jsonCodec{})},
	{"scs-gob", missingRedis, startSCS(scs.GobCodec{})},
	{"pgx", missingPostgres, startPGX},
	{"jwt-rs256", nothing, startJWT("RS256")},
	{"jwt-es256", nothing, startJWT("ES256")},
	{"jwt-eddsa", nothing, startJWT("EdDSA")},
	{"express-session", missingExpress, startExpress},
	{"kratos", missingKratos, startKratos},
}

// nothing is missing for a peer that is all in this program.
func nothing(context.Context, io.Writer) string { return "" }

// service is a peer that serves.
type service struct {
	url             string
	pid             int   // of the HTTP server
	backends        []int // process ids
	credentials     []string
	bytesPerSession int64 // in the backend; 0 is unknown, or no backend
}

// line is what "run" prints once a peer serves.
type line struct {
	Name            string `json:"name"`
	URL             string `json:"url"`
	PID             int    `json:"pid"`
	BackendPIDs     []int  `json:"backend_pids"`
	Credentials     string `json:"credentials"`
	BytesPerSession int64  `json:"bytes_per_session"`
	Status          int    `json:"status"`
}

// run serves until ctx ends, which is no error, or something of the peer ends
// by itself, which is one.
func (p *peer) run(ctx context.Context, sessions, body int, stdout io.Writer) (err error) {
	s, err := newStage(sessions, body)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	v, err := p.start(ctx, s)
	if ctx.Err() != nil {
		return nil // no longer wanted, which is why it may have failed
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	file := filepath.Join(s.dir, "credentials")
	if err := os.WriteFile(file, []byte(strings.Join(v.credentials, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("write credentials: %w", err)
	}
	// What loading left behind is no part of the peer.
	debug.FreeOSMemory()
	text, err := json.Marshal(line{
		Name: p.name, URL: v.url, PID: v.pid, BackendPIDs: append([]int{}, v.backends...),
		Credentials: file, BytesPerSession: v.bytesPerSession, Status: 200,
	})
	if err != nil {
		return fmt.Errorf("encode line: %w", err)
	}
	if _, err := stdout.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("write line: %w", err)
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.failed:
		return err
	}
}
