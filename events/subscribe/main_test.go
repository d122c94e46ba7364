package subscribe_test

import (
	"flag"
	"fmt"
	"io"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/revocast/revocast/events/broker"
)

// childFile names a configuration file, and makes this binary be its server.
const childFile = "REVOCAST_TEST_SERVER"

// child runs the server until its parent closes stdin, or dies.
func child(file string) int {
	s, err := broker.StartFile(broker.FileConfig{File: file})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer s.Close()
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // any end of it is the end
	return 0
}

func TestMain(m *testing.M) {
	if file := os.Getenv(childFile); file != "" {
		os.Exit(child(file))
	}
	flag.Parse()
	if testing.Short() {
		many /= 4
	}
	const server = "github.com/nats-io/nats-server/v2/server"
	goleak.VerifyTestMain(m,
		// nats-server v2.15.2 leaves the goroutine that sets up a stream's source
		// waiting for its own time-out when the server stops meanwhile, and parts
		// of the file store of an atomic batch that was staged when it stopped.
		goleak.IgnoreTopFunction(server+".(*stream).trySetupSourceConsumer.func3"),
		goleak.IgnoreTopFunction(server+".(*stream).tryDeleteSourcingConsumer.func1"),
		goleak.IgnoreTopFunction(server+".(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreTopFunction(server+".(*msgBlock).flushLoop"),
		goleak.IgnoreTopFunction(server+"/ats.Register.func1"),
	)
}
