package main

import (
	"strings"
	"testing"

	"github.com/revocast/revocast/events"
)

func TestByteSize(t *testing.T) {
	for text, want := range map[string]byteSize{
		"0": 0, "1073741824": 1 << 30, "10GiB": 10 << 30, "10 gb": 10 << 30, "512M": 512 << 20, "3k": 3 << 10, "1T": 1 << 40, "7B": 7,
	} {
		var got byteSize
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "G", "-1", "1.5G", "10X", "9223372036854775807T"} {
		var got byteSize
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q = %d, want an error", text, got)
		}
	}
	for size, want := range map[byteSize]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 3 << 29: "1.5 GiB"} {
		if got := size.String(); got != want {
			t.Errorf("%d is %q, want %q", int64(size), got, want)
		}
	}
}

func TestSanitiseName(t *testing.T) {
	for host, want := range map[string]string{
		"web-1": "web-1", "Ada's MacBook.local": "ada-s-macbook-local", "": "node", "---": "node", "_x": "x", "东京": "node",
	} {
		if got := sanitiseName(host); got != want {
			t.Errorf("%q = %q, want %q", host, got, want)
		}
	}
	if got := sanitiseName(strings.Repeat("a-", 80)); !events.ValidName(got) {
		t.Errorf("a long name became %q", got)
	}
}

// What others chose must not move the cursor of who looks at it.
func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[2Jb\tc\u202ed é 🙂"); got != "a\uFFFD[2Jb\uFFFDc\uFFFDd é 🙂" {
		t.Errorf("printable = %q", got)
	}
}
