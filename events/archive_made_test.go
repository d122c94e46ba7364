package events_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/events/broker"
)

// archived waits until the archive holds the message.
func archived(t *testing.T, s *site, m events.Message) {
	t.Helper()
	archive, err := events.OpenArchive(t.Context(), s.nc, events.ArchiveConfig{Region: "eu", Cluster: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); ; <-tick.C {
		found := false
		err := archive.History(t.Context(), []string{m.Subject}, func(a events.Archived) bool {
			found = a.Seal == m.Seal
			return !found
		})
		if err != nil {
			t.Fatal(err)
		}
		if found {
			t.Logf("archived after %v", time.Since(begun).Round(time.Millisecond))
			return
		}
		if time.Since(begun) > 40*time.Second {
			t.Fatalf("not archived in %v; the archive: %s", time.Since(begun), sources(t, s))
		}
	}
}

// sources returns how the archive stands to the streams it takes from.
func sources(t *testing.T, s *site) []byte {
	t.Helper()
	js, err := jetstream.New(s.nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "AUDIT_eu")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(stream.CachedInfo())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The archive of a stream that was deleted and made again with the same identity
// goes on with what the new one holds, from its first sequence: the server sees
// that it is another. That takes it some 20 s.
func TestArchiveOfStreamMadeAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT TESTED with -short: the server takes its time")
	}
	t.Parallel()
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	var last events.Message
	for i := range 30 {
		last = benchMessage(t, s.keys, i)
		put(t, log, last)
	}
	archived(t, s, last)
	s.makeAgain(t)
	first := benchMessage(t, s.keys, 60)
	if seq := put(t, log, first); seq != 1 {
		t.Fatalf("the new stream begins at %d", seq)
	}
	archived(t, s, first)
}

// again starts the site's broker anew, after a change of its files.
func (s *site) again(t *testing.T, change func()) *events.JetStream {
	t.Helper()
	s.nc.Close()
	s.b.Close()
	change()
	var err error
	if s.b, err = broker.Start(t.Context(), broker.Config{StoreDir: s.dir}); err != nil {
		t.Fatal(err)
	}
	s.nc = s.connect(t)
	return s.open(t, "eu")
}

// resume has the archive look whether its log went backwards.
func resume(t *testing.T, s *site, log *events.JetStream) bool {
	t.Helper()
	archive, err := events.OpenArchive(t.Context(), s.nc, events.ArchiveConfig{Region: "eu", Cluster: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	resumed, err := archive.Resume(t.Context(), log)
	if err != nil {
		t.Fatal(err)
	}
	return resumed
}

// The stream is put back to an older copy of its files, twice: its archive would
// wait until the stream has passed what it has, and goes on at once when told.
func TestArchiveOfStreamPutBack(t *testing.T) {
	s := newSite(t, false)
	log := s.create(t, s.cluster())
	n := 0
	put := func(count int) (last events.Message) {
		for range count {
			n++
			last = benchMessage(t, s.keys, n)
			put(t, log, last)
		}
		return last
	}
	archived(t, s, put(20))
	found, err := filepath.Glob(filepath.Join(s.dir, "jetstream", "*", "streams", "EV_eu"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the store is elsewhere: %v, %v", found, err)
	}
	store, old := found[0], filepath.Join(t.TempDir(), "old")
	replace := func(to, from string) {
		if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
			t.Fatal(err)
		}
	}
	log = s.again(t, func() { replace(old, store) })
	for round := range 2 {
		if resume(t, s, log) {
			t.Errorf("round %d: the log did not go backwards", round)
		}
		archived(t, s, put(20))
		log = s.again(t, func() { replace(store, old) })
		if !resume(t, s, log) {
			t.Errorf("round %d: the log went backwards", round)
		}
		archived(t, s, put(3))
	}
}

// An archive that its servers lost is made again, and has what the log holds.
func TestRemakeArchive(t *testing.T) {
	s := newSite(t, true)
	log := s.create(t, s.cluster())
	m := benchMessage(t, s.keys, 1)
	put(t, log, m)
	archived(t, s, m)
	js, err := jetstream.New(s.nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "AUDIT_eu"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is there
		if err := log.RemakeArchive(t.Context(), "", 0); err != nil {
			t.Fatal(err)
		}
	}
	archived(t, s, m)
}
