package subscribe_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/subscribe"
)

// TestPermissions holds what the deployed user of a tenant may not do. What it may
// is what all other tests do with it.
func TestPermissions(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.durable(t, "second")
	s.revoke(t, 0, 5)
	denied := make(chan error, 16)
	tenant := s.connect(t, "subscriber", denied)

	for what, subjects := range map[string][]string{
		"subscribe to": {
			"live.>", "live.*.other.*.*.rev", "live.eu.other.*.*.all", "live.*.*.*.*.rev", "live.eu.app.*.*.st", "live.eu.app.>",
			"ev.>", "ev.eu.app.*.*.rev", "_R_.>", "$JS.>", "confirm.>", "query.>", ">",
		},
		"publish to": {
			"ev.eu.app.u.s.rev", "ev.eu.other.-.-.all", "ev._config.app.-.-.app", "live.eu.app.u.s.rev", "live.eu.other.-.-.all",
			"confirm.eu", "query.status", "_INBOX.somebody",
			"$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.EV_eu", "$JS.eu.API.STREAM.INFO.EV_eu",
			"$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.UPDATE.EV_eu", "$JS.API.STREAM.DELETE.EV_eu", "$JS.API.STREAM.PURGE.EV_eu",
			"$JS.API.STREAM.MSG.GET.EV_eu", "$JS.API.STREAM.MSG.DELETE.EV_eu", "$JS.API.STREAM.SNAPSHOT.EV_eu",
			"$JS.API.DIRECT.GET.EV_eu", "$JS.API.DIRECT.GET.EV_eu.ev.eu.app.u.s.rev",
			"$JS.API.CONSUMER.CREATE.EV_eu", "$JS.API.CONSUMER.CREATE.EV_eu.x.ev.eu.app.*.*.rev", "$JS.API.CONSUMER.DURABLE.CREATE.EV_eu.x",
			"$JS.API.CONSUMER.LIST.EV_eu", "$JS.API.CONSUMER.NAMES.EV_eu", "$JS.API.CONSUMER.INFO.EV_eu.rev_app",
			"$JS.API.CONSUMER.DELETE.EV_eu.rev_app", "$JS.API.CONSUMER.PAUSE.EV_eu.rev_app", "$JS.API.CONSUMER.UNPIN.EV_eu.rev_app",
			"$JS.API.CONSUMER.LEADER.STEPDOWN.EV_eu.rev_app",
			"$JS.API.CONSUMER.MSG.NEXT.EV_eu.rev_other", "$JS.API.CONSUMER.MSG.NEXT.EV_eu.rev_app+second",
			"$JS.API.CONSUMER.RESET.EV_eu.rev_other", "$JS.API.CONSUMER.RESET.EV_eu.rev_app+second",
			"$JS.us.API.CONSUMER.RESET.EV_us.rev_other", "$JS.us.API.CONSUMER.CREATE.EV_us", "$JS.us.API.STREAM.INFO.EV_us",
			"$JS.ACK.EV_eu.rev_other.1.1.1.1.1", "$JS.ACK.EV_eu.rev_app+second.1.1.1.1.1",
		},
	} {
		for _, subject := range subjects {
			var err error
			if what == "publish to" {
				err = tenant.PublishRequest(subject, tenant.NewInbox(), []byte("{}"))
			} else {
				_, err = tenant.SubscribeSync(subject)
			}
			if err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-denied:
				if want := what + " " + strings.Replace(subject, "$JS.eu.", "$JS.", 1); !strings.HasSuffix(err.Error(), " "+want) {
					t.Errorf("%v, want it to be denied to %s", err, want)
				}
			case <-time.After(5 * time.Second):
				t.Errorf("not denied to %s %s", what, subject)
			}
		}
	}
}

