package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
)

// How often a node whose server is a member of a cluster tries again, and says
// what it waits for.
const (
	openAgain   = time.Second
	quorumEvery = 5 * time.Second
)

// member starts the NATS server of a file in this process and opens the log on
// it and its fellows. What may come by itself is waited for until ctx ends, and
// not refused: without this server the others may have no quorum.
func (s *store) member(ctx context.Context, c storeConfig) (err error) {
	if err := s.lockDir(c); err != nil {
		return err
	}
	if s.server, err = broker.StartFile(broker.FileConfig{File: c.file, Store: true, Log: c.log}); err != nil {
		return err
	}
	if err := s.memberRegion(&c); err != nil {
		return err
	}
	if err := s.connectMember(c); err != nil {
		return err
	}
	err = s.server.AwaitQuorum(ctx, quorumEvery, func(missing string) {
		c.log.Warn("waiting for a quorum of the NATS servers", "missing", missing)
	})
	if err != nil {
		return err
	}
	for {
		err := s.open(ctx, c)
		if err == nil || !s.mayCome(err) {
			return err
		}
		c.log.Warn("waiting for the log", "missing", oneLine(err))
		select {
		case <-time.After(openAgain):
		case <-s.server.Died():
			return s.server.Err()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// memberRegion takes the region from the file, whose JetStream domain bears its
// name: by it the other regions find its streams.
func (s *store) memberRegion(c *storeConfig) error {
	domain := s.server.Domain()
	if s.state != nil {
		c.region = s.state.Region
	}
	if domain != "" && c.region != "" && domain != c.region {
		return fmt.Errorf("the region is %s, and the JetStream domain of %s is %s: they must have one name", c.region, c.file, domain)
	}
	c.region = cmp.Or(c.region, domain)
	switch {
	case c.join == "":
	case c.region == "" && c.init:
		return &usageError{errors.New("--join with --init adds a region: name it with --region, or as the JetStream domain of the file")}
	case c.join == c.region:
		return &usageError{fmt.Errorf("--join %q: want the name of another region", c.join)}
	}
	return nil
}

// connectMember connects to the server in this process, as a user of its file.
func (s *store) connectMember(c storeConfig) (err error) {
	conf := c.nats.connection("revocast", c.log, &s.denials)
	conf.InProcess = s.server
	if _, _, err := s.server.Login(c.user); err != nil {
		return fmt.Errorf("%w; --nats-user names the user", err)
	}
	conf.Login = func() (string, string) {
		user, password, _ := s.server.Login(c.user) // the server refuses who has none
		return user, password
	}
	s.conn, err = events.Connect(conf)
	return err
}

// mayCome reports whether the same attempt may succeed later, without anybody
// doing anything here.
func (s *store) mayCome(err error) bool {
	_, noRegion := errors.AsType[*noRegionError](err)
	created := s.state != nil && s.state.Created
	switch {
	case created && errors.Is(err, events.ErrNoStream):
		return false // it is lost
	case noRegion, errors.Is(err, events.ErrNoStream), errors.Is(err, events.ErrReplicas):
		return true // other nodes are beginning the cluster, or their servers starting
	}
	return errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, events.ErrDenied)
}
