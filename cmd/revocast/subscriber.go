package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/revocast/revocast/events"
)

// subscriberCmd keeps the durables of services that hear revocations from NATS.
type subscriberCmd struct {
	Create subscriberCreate `cmd:"" help:"Make the durable consumer of a service that hears the revocations of an app from NATS."`
	Access subscriberAccess `cmd:"" help:"Print what such a service needs in the configuration of the NATS servers."`
	List   subscriberList   `cmd:"" help:"List these consumers, and how far each is."`
	Delete subscriberDelete `cmd:"" help:"Delete one."`
}

// subscriberWhere says in which region.
type subscriberWhere struct {
	natsFlags `embed:""`
	Region    string `placeholder:"NAME" help:"Region whose revocations are meant. Required; each region has consumers of its own."`
	Domain    string `env:"-" placeholder:"NAME" help:"JetStream domain of the region (default: that of the NATS servers)."`
}

// connect returns a connection, which the caller closes.
func (w *subscriberWhere) connect() (*events.Conn, error) {
	if w.Nats == "" {
		return nil, &usageError{errors.New("where? give the NATS servers with --nats, as a user who may make consumers")}
	}
	if err := w.natsFlags.check(); err != nil {
		return nil, err
	}
	nc, err := events.Connect(w.connection("revocast-subscriber", nil, nil))
	if err != nil {
		return nil, fmt.Errorf("%w; check --nats, and that a server runs there", err)
	}
	return nc, nil
}

// subscriberWho says which one.
type subscriberWho struct {
	App  string `placeholder:"APP" help:"App whose revocations the service hears. Required."`
	Name string `env:"-" placeholder:"NAME" help:"Name of the service among those of the app; each process that is to hear all needs its own (default: none)."`
}

func (w *subscriberWho) in(r *subscriberWhere) (events.SubscriberConfig, error) {
	c := events.SubscriberConfig{Region: r.Region, App: w.App, Name: w.Name, Domain: r.Domain}
	switch {
	case r.Region == "":
		return c, &usageError{errors.New("which region? give it with --region")}
	case w.App == "":
		return c, &usageError{errors.New("which app? give it with --app")}
	}
	if err := c.Check(); err != nil {
		return c, &usageError{err}
	}
	return c, nil
}

type subscriberCreate struct {
	subscriberWhere `embed:""`
	subscriberWho   `embed:""`
}

// Run implements the command.
func (s *subscriberCreate) Run(e *env) error {
	c, err := s.in(&s.subscriberWhere)
	if err != nil {
		return err
	}
	nc, err := s.connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := events.CreateSubscriber(e.ctx, nc, c); err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.stdout, "The durable %s of stream %s is there. What lets its service in: revocast subscriber access\n", c.Durable(), c.Stream())
	return err
}

type subscriberAccess struct {
	subscriberWho `embed:""`
	Region        string `placeholder:"NAME" help:"Region whose revocations are meant. Required."`
	Domain        string `env:"-" placeholder:"NAME" help:"JetStream domain of the region, if the service connects to another one (default: none)."`
	Account       string `env:"-" filled:"" placeholder:"NAME" default:"APP" help:"NATS account of the log (default: APP)."`
}

// Help is shown by "subscriber access --help".
func (*subscriberAccess) Help() string {
	return `The service gets an account of its own. In the account of the log a user who may ask JetStream for anything can have the server write to the log, and revoke what it likes.`
}

// Run implements the command.
func (s *subscriberAccess) Run(e *env) error {
	c, err := s.in(&subscriberWhere{Region: s.Region, Domain: s.Domain})
	if err != nil {
		return err
	}
	if s.Account == "" || strings.ContainsFunc(s.Account, func(r rune) bool { return !unicode.IsGraphic(r) || strings.ContainsRune(" \"'{}[]", r) }) {
		return &usageError{fmt.Errorf("--account %q: want the name of an account of the NATS servers, such as APP", s.Account)}
	}
	exports, account := c.Access(s.Account)
	_, err = fmt.Fprintf(e.stdout, "# In account %s; if it has exports, add these to them:\n%s\n# Beside it:\n%s", s.Account, exports, account)
	return err
}

type subscriberList struct {
	subscriberWhere `embed:""`
	JSON            bool `name:"json" env:"-" help:"Print JSON."`
}

// Run implements the command.
func (s *subscriberList) Run(e *env) error {
	if s.Region == "" {
		return &usageError{errors.New("which region? give it with --region")}
	}
	nc, err := s.connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	all, err := events.Subscribers(e.ctx, nc, s.Region, s.Domain)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(map[string]any{"subscribers": all})
	if err != nil {
		return err
	}
	out := &client{out: e.stdout, json: s.JSON}
	return out.show(raw, func(w io.Writer) {
		row(w, "APP", "NAME", "DURABLE", "ACKNOWLEDGED", "PENDING", "READING", "MADE")
		for _, d := range all {
			name := d.Name
			if name == "" {
				name = "-"
			}
			row(w, d.App, name, d.Durable, d.Acknowledged, d.Pending+uint64(d.Unacknowledged), yes(d.Reading), stamp(d.Created.UTC().Truncate(time.Second)))
		}
	})
}

type subscriberDelete struct {
	subscriberWhere `embed:""`
	subscriberWho   `embed:""`
}

// Run implements the command.
func (s *subscriberDelete) Run(e *env) error {
	c, err := s.in(&s.subscriberWhere)
	if err != nil {
		return err
	}
	nc, err := s.connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	switch err := events.DeleteSubscriber(e.ctx, nc, c); {
	case errors.Is(err, events.ErrNoSubscriber):
		return &missingError{err}
	case err != nil:
		return err
	}
	_, err = fmt.Fprintf(e.stdout, "The durable %s of stream %s is deleted. What happens live its service hears until its account is taken out of the configuration of the NATS servers and they have read that again.\n", c.Durable(), c.Stream())
	return err
}
