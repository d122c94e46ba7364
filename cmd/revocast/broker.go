package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/revocast/revocast/events/broker"
)

// brokerCmd runs a NATS server, and no node.
type brokerCmd struct {
	NatsConfig string `name:"nats-config" placeholder:"FILE" required:"" help:"Configuration file of nats-server, such as those in deploy/nats."`
	logFlags   `embed:""`
}

// Help is shown by "broker --help".
func (*brokerCmd) Help() string {
	return `For servers that hold the log of nodes which run elsewhere (serve --nats). Any nats-server of the same version does as well.

SIGHUP reads the file again: users, permissions, certificates. SIGINT or SIGTERM stops the server.`
}

// Run implements the command.
func (c *brokerCmd) Run(e *env) error {
	log := c.logger(e)
	s, err := broker.StartFile(broker.FileConfig{File: c.NatsConfig, Log: log})
	if err != nil {
		return err
	}
	defer s.Retire()
	fmt.Fprintf(e.stdout, "NATS server is ready.\n\n  name     %s\n  address  %s\n\n", s.Name(), s.ClientURL())
	if err := watch(e.ctx, s, log); err != nil {
		return err
	}
	log.Info("stopping")
	return nil
}

// watch reads the server's file again at each SIGHUP, until ctx ends or the
// server gives up.
func watch(ctx context.Context, s *broker.Server, log *slog.Logger) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			if err := s.Reload(); err != nil {
				log.Error("the configuration is kept as it was", "error", err)
				continue
			}
			log.Info("configuration was read again")
		case <-s.Died():
			return fmt.Errorf("nats-server gave up: %w", s.Err())
		case <-ctx.Done():
			return nil
		}
	}
}

// logFlags say what is logged, and how.
type logFlags struct {
	LogFormat string `enum:"text,json" default:"text" placeholder:"FORMAT" help:"Format of the log on stderr: text or json (default: text)."`
	LogLevel  string `enum:"debug,info,warn,error" default:"info" placeholder:"LEVEL" help:"What is logged: debug, info, warn or error (default: info)."`
}

func (c *logFlags) logger(e *env) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // the flag's enum allows no other
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(e.stderr, o))
	}
	return slog.New(slog.NewTextHandler(e.stderr, o))
}
