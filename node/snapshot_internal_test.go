package node

import (
	"testing"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// TestTape: it begins at the newest marker, unless a snapshot needs an older one.
func TestTape(t *testing.T) {
	tp := new(tape)
	note := func(marker bool, seqs ...uint64) {
		for _, seq := range seqs {
			tp.note(&events.Entry{Seq: seq}, marker)
		}
	}
	want := func(what string, seqs ...uint64) {
		t.Helper()
		passed, _ := tp.all()
		if len(passed) != len(seqs) {
			t.Fatalf("%s: %d entries, want %v", what, len(passed), seqs)
		}
		for i, p := range passed {
			if e := (events.Entry{Seq: seqs[i]}); p != (projection.Passed{Seq: e.Seq, Sum: projection.SumEntry(&e)}) {
				t.Fatalf("%s: %v, want %v", what, passed, seqs)
			}
		}
	}
	note(false, 1, 2)
	want("without a marker")
	note(true, 3)
	note(false, 5, 5, 4, 6)
	want("delivered twice", 3, 5, 6)
	note(true, 8)
	want("at the next marker", 8)
	note(false, 9)
	if anchor, _ := tp.hold(); anchor.Seq != 8 {
		t.Fatalf("anchor %d", anchor.Seq)
	}
	note(true, 10)
	note(false, 11)
	want("while it is held", 8, 9, 10, 11)
	tp.release()
	want("released", 10, 11)
	_, before := tp.hold()
	tp.reset()
	note(false, 1)
	want("reset")
	if _, now := tp.all(); now == before {
		t.Error("a reset that nobody sees")
	}
	tp.release()
	note(true, 2)
	want("begun anew", 2)
	var none *tape
	none.note(&events.Entry{Seq: 1}, true)
	none.reset()
}
