// Command peers runs what users would pick instead of Revocast, each in its
// best configuration, as an HTTP server that checks a session on each request:
// Redis with go-redis and with scs, PostgreSQL with pgx, stateless JWTs with
// golang-jwt, express-session with connect-redis, Ory Kratos. "revocast bench
// --peers" measures them beside a node; README.md says what it relies on.
//
// It is a module of its own, so that go.mod of the product lists what the
// product needs. It must not import the product.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
)

const usage = `usage: deploy/peers/run list
       deploy/peers/run run NAME --sessions N --body-bytes B`

// errUsage is a command line that cannot be understood.
var errUsage = errors.New(usage)

// A child is told to end when the thread that started it ends (see
// endsWithParent), so all are started on the one thread that lives as long as
// the process.
func init() { runtime.LockOSThread() }

func main() {
	// A reader that went away must not end this process before it has cleaned
	// up. Ignoring the signal would be inherited by the children.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	switch args[0] {
	case "list":
		if len(args) != 1 {
			return errUsage
		}
		return list(ctx, stdout, stderr)
	case "run":
		return runCommand(ctx, args[1:], stdin, stdout, stderr)
	}
	return errUsage
}

// listed is a line of "list".
type listed struct {
	Name      string `json:"name"`
	Available bool   `json:"available"`
	Why       string `json:"why"`
}

func list(ctx context.Context, stdout, stderr io.Writer) error {
	out := json.NewEncoder(stdout)
	for _, p := range peers {
		why := p.missing(ctx, stderr)
		if err := ctx.Err(); err != nil {
			return nil
		}
		if err := out.Encode(listed{p.name, why == "", why}); err != nil {
			return fmt.Errorf("write list: %w", err)
		}
	}
	return nil
}

func runCommand(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	var p *peer
	for i := range peers {
		if peers[i].name == args[0] {
			p = &peers[i]
		}
	}
	if p == nil {
		return fmt.Errorf("no peer %q: see list\n%w", args[0], errUsage)
	}
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	flags.SetOutput(stderr)
	sessions := flags.Int("sessions", 100_000, "how many sessions to load")
	body := flags.Int("body-bytes", 599, "about how many bytes of JSON a session has")
	if err := flags.Parse(args[1:]); err != nil || flags.NArg() != 0 {
		return errUsage
	}
	if *sessions < 1 || *body < 1 || *body > 1<<16 {
		return fmt.Errorf("--sessions must be at least 1, --body-bytes from 1 to %d\n%w", 1<<16, errUsage)
	}

	// Whoever started this process holds its standard input open for as long
	// as the peer is wanted, and thereby ends it even when killed.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var watch sync.WaitGroup
	watch.Go(func() {
		_, _ = io.Copy(io.Discard, stdin) // an error ends it as well
		cancel()
	})
	if why := p.missing(ctx, stderr); why != "" {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("%s cannot run here: %s", p.name, why)
	}
	return p.run(ctx, *sessions, *body, stdout)
}
