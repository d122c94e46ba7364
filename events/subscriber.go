package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrNoSubscriber is returned for a durable that was never made, or was deleted.
var ErrNoSubscriber = errors.New("there is no such subscriber")

const (
	metaApp        = "revocast.app"
	metaSubscriber = "revocast.subscriber"
	// subscriberUnacked is how many events a subscriber may hold unacknowledged.
	subscriberUnacked = 4096
	// subscriberAckWait is after what time an event is sent again that was not
	// acknowledged. A subscriber that begins again does not wait for it.
	subscriberAckWait = 5 * time.Minute
)

// SubscriberConfig names one subscriber to the revocations of one app in one
// region, for whom an operator keeps a durable consumer. Package
// events/subscribe reads it.
type SubscriberConfig struct {
	// Region and App say whose revocations. Required.
	Region, App string
	// Name tells several subscribers of one app apart: one durable gives each
	// event to one reader only. Empty is the app's only one.
	Name string
	// Domain is the region's JetStream domain. Empty is the connection's own.
	Domain string
}

// validDomain reports whether JetStream may have such a domain, none included. As a
// part of subjects, one with a wildcard would let in to others; quotes would end the
// configuration that it is written into.
func validDomain(domain string) bool { return !strings.ContainsAny(domain, ".*>\"\\ \t\r\n") }

func badDomain(domain string) error {
	return fmt.Errorf("bad domain %q: want a name without . * > quotes and white space", domain)
}

// Check names the first field that is wrong.
func (c SubscriberConfig) Check() error {
	switch {
	case !ValidName(c.Region):
		return fmt.Errorf("bad region %q: want [a-z0-9][a-z0-9_-]{0,63}", c.Region)
	case !ValidName(c.App):
		return fmt.Errorf("bad app %q: want [a-z0-9][a-z0-9_-]{0,63}", c.App)
	case c.Name != "" && !ValidName(c.Name):
		return fmt.Errorf("bad subscriber name %q: want [a-z0-9][a-z0-9_-]{0,63}", c.Name)
	case !validDomain(c.Domain):
		return badDomain(c.Domain)
	}
	return nil
}

// Stream returns the name of the region's stream.
func (c SubscriberConfig) Stream() string { return streamName(c.Region) }

// Durable returns the name of the durable, rev_<app> or rev_<app>+<name>. No
// name has a "+", so no two subscribers have one durable.
func (c SubscriberConfig) Durable() string {
	if c.Name == "" {
		return "rev_" + c.App
	}
	return "rev_" + c.App + "+" + c.Name
}

// Filters returns the subjects in the log that the subscriber is about.
func (c SubscriberConfig) Filters() []string {
	head := "ev." + c.Region + "." + c.App + ".*.*."
	return []string{head + string(KindAll), head + string(KindRevoke)}
}

// LiveSubjects returns where the servers publish a copy of each such event as
// soon as they have stored it.
func (c SubscriberConfig) LiveSubjects() []string {
	head := "live." + c.Region + "." + c.App + ".*.*."
	return []string{head + string(KindAll), head + string(KindRevoke)}
}

// API returns the subject of a request about the durable, such as "MSG.NEXT".
func (c SubscriberConfig) API(verb string) string {
	return c.StreamAPI("CONSUMER."+verb) + "." + c.Durable()
}

// StreamAPI returns the subject of a request about the stream, such as
// "STREAM.INFO".
func (c SubscriberConfig) StreamAPI(verb string) string {
	return apiPrefix(c.Domain) + verb + "." + c.Stream()
}

func apiPrefix(domain string) string {
	if domain == "" {
		return "$JS.API."
	}
	return "$JS." + domain + ".API."
}

// requests returns what the subscriber sends to the servers: requests, with
// whether one has many answers, and acknowledgements.
func (c SubscriberConfig) requests() (subjects []string, many []bool) {
	return []string{c.API("RESET"), c.API("MSG.NEXT"), "$JS.ACK." + c.Stream() + "." + c.Durable() + ".>"}, []bool{false, true, false}
}