// TestAnswersElsewhere has a tenant name a subject of the log as the place for each
// answer that it may ask for. In the log's own account the servers would store the
// answer there, which would revoke all of another app.
func TestAnswersElsewhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.revoke(t, 0, 20)
	before, err := s.log.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const place = "ev.eu.other.-.-.all"
	next, far := events.SubscriberConfig{Region: region, App: app}, events.SubscriberConfig{Region: region, App: app, Domain: region}
	misuse := func(nc *nats.Conn) {
		t.Helper()
		for _, ask := range [][2]string{
			{next.API("RESET"), `{"seq":1}`}, {next.API("RESET"), "x"}, {far.API("RESET"), ""}, {far.API("MSG.NEXT"), "1"}, {next.API("MSG.NEXT"), "3"}, {next.API("MSG.NEXT"), "x"},
			{next.API("MSG.NEXT"), `{"batch":1,"no_wait":true}`}, {next.API("MSG.NEXT"), `{"batch":1,"expires":100000000,"idle_heartbeat":20000000}`},
			{"$JS.ACK.EV_eu.rev_app.1.2.1.1.1", "+NXT 1"}, {"$JS.ACK.EV_eu.rev_app.1.2.1.1.1", "+ACK"}, {"$JS.ACK.EV_eu.rev_app.1.2.1.1.1", "+WPI"},
		} {
			if err := nc.PublishRequest(ask[0], place, []byte(ask[1])); err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.FlushTimeout(time.Second); err != nil {
			t.Fatal(err)
		}
		// What is answered at all is answered before this is.
		w := newTold()
		stop := run(t, s.subscriber(t), w.handle)
		w.await(t, 20)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	misuse(s.connect(t, "subscriber", nil))
	after, err := s.log.Info(t.Context())
	if err != nil || after.LastSeq != before.LastSeq {
		t.Errorf("the log went from %d to %d, %v", before.LastSeq, after.LastSeq, err)
	}
	if _, err := s.log.Last(t.Context(), place); !errors.Is(err, events.ErrNotFound) {
		t.Errorf("something stands on %s: %v", place, err)
	}
	// That this shows it: the same in the log's account.
	misuse(s.connect(t, "operator", nil))
	if _, err := s.log.Last(t.Context(), place); err != nil {
		t.Errorf("in the log's own account nothing stands on %s either: %v", place, err)
	}
}

// TestAsLeafnode has a tenant connect to the port of the leafnodes, where a server
// takes a reply that it takes from no client: one that is the acknowledgement of
// what another app's subscriber was delivered. The answer, without a body, would
// acknowledge that in its place, and it would never be told of it.
func TestAsLeafnode(t *testing.T) {
	t.Parallel()
	s := siteOf(t, linked)
	operator := s.connect(t, "operator", nil)
	other := events.SubscriberConfig{Region: region, App: "other"}
	if err := events.CreateSubscriber(t.Context(), operator, other); err != nil {
		t.Fatal(err)
	}
	s.append(t, s.message(t, other.App, 1))
	victim, err := operator.Request(other.API("MSG.NEXT"), nil, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}

	leaf, err := net.Dial("tcp", s.leaf)
	if err != nil {
		t.Fatal(err)
	}
	defer leaf.Close()
	_ = leaf.SetDeadline(time.Now().Add(10 * time.Second)) // it fails only when closed
	attack := "LMSG " + events.SubscriberConfig{Region: region, App: app}.API("MSG.NEXT") + " " + victim.Reply
	_, err = fmt.Fprintf(leaf, "CONNECT {\"user\":\"subscriber\",\"pass\":\"pw\",\"name\":\"n\",\"id\":\"N\",\"headers\":true}\r\nPING\r\n%s 26\r\n{\"batch\":1,\"no_wait\":true}\r\nPING\r\n", attack)
	if err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(leaf)
	for pongs := 0; pongs < 2 && said.Scan(); {
		if said.Text() == "PONG" {
			pongs++
			t.Errorf("let in as a leafnode")
		}
	}
	all, err := events.Subscribers(t.Context(), operator, region, "")
	if err != nil || len(all) != 2 || all[1].Unacknowledged != 1 || all[1].Acknowledged != 0 {
		t.Errorf("of the other app's subscriber: %+v, %v", all, err)
	}
}

// TestAccess has a server run what "revocast subscriber access" prints, and a
// subscriber with just that; taken out again, it ends the open connection.
func TestAccess(t *testing.T) {
	t.Parallel()
	c := events.SubscriberConfig{Region: region, App: "my-shop", Name: "billing"}
	exports, account := c.Access("APP")
	file := filepath.Join(t.TempDir(), "server.conf")
	write := func(exports, account string) {
		text := `server_name: one
listen: $NATS_LISTEN
jetstream { store_dir: $NATS_STORE, domain: eu }
accounts {
  APP {
    jetstream: enabled
    users: [ { user: operator, password: pw }, { user: node, password: pw } ]
` + exports + "  }\n" + account + "}\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(exports, account)
	s := siteOf(t, file, "NATS_SUBSCRIBER_MY_dash_SHOP_name_BILLING_PASSWORD=pw")
	s.durable(t, "") // of another app
	if err := events.CreateSubscriber(t.Context(), s.connect(t, "operator", nil), c); err != nil {
		t.Fatal(err)
	}
	w := newTold()
	sub := &subscribe.Subscriber{
		Conn: s.connect(t, "subscriber_my-shop+billing", nil), Region: region, App: c.App, Name: c.Name,
	}
	sub.OnError = func(err error) { t.Log(err) }
	run(t, sub, w.handle)
	for i := range 10 {
		s.append(t, s.message(t, c.App, i))
	}
	wantOnce(t, w.await(t, 10), 10)
	lost := sub.Conn.StatusChanged(nats.RECONNECTING)
	write("", "")
	s.reload(t)
	s.append(t, s.message(t, c.App, 10))
	<-lost
	if all := w.copied(); len(all) != 10 {
		t.Errorf("%d were told, one after the access was taken away", len(all))
	}
}

// TestAccessApart has what lets one subscriber in be nothing that lets in another:
// the variable of its password least of all.
func TestAccessApart(t *testing.T) {
	seen := map[string]string{}
	for _, c := range []events.SubscriberConfig{
		{App: "my-shop"}, {App: "my_shop"}, {App: "my", Name: "shop"}, {App: "my__shop"}, {App: "my_-shop"}, {App: "my-_shop"},
		{App: "my_dash_shop"}, {App: "my_name_shop"}, {App: "my-shop", Name: "a"}, {App: "my", Name: "shop-a"}, {App: "my", Name: "shop_a"},
	} {
		c.Region = region
		_, own := c.Access("APP")
		_, variable, _ := strings.Cut(own, "$NATS_")
		variable, _, _ = strings.Cut(variable, ",")
		if was, ok := seen[variable]; ok {
			t.Errorf("%s and %s have one password: $NATS_%s", was, c.Durable(), variable)
		}
		seen[variable] = c.Durable()
	}
}

// TestDurables makes, lists and deletes them.
func TestDurables(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	operator := s.connect(t, "operator", nil)
	c := events.SubscriberConfig{Region: region, App: "shop", Name: "billing"}
	for range 2 { // the second time it is there
		if err := events.CreateSubscriber(t.Context(), operator, c); err != nil {
			t.Fatal(err)
		}
	}
	// Names that would be one with another separator.
	for _, c := range []events.SubscriberConfig{{Region: region, App: "shop_billing"}, {Region: region, App: "shop-billing"}, {Region: region, App: "shop"}} {
		if err := events.CreateSubscriber(t.Context(), operator, c); err != nil {
			t.Fatal(err)
		}
	}
	s.append(t, s.message(t, "shop", 1))
	var all []events.SubscriberState
	for deadline := time.Now().Add(10 * time.Second); ; { // the server counts a moment after it has acknowledged
		var err error
		if all, err = events.Subscribers(t.Context(), operator, region, ""); err != nil || len(all) != 5 {
			t.Fatalf("%+v, %v", all, err)
		}
		if all[1].Pending > 0 && all[2].Pending > 0 || time.Now().After(deadline) {
			break
		}
	}
	for i, want := range []string{"rev_app", "rev_shop", "rev_shop+billing", "rev_shop-billing", "rev_shop_billing"} {
		pending := uint64(0)
		if all[i].App == "shop" {
			pending = 1
		}
		if all[i].Durable != want || all[i].Pending != pending || all[i].Reading {
			t.Errorf("%+v, want %s with %d pending", all[i], want, pending)
		}
	}
	if err := events.DeleteSubscriber(t.Context(), operator, c); err != nil {
		t.Fatal(err)
	}
	if err := events.DeleteSubscriber(t.Context(), operator, c); !errors.Is(err, events.ErrNoSubscriber) {
		t.Errorf("deleted twice: %v", err)
	}
	for _, bad := range []events.SubscriberConfig{{Region: "EU", App: "a"}, {Region: "eu", App: "a.*"}, {Region: "eu", App: "a", Name: "+"}} {
		if err := events.CreateSubscriber(t.Context(), operator, bad); err == nil {
			t.Errorf("%+v was made", bad)
		}
	}
	if err := events.CreateSubscriber(t.Context(), operator, events.SubscriberConfig{Region: "mars", App: "a"}); !errors.Is(err, events.ErrNoStream) {
		t.Errorf("in a region that is not: %v", err)
	}
	if err := events.DeleteSubscriber(t.Context(), s.connect(t, "subscriber", nil), c); !errors.Is(err, events.ErrDenied) {
		t.Errorf("as a tenant: %v", err)
	}
	// Something else of that name.
	js, err := jetstream.New(operator)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(t.Context(), "EV_eu", jetstream.ConsumerConfig{Durable: "rev_x"}); err != nil {
		t.Fatal(err)
	}
	err = events.CreateSubscriber(t.Context(), operator, events.SubscriberConfig{Region: region, App: "x"})
	if err == nil || !strings.Contains(err.Error(), "delete it first") {
		t.Errorf("over another consumer: %v", err)
	}
}
