package events_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(childFile); file != "" {
		os.Exit(child(file))
	}
	const server = "github.com/nats-io/nats-server/v2/server"
	goleak.VerifyTestMain(m,
		// nats-server v2.15.2 leaves the goroutine that sets up a stream's
		// source waiting for its own time-out when the server stops meanwhile,
		goleak.IgnoreTopFunction(server+".(*stream).trySetupSourceConsumer.func3"),
		// and the file store of an atomic batch that was staged when it stopped.
		goleak.IgnoreTopFunction(server+".(*stream).tryDeleteSourcingConsumer.func1"), // waits for a region that is gone
		goleak.IgnoreTopFunction(server+".(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreTopFunction(server+".(*msgBlock).flushLoop"),
		goleak.IgnoreTopFunction(server+"/ats.Register.func1"),
	)
}