// Access returns what lets the subscriber in, as parts of a configuration of
// nats-server: what the account of the log exports, and the subscriber's own
// account, with a user who may do nothing else.
//
// It MUST be another account than that of the log. There, whoever may send any
// one request to JetStream can name a subject of the log as the place for the
// answer: the servers, who may do everything, store it there, and what stands on
// the subject of a revocation takes away. And it MUST NOT be let in as a leafnode:
// from one, the servers take a subject of an acknowledgement as the place for an
// answer, and so would acknowledge what another subscriber was not told yet.
func (c SubscriberConfig) Access(account string) (exports, own string) {
	name := strings.TrimPrefix(c.Durable(), "rev_")
	subjects, many := c.requests()
	var out, in strings.Builder
	for _, s := range c.LiveSubjects() {
		fmt.Fprintf(&out, "      { stream: %q, accounts: [ %q ] }\n", s, "SUBSCRIBER_"+name)
		fmt.Fprintf(&in, "      { stream: { account: %q, subject: %q } }\n", account, s)
	}
	for i, s := range subjects {
		answers := ""
		if many[i] {
			answers = ", response_type: stream"
		}
		fmt.Fprintf(&out, "      { service: %q%s, accounts: [ %q ] }\n", s, answers, "SUBSCRIBER_"+name)
		fmt.Fprintf(&in, "      { service: { account: %q, subject: %q } }\n", account, s)
	}
	// Two subscribers must not share a variable: one would have the other's password.
	// No name has capitals, so the small letters stand for nothing else.
	password := "NATS_SUBSCRIBER_" + strings.NewReplacer("-", "_dash_", "+", "_name_").Replace(strings.ToUpper(name)) + "_PASSWORD"
	return "    exports: [\n" + out.String() + "    ]\n", fmt.Sprintf(`  %q {
    imports: [
%s    ]
    users: [
      { user: %q, password: $%s, allowed_connection_types: [ STANDARD, WEBSOCKET ], permissions: {
          publish: %s
          subscribe: %s
      } }
    ]
  }
`, "SUBSCRIBER_"+name, &in, "subscriber_"+name, password, list(subjects), list(append(c.LiveSubjects(), "_INBOX.>")))
}

// list returns the subjects as a list of the configuration.
func list(subjects []string) string {
	quoted := make([]string, len(subjects))
	for i, s := range subjects {
		quoted[i] = strconv.Quote(s)
	}
	return "[ " + strings.Join(quoted, ", ") + " ]"
}

// SubscriberState is how far a subscriber is.
type SubscriberState struct {
	Region  string `json:"region"`
	App     string `json:"app"`
	Name    string `json:"name,omitempty"`
	Durable string `json:"durable"`
	// Acknowledged is the sequence up to which it acknowledged all, Pending how
	// many events it was not sent yet, Unacknowledged how many it was sent.
	Acknowledged   uint64    `json:"acknowledged"`
	Pending        uint64    `json:"pending"`
	Unacknowledged int       `json:"unacknowledged"`
	Reading        bool      `json:"reading"` // it waits for more at this moment
	Created        time.Time `json:"created"`
}

// durable returns the consumer's settings. It begins with all that the log
// holds, and lives until it is deleted.
func (c SubscriberConfig) durable(s jetstream.StreamConfig) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: c.Durable(), FilterSubjects: c.Filters(),
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: subscriberAckWait, MaxAckPending: subscriberUnacked, MaxDeliver: -1,
		Metadata: map[string]string{
			metaApp: c.App, metaSubscriber: c.Name,
			metaCluster: s.Metadata[metaCluster], metaEpoch: s.Metadata[metaEpoch], metaNumber: s.Metadata[metaNumber],
		},
	}
}

