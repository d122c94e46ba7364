// Revocast is an event-sourced, distributed session store: this is its program.
//
// "revocast serve" runs a node. All other commands are clients: of a node's
// HTTP API, or, where they say so, of the data directory of a stopped one.
// main.go and config.go hold the command line, serve.go and store.go the node
// and what is under it, data.go what a data directory remembers.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for an orderly end; the next one finds the
	// system's own handler again and ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
