package bench

import (
	"context"
	"os"
	"testing"

	"github.com/revocast/revocast/events"
)

// TestMeasureSize checks what does not depend on the machine.
func TestMeasureSize(t *testing.T) {
	dir := t.TempDir()
	z, err := measureSize(t.Context(), 5000, dir)
	if err != nil {
		t.Fatal(err)
	}
	if z.Sessions != 5000 || z.Bytes < privateBytes+sealedHead || z.Beside != z.Bytes-privateBytes-sealedHead {
		t.Errorf("%d sessions of %g B, %g beside the private part", z.Sessions, z.Bytes, z.Beside)
	}
	if z.Lookup <= 0 || z.Apply <= 0 || z.Write <= 0 || z.Load <= 0 || z.File < 5000*privateBytes {
		t.Errorf("got %+v", z)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := measureSize(ctx, 5000, dir); err == nil {
		t.Error("it went on after the end")
	}
}

// TestSessionsAreWhatTheySay checks that a session has the size that figures
// name, and is found by its token.
func TestSessionsAreWhatTheySay(t *testing.T) {
	seen := map[events.SID]bool{}
	for i := range 100 {
		e, private := newSession(2, "app", "user-7", i, sizeTime)
		if len(private) != privateBytes {
			t.Fatalf("the private part has %d bytes, want %d", len(private), privateBytes)
		}
		key, ok := token(2, i).Key()
		if !ok || e.SID != key || seen[key] {
			t.Fatalf("session %d is %v, its token's %v", i, e.SID, key)
		}
		seen[key] = true
		r := sizeRecord(i)
		if r.Event.(*events.State).SID != key || len(r.Sealed) != privateBytes+sealedHead {
			t.Fatalf("record %d is of %v", i, r.Event)
		}
	}
}

// TestSealedHead holds the constant against what a seal is.
func TestSealedHead(t *testing.T) {
	keys, err := events.NewClusterKeys(events.NewClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	e, private := newSession(2, "app", "user-7", 1, sizeTime)
	m, err := keys.Encode(region, e, private, sessionLife)
	if err != nil {
		t.Fatal(err)
	}
	if r := keys.Decode(2, events.Entry{Seq: 1, Message: m}); r.Trust != events.Authentic || len(r.Sealed) != len(private)+sealedHead {
		t.Errorf("%v, %d bytes sealed of %d", r.Trust, len(r.Sealed), len(private))
	}
}