// CreateSubscriber makes the subscriber's durable, which begins with all
// revocations that the log holds. One that is there is left as it is. It takes a
// NATS user who may make consumers; another one gets ErrDenied.
func CreateSubscriber(ctx context.Context, nc *nats.Conn, c SubscriberConfig) error {
	if err := c.Check(); err != nil {
		return fmt.Errorf("create subscriber: %w", err)
	}
	api, s, err := subscribed(ctx, nc, c.Region, c.Domain)
	if err != nil {
		return fmt.Errorf("create subscriber %s: %w", c.Durable(), err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err = api.js.CreateConsumer(ctx, c.Stream(), c.durable(s))
	if errors.Is(err, jetstream.ErrConsumerExists) {
		return fmt.Errorf("create subscriber %s: stream %s has a consumer of that name with other settings: delete it first", c.Durable(), c.Stream())
	}
	if err != nil {
		return fmt.Errorf("create subscriber %s: %w", c.Durable(), explain(nc, api.prefix+"CONSUMER.CREATE."+c.Stream(), err))
	}
	return nil
}

// subscribed returns the API of the region's domain and its stream's settings.
func subscribed(ctx context.Context, nc *nats.Conn, region, domain string) (jsAPI, jetstream.StreamConfig, error) {
	api, err := newAPI(nc, domain)
	if err != nil {
		return api, jetstream.StreamConfig{}, err
	}
	s, err := api.config(ctx, streamName(region))
	switch {
	case apiCode(err) == codeNoStream:
		return api, s.Config, fmt.Errorf("region %s: %w", region, ErrNoStream)
	case err != nil:
		return api, s.Config, err
	}
	return api, s.Config, checkStream(s.Config, StreamConfig{Region: region})
}

// Subscribers returns those of the region, ordered by their durables.
func Subscribers(ctx context.Context, nc *nats.Conn, region, domain string) ([]SubscriberState, error) {
	switch {
	case !ValidName(region):
		return nil, fmt.Errorf("list subscribers: bad region %q", region)
	case !validDomain(domain):
		return nil, fmt.Errorf("list subscribers: %w", badDomain(domain))
	}
	api, _, err := subscribed(ctx, nc, region, domain)
	if err != nil {
		return nil, fmt.Errorf("list subscribers: %w", err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	stream, err := api.js.Stream(ctx, streamName(region))
	if err != nil {
		return nil, fmt.Errorf("list subscribers: %w", err)
	}
	all := []SubscriberState{}
	list := stream.ListConsumers(ctx)
	for i := range list.Info() {
		if i.Config.Metadata[metaApp] == "" {
			continue
		}
		all = append(all, SubscriberState{
			Region: region, App: i.Config.Metadata[metaApp], Name: i.Config.Metadata[metaSubscriber], Durable: i.Name,
			Acknowledged: i.AckFloor.Stream, Pending: i.NumPending, Unacknowledged: i.NumAckPending,
			Reading: i.NumWaiting > 0, Created: i.Created,
		})
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list subscribers: %w", explain(nc, api.prefix+"CONSUMER.LIST."+streamName(region), err))
	}
	slices.SortFunc(all, func(a, b SubscriberState) int { return strings.Compare(a.Durable, b.Durable) })
	return all, nil
}

// DeleteSubscriber deletes the subscriber's durable, or returns ErrNoSubscriber.
func DeleteSubscriber(ctx context.Context, nc *nats.Conn, c SubscriberConfig) error {
	if err := c.Check(); err != nil {
		return fmt.Errorf("delete subscriber: %w", err)
	}
	api, _, err := subscribed(ctx, nc, c.Region, c.Domain)
	if err != nil {
		return fmt.Errorf("delete subscriber %s: %w", c.Durable(), err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	switch err := api.js.DeleteConsumer(ctx, c.Stream(), c.Durable()); {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return fmt.Errorf("delete subscriber %s of region %s: %w", c.Durable(), c.Region, ErrNoSubscriber)
	case err != nil:
		return fmt.Errorf("delete subscriber %s: %w", c.Durable(), explain(nc, api.prefix+"CONSUMER.DELETE."+c.Stream(), err))
	}
	return nil
}

// LiveEntry reads a copy that a server published to a live subject. It is false
// for what no server can have published.
func LiveEntry(m *nats.Msg, region string) (Entry, bool) { return parseCopy(m, streamName(region)) }

// DeliveredEntry reads a message that a consumer delivered: as the how-manieth of
// that consumer, with how many more to come. It is false for a message about the
// delivery, which has no entry.
func DeliveredEntry(m *nats.Msg) (e Entry, nth, pending uint64, ok bool) {
	d, ok := parseDelivery(m.Reply)
	if !ok {
		return Entry{}, 0, 0, false
	}
	return deliveredEntry(m, d), d.consumerSeq, d.pending, true
}

// Refusal returns the error of a request to the subject that was not answered
// as an ErrDenied, if that is what the servers said last.
func Refusal(nc *nats.Conn, subject string, err error) error { return explain(nc, subject, err) }

// RefusedSubscription returns an ErrDenied if the last thing that the servers
// refused is the subscription to the subject.
func RefusedSubscription(nc *nats.Conn, subject string) error {
	if verb, what := denied(nc.LastError()); verb == "subscribe to" && what == subject {
		return &DeniedError{Verb: verb, Subject: what}
	}
	return nil
}
