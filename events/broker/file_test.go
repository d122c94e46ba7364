package broker_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/revocast/revocast/events/broker"
	"github.com/revocast/revocast/events/eventstest"
)

// writeConfig writes a configuration file and returns its name.
func writeConfig(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "server.conf")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// A store that was a cluster member's is nobody else's, whatever the cluster's
// system account is called.
func TestMemberStore(t *testing.T) {
	for _, account := range []string{"$SYS", "SYS"} {
		t.Run(account, func(t *testing.T) {
			route, err := eventstest.FreeAddr()
			if err != nil {
				t.Fatal(err)
			}
			store := t.TempDir()
			alone := fmt.Sprintf("server_name: n1\nlisten: \"127.0.0.1:-1\"\njetstream { store_dir: %q, sync_interval: always }\n"+
				"accounts { %s { users: [ { user: sys, password: pw } ] } }\nsystem_account: %[2]q\n", store, account)
			member := alone + fmt.Sprintf("cluster { name: c, listen: %q, routes: [ \"nats://%[1]s\" ] }\n", route)
			s, err := broker.StartFile(broker.FileConfig{File: writeConfig(t, member)})
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
			if b, err := broker.Start(t.Context(), broker.Config{StoreDir: store}); err == nil || !strings.Contains(err.Error(), "member of a NATS cluster") {
				t.Errorf("an embedded server on a member's store: %v, %v", b, err)
			}
			if s, err := broker.StartFile(broker.FileConfig{File: writeConfig(t, alone)}); err == nil || !strings.Contains(err.Error(), "member of a NATS cluster") {
				t.Errorf("a standalone server on a member's store: %v, %v", s, err)
			}
			// The member itself comes back.
			if s, err = broker.StartFile(broker.FileConfig{File: writeConfig(t, member)}); err != nil {
				t.Fatal(err)
			}
			s.Close()
		})
	}
}

// Reload changes what can be changed, and keeps all of what it was otherwise.
func TestReload(t *testing.T) {
	file := writeConfig(t, `listen: "127.0.0.1:-1"`)
	s, err := broker.StartFile(broker.FileConfig{File: file})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for text, good := range map[string]bool{
		"listen: \"127.0.0.1:-1\"\nmax_payload: 2MB": true,
		"listen: 127.0.0.1:-1\nserver_name: other":   false,
		"nonsense": false,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Reload(); (err == nil) != good {
			t.Errorf("reload of %q: %v", text, err)
		}
	}
	if err := s.Err(); err != nil {
		t.Errorf("gave up: %v", err)
	}
}

// A client in the process, as a user of the file, outlives a restart of its
// server, and its log is what it was.
func TestServerRestart(t *testing.T) {
	s, err := broker.StartFile(broker.FileConfig{Store: true, File: writeConfig(t, fmt.Sprintf(
		"listen: \"127.0.0.1:-1\"\njetstream { store_dir: %q }\nauthorization { user: ada, password: pw }\n", t.TempDir()))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.SyncAlways() {
		t.Error("a file without sync_interval: always promises an fsync")
	}
	if _, _, err := s.Login(""); err == nil || !strings.Contains(err.Error(), `it has ada`) {
		t.Errorf("nobody logs in: %v", err)
	}
	user, password, err := s.Login("ada")
	if err != nil {
		t.Fatal(err)
	}
	again := make(chan struct{}, 1)
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.UserInfo(user, password), nats.MaxReconnects(-1),
		nats.ReconnectWait(10*time.Millisecond), nats.ReconnectHandler(func(*nats.Conn) { again <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Probe(1 << 10); err != nil {
		t.Error(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-again
	if ack, err := js.Publish(t.Context(), "s", nil); err != nil || ack.Sequence != 2 {
		t.Errorf("after the restart: %+v, %v", ack, err)
	}
	if err := s.Check(); err != nil {
		t.Errorf("a healthy server: %v", err)
	}
	s.Close()
	if s.Check() == nil || s.Probe(1) == nil || s.Restart(t.Context()) == nil {
		t.Error("a closed server goes on")
	}
}
