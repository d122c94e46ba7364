package events_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/revocast/revocast/events"
)

func clusterKeys(t *testing.T, fill ...byte) *events.ClusterKeys {
	t.Helper()
	var raw [][]byte
	for _, b := range fill {
		raw = append(raw, bytes.Repeat([]byte{b}, events.ClusterKeyLen))
	}
	ks, err := events.NewClusterKeys(raw...)
	if err != nil {
		t.Fatal(err)
	}
	return ks
}

// sealedState is an authentic message with a private part.
func sealedState(t *testing.T, ks *events.ClusterKeys) events.Message {
	t.Helper()
	m, err := ks.Encode("eu", goldens()[0].event, []byte("the private part"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func trust(ks *events.ClusterKeys, m events.Message) events.Trust {
	return ks.Decode(2, events.Entry{Seq: 1, Message: m}).Trust
}

// TestSealGolden makes the header by the table in DESIGN.md alone, with the
// primitives and nothing of the package, and holds it in a file.
func TestSealGolden(t *testing.T) {
	key := bytes.Repeat([]byte{7}, events.ClusterKeyLen)
	derive := func(info string, n int) []byte {
		out, err := hkdf.Key(sha256.New, key, nil, info, n)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	m := sealedState(t, testKeys)
	var more []byte
	more = binary.BigEndian.AppendUint32(more, uint32(len(m.Subject)))
	more = append(more, m.Subject...)
	more = binary.BigEndian.AppendUint32(more, uint32(len(m.Payload)))
	more = append(more, m.Payload...)
	more = fmt.Append(more, int64(m.TTL.Seconds()))
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	for i := range nonce {
		nonce[i] = byte(i)
	}
	aead, err := chacha20poly1305.NewX(derive("revocast seal 1", 32))
	if err != nil {
		t.Fatal(err)
	}
	id := base64.RawURLEncoding.EncodeToString(derive("revocast key id", 32))[:8]
	box := aead.Seal(bytes.Clone(nonce), nonce, []byte("the private part"), more)
	seal := "1." + id + "." + base64.RawURLEncoding.EncodeToString(box)

	file := filepath.Join("testdata", "seal.txt")
	if *update {
		if err := os.WriteFile(file, []byte(seal+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if seal+"\n" != string(want) {
		t.Errorf("seal %s, want %s", seal, want)
	}
	m.Seal = strings.TrimSpace(string(want))
	r := testKeys.Decode(2, events.Entry{Message: m})
	if r.Trust != events.Authentic || !bytes.Equal(r.Sealed.Nonce(), nonce) {
		t.Fatalf("decoded as %v with nonce %x", r.Trust, r.Sealed.Nonce())
	}
	if private, err := testKeys.OpenVerified(r.Sealed); err != nil || string(private) != "the private part" {
		t.Errorf("private part %q, %v", private, err)
	}
	if got := testKeys.IDs()[0]; got != id {
		t.Errorf("key id %q, want %q", got, id)
	}
}

// TestSealCovers flips every bit of all that the seal covers, and of the seal.
func TestSealCovers(t *testing.T) {
	m := sealedState(t, testKeys)
	if got := trust(testKeys, m); got != events.Authentic {
		t.Fatalf("untouched: %v", got)
	}
	flips := func(name, text string, set func(*events.Message, string)) {
		for i := range len(text) {
			for bit := range 8 {
				b := []byte(text)
				b[i] ^= 1 << bit
				changed := m
				set(&changed, string(b))
				if got := trust(testKeys, changed); got != events.Forged && got != events.Junk {
					t.Errorf("%s byte %d bit %d: %v", name, i, bit, got)
				}
			}
		}
		for i := range len(text) + 1 {
			for _, more := range []string{"A", "\n", "\r", " ", "="} {
				changed := m
				set(&changed, text[:i]+more+text[i:])
				if got := trust(testKeys, changed); got != events.Forged && got != events.Junk {
					t.Errorf("%s with %q at %d: %v", name, more, i, got)
				}
			}
			changed := m
			if set(&changed, text[:i]); i == len(text) {
				continue
			}
			if got := trust(testKeys, changed); got != events.Forged && got != events.Junk {
				t.Errorf("%s cut at %d: %v", name, i, got)
			}
		}
	}
	flips("subject", m.Subject, func(m *events.Message, s string) { m.Subject = s })
	flips("payload", string(m.Payload), func(m *events.Message, s string) { m.Payload = []byte(s) })
	flips("seal", m.Seal, func(m *events.Message, s string) { m.Seal = s })
	for _, ttl := range []time.Duration{0, time.Second, m.TTL - time.Second, m.TTL + time.Second, -m.TTL} {
		changed := m
		changed.TTL = ttl
		if got := trust(testKeys, changed); got != events.Forged {
			t.Errorf("TTL %v: %v", ttl, got)
		}
	}
}

func TestSealBindsSubject(t *testing.T) {
	// Authentic entries of one subject are forgeries on any other, also when
	// the bytes of subject and payload put together are the same.
	m := sealedState(t, testKeys)
	moved := m
	moved.Subject = strings.Replace(m.Subject, ".eu.", ".us.", 1)
	if got := trust(testKeys, moved); got != events.Forged {
		t.Errorf("moved to another region: %v", got)
	}
	shifted := m
	shifted.Subject, shifted.Payload = m.Subject+string(m.Payload[:1]), m.Payload[1:]
	if got := trust(testKeys, shifted); got == events.Authentic {
		t.Errorf("a byte moved from payload to subject: %v", got)
	}

	// An event that its writer sealed for a subject that is not its own.
	other := events.Revoke{App: "demo", User: "bob", SID: events.SID{2}, At: 1}
	wrong, err := testKeys.Encode("eu", elsewhere{&other}, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if got := trust(testKeys, wrong); got != events.Forged {
		t.Errorf("sealed for the subject of another: %v", got)
	}
}

// elsewhere is a revocation written to another user's subject.
type elsewhere struct{ *events.Revoke }

func (e elsewhere) Subject(region string) events.Subject {
	return events.SessionSubject(region, "demo", "eve", e.SID, events.KindRevoke)
}

func TestSealKeys(t *testing.T) {
	old, both, fresh := clusterKeys(t, 1), clusterKeys(t, 2, 1), clusterKeys(t, 2)
	m := sealedState(t, old)
	for _, c := range []struct {
		name string
		ks   *events.ClusterKeys
		want events.Trust
	}{
		{"its key", old, events.Authentic},
		{"held second", both, events.Authentic},
		{"not held", fresh, events.Forged},
	} {
		if got := trust(c.ks, m); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	// The first key seals.
	if got := trust(fresh, sealedState(t, both)); got != events.Authentic {
		t.Errorf("sealed by the first of two: %v", got)
	}
	r := both.Decode(2, events.Entry{Message: m})
	if private, err := both.OpenVerified(r.Sealed); err != nil || string(private) != "the private part" {
		t.Errorf("opened by the second key: %q, %v", private, err)
	}
	if _, err := fresh.OpenVerified(r.Sealed); err == nil {
		t.Error("opened without the key")
	}
}

func TestSealPrivate(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 65, 512, 513, events.MaxPrivate} {
		private := bytes.Repeat([]byte{'p'}, n)
		m, err := testKeys.Encode("eu", goldens()[0].event, private, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		r := testKeys.Decode(2, events.Entry{Message: m})
		got, err := testKeys.OpenVerified(r.Sealed)
		if r.Trust != events.Authentic || err != nil || !bytes.Equal(got, private) || r.Sealed.Empty() != (n == 0) {
			t.Errorf("%d bytes: %v, %d bytes back, empty %v, %v", n, r.Trust, len(got), r.Sealed.Empty(), err)
		}
	}
	if got, err := testKeys.OpenVerified(nil); got != nil || err != nil {
		t.Errorf("nothing sealed opens as %q, %v", got, err)
	}
}

func TestSealNonce(t *testing.T) {
	m := sealedState(t, testKeys)
	nonce := func(m events.Message) []byte {
		return testKeys.Decode(2, events.Entry{Message: m}).Sealed.Nonce()
	}
	if a, b := nonce(m), nonce(m); len(a) != 24 || !bytes.Equal(a, b) {
		t.Errorf("two copies of one message have nonces %x and %x", a, b)
	}
	if a, b := nonce(m), nonce(sealedState(t, testKeys)); bytes.Equal(a, b) {
		t.Errorf("two messages have one nonce %x", a)
	}
	if s := events.Sealed(nil); s.Head() != nil || s.SameMessage(s) {
		t.Error("what is not sealed is a copy of something")
	}
	if n := events.Sealed(nil).Nonce(); n != nil {
		t.Errorf("nothing has nonce %x", n)
	}
}

func TestEncodeLimits(t *testing.T) {
	long := strings.Repeat("x", events.MaxEvent)
	if _, err := testKeys.Encode("eu", &events.Revoke{App: "demo", User: "u", Reason: long}, nil, 0); err != events.ErrTooLarge {
		t.Errorf("a payload above the limit: %v", err)
	}
	if _, err := testKeys.Encode("eu", &events.Touch{App: "demo", User: "u"}, make([]byte, events.MaxPrivate+1), 0); err != events.ErrTooLarge {
		t.Errorf("a private part above the limit: %v", err)
	}
	for ttl, want := range map[time.Duration]time.Duration{
		0: 0, 1: time.Second, time.Second: time.Second, time.Second + 1: 2 * time.Second, time.Hour: time.Hour,
	} {
		m, err := testKeys.Encode("eu", &events.Touch{App: "demo", User: "u"}, nil, ttl)
		if err != nil || m.TTL != want {
			t.Errorf("TTL %v became %v, %v; want %v", ttl, m.TTL, err, want)
		}
	}
}

// TestDecodeTrust is what stands in a log that this code cannot believe or read.
func TestDecodeTrust(t *testing.T) {
	sealed := func(subject, payload string) events.Message {
		m, err := testKeys.Encode("eu", raw{new(events.Touch), subject, payload}, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	touch := goldens()[1].event.Subject("eu").String()
	for _, c := range []struct {
		name string
		m    events.Message
		want events.Trust
	}{
		{"an unknown kind", sealed("ev.eu.demo.u.s.new", `{"v":1}`), events.Foreign},
		{"a newer version", sealed(touch, `{"v":2,"all":"new"}`), events.Foreign},
		{"no version", sealed(touch, `{"app":"demo"}`), events.Forged},
		{"version zero", sealed(touch, `{"v":0}`), events.Forged},
		{"a negative version", sealed(touch, `{"v":-1}`), events.Forged},
		{"wrong types", sealed(touch, `{"v":1,"app":7}`), events.Forged},
		{"not what the subject says", sealed(touch, `{"v":1,"app":"demo"}`), events.Forged},
		{"no object", sealed(touch, `[1]`), events.Forged},
		{"a subject of four", events.Message{Subject: "ev.eu.demo.st"}, events.Junk},
		{"a wildcard", events.Message{Subject: "ev.eu.demo.*.s.st"}, events.Junk},
		{"no seal", events.Message{Subject: touch, Payload: []byte(`{"v":1}`)}, events.Forged},
		{"a seal of another version", events.Message{Subject: touch, Seal: "2.AAAAAAAA.AAAA"}, events.Forged},
		{"a seal too short", events.Message{Subject: touch, Seal: "1." + testKeys.IDs()[0] + ".AAAA"}, events.Forged},
	} {
		if r := testKeys.Decode(2, events.Entry{Seq: 5, Message: c.m}); r.Trust != c.want || r.Event != nil || r.Seq != 5 {
			t.Errorf("%s: %v with event %v, want %v", c.name, r.Trust, r.Event, c.want)
		}
	}
	// A reader ignores fields it does not know.
	more := string(bytes.TrimSuffix(mustEncode(t, goldens()[1].event).Payload, []byte("}"))) + `,"new_field":[1,{"a":null}]}`
	if r := testKeys.Decode(2, events.Entry{Message: sealed(touch, more)}); r.Trust != events.Authentic {
		t.Errorf("a field added later: %v", r.Trust)
	}
}

// raw is an event of any payload on any subject.
type raw struct {
	*events.Touch
	subject, payload string
}

func (r raw) Subject(string) events.Subject {
	s, err := events.ParseSubject(r.subject)
	if err != nil {
		panic(err)
	}
	return s
}

func (r raw) MarshalJSON() ([]byte, error) { return []byte(r.payload), nil }

func mustEncode(t *testing.T, e events.Event) events.Message {
	t.Helper()
	m, err := testKeys.Encode("eu", e, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestClusterKeys(t *testing.T) {
	one, two := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	text := "# cluster keys\n\n  " + events.FormatClusterKey(one) + "\r\n#" + events.FormatClusterKey(two) + "\n" + events.FormatClusterKey(two)
	ks, err := events.ParseClusterKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(ks.IDs()), fmt.Sprint(clusterKeys(t, 1, 2).IDs()); got != want {
		t.Errorf("ids %v, want %v", got, want)
	}
	for _, text := range []string{
		"", "\n\n", "# only a comment\n",
		"short", "not base64!", events.FormatClusterKey(one[:31]), events.FormatClusterKey(append(one, 0)),
		events.FormatClusterKey(one) + " " + events.FormatClusterKey(two),
		events.FormatClusterKey(one) + "\nx",
		base64.StdEncoding.EncodeToString(one),
	} {
		_, err := events.ParseClusterKeys(text)
		if err == nil {
			t.Errorf("accepted: %q", text)
		} else if secret := events.FormatClusterKey(one); strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
	if _, err := events.NewClusterKeys(one, two[:5]); err == nil {
		t.Error("accepted a key of 5 bytes")
	}
	if a, b := events.NewClusterKey(), events.NewClusterKey(); len(a) != events.ClusterKeyLen || bytes.Equal(a, b) {
		t.Errorf("new keys %d bytes, equal %v", len(a), bytes.Equal(a, b))
	}
}

func TestDerive(t *testing.T) {
	ks := clusterKeys(t, 1, 2)
	a := ks.Derive("one purpose", 32)
	if len(a) != 32 || !bytes.Equal(a, clusterKeys(t, 1).Derive("one purpose", 32)) {
		t.Errorf("not of the sealing key: %x", a)
	}
	for name, b := range map[string][]byte{
		"another purpose": ks.Derive("another purpose", 32),
		"another key":     clusterKeys(t, 2, 1).Derive("one purpose", 32),
	} {
		if bytes.Equal(a, b) {
			t.Errorf("%s derives the same", name)
		}
	}
}

func TestClusterKeysHidden(t *testing.T) {
	ks := clusterKeys(t, 1)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("started", "keys", ks)
	slog.New(slog.NewTextHandler(&log, nil)).Info("started", "keys", ks)
	text := log.String() + fmt.Sprintf("%v %+v %s %q", ks, ks, ks, ks)
	if n := strings.Count(text, "[cluster keys]"); n != 6 {
		t.Errorf("hidden %d times of 6: %s", n, text)
	}
}
