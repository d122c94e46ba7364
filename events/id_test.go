package events_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/revocast/revocast/events"
)

func TestTokenKey(t *testing.T) {
	for stream := range 256 {
		tok := events.NewToken(uint8(stream))
		text := tok.Reveal()
		key, ok := tok.Key()
		if !ok || len(text) != events.TokenLen || key.Stream() != uint8(stream) {
			t.Fatalf("token of stream %d: %d characters, key of stream %d, %v", stream, len(text), key.Stream(), ok)
		}
		sum := sha256.Sum256([]byte(text))
		if !bytes.Equal(key[1:], sum[:15]) {
			t.Fatalf("key %x is not of %x", key, sum)
		}
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || len(raw) != 33 || raw[0] != uint8(stream) {
			t.Fatalf("token decodes to %d bytes, %v", len(raw), err)
		}
	}
	if a, b := events.NewToken(1), events.NewToken(1); a == b {
		t.Error("two new tokens are the same")
	}
	if a, b := events.TokenOf(1, [32]byte{1}), events.TokenOf(1, [32]byte{1}); a != b {
		t.Error("one secret makes two tokens")
	}
}

// TestTokenStrict lists what looks almost like a token. Accepted, it would be
// a second name for a session.
func TestTokenStrict(t *testing.T) {
	good := events.TokenOf(1, [32]byte{1, 2, 3}).Reveal()
	for _, text := range []string{
		"", good[:43], good + "A", good + "=", good + "\n", " " + good,
		good[:43] + "=", good[:42] + "==", good[:43] + "\n", good[:43] + "\r", "\n" + good[1:],
		good[:40] + "\n\n\n\n", good[:20] + "\r\n\r\n" + good[24:], // a decoder skips them
		strings.Repeat("\n", 44), strings.Repeat("=", 44), strings.Repeat(" ", 44),
		"+" + good[1:], "/" + good[1:], "." + good[1:], "\x00" + good[1:], good[:42] + "é",
	} {
		if key, ok := events.Token(text).Key(); ok || !key.IsZero() {
			t.Errorf("%q has key %v, %v", text, key, ok)
		}
	}
}

func TestTokenKeyDoesNotAllocate(t *testing.T) {
	tok, bad := events.NewToken(1), events.Token(strings.Repeat("!", events.TokenLen))
	if n := testing.AllocsPerRun(100, func() { tok.Key(); bad.Key() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTokenHidden(t *testing.T) {
	tok := events.NewToken(1)
	private := events.Private{Token: tok}
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewJSONHandler(&log, nil), slog.NewTextHandler(&log, nil)} {
		slog.New(h).Info("m", "token", tok)
		slog.New(h).Info("m", slog.Group("g", "token", tok))
		slog.New(h).With("token", tok).Info("m")
	}
	if n := strings.Count(log.String(), "[token]"); n != 6 {
		t.Errorf("hidden %d times of 6", n)
	}
	for _, text := range []string{
		log.String(),
		fmt.Sprint(tok), fmt.Sprintln(tok), fmt.Sprintf("%v %+v %#v %s %q %10s", tok, tok, tok, tok, tok, tok),
		fmt.Sprintf("%x %X", tok, tok),
		fmt.Sprintf("%v %+v %#v", private, private, private),
		fmt.Sprintf("%v %+v", &private, []events.Token{tok}),
		fmt.Sprintf("%v", map[events.Token]events.Token{tok: tok}),
		fmt.Errorf("token %v: %w", tok, events.ErrNotFound).Error(),
	} {
		if strings.Contains(text, tok.Reveal()) || strings.Contains(text, fmt.Sprintf("%x", tok.Reveal())) {
			t.Errorf("shows the token: %s", strings.ReplaceAll(text, tok.Reveal(), "SECRET"))
		}
	}
	// The sealed private part is the one place that holds it.
	text, err := json.Marshal(private)
	if err != nil || !strings.Contains(string(text), tok.Reveal()) {
		t.Errorf("the private part does not hold the token: %v", err)
	}
}

func TestSID(t *testing.T) {
	sid := events.SID{2, 0xff, 3}
	text := sid.String()
	if got, err := events.ParseSID(text); err != nil || got != sid || len(text) != 22 {
		t.Errorf("%q reads as %v, %v", text, got, err)
	}
	for _, text := range []string{
		"", text[:21], text + "A", text[:21] + "=", text[:20] + "==", text[:21] + "\n",
		text[:21] + "B",                       // bits that no sid has
		text[:20] + "\n\n", "\r\n" + text[2:], // a decoder skips them
		"+" + text[1:], "." + text[1:], strings.Repeat("\n", 22),
	} {
		if got, err := events.ParseSID(text); err != events.ErrBadSID || !got.IsZero() {
			t.Errorf("%q reads as %v, %v", text, got, err)
		}
		if err := json.Unmarshal(fmt.Appendf(nil, "%q", text), new(events.Incarnation)); err == nil {
			t.Errorf("%q reads as an incarnation", text)
		}
	}
	data, err := json.Marshal(map[string]any{"sid": sid, "inc": events.Incarnation(sid)})
	if want := `{"inc":"` + text + `","sid":"` + text + `"}`; err != nil || string(data) != want {
		t.Errorf("as JSON %s, want %s, %v", data, want, err)
	}
}

func FuzzParseSID(f *testing.F) {
	f.Add(events.SID{1, 2}.String())
	f.Add(strings.Repeat("\n", 22))
	f.Fuzz(func(t *testing.T, text string) {
		if sid, err := events.ParseSID(text); err == nil && sid.String() != text {
			t.Errorf("%q reads as %v", text, sid)
		}
	})
}
