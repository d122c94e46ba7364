package projection_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// bulky returns n records, of which four fill a block of the file, so that
// several are loaded at the same time.
func bulky(n int) []projection.Held {
	list := make([]projection.Held, n)
	for i := range list {
		r := &list[i]
		r.SID, r.App, r.User = sid(home, i), "app", fmt.Sprint("user ", i%7)
		r.Known, r.ExpiresAt, r.AbsoluteAt, r.Longest = true, base+hour, base+24*hour, base+hour
		r.StateSeq, r.By = uint64(i+1), fmt.Sprint("key ", i%3)
		r.Sealed = bytes.Repeat([]byte{byte(i)}, 300_000)
		if i%5 == 0 { // a tombstone
			*r = projection.Held{Session: projection.Session{SID: r.SID, AbsoluteAt: base + hour}, Rank: 9, From: home, Until: base + hour}
		}
	}
	return list
}

// onCores lets the test have so many cores.
func onCores(t *testing.T, n int) {
	was := runtime.GOMAXPROCS(n)
	t.Cleanup(func() { runtime.GOMAXPROCS(was) })
}

// What is loaded on several cores is what was written, and nothing of it is out
// of joint.
func TestSnapshotLoadsOnAllCores(t *testing.T) {
	onCores(t, 4)
	list := bulky(100)
	m := new(projection.Map)
	for _, r := range list {
		m.Put(r)
	}
	loaded, _ := load(t, projection.SnapshotOf(snapKey, list))
	if err := loaded.Sound(); err != nil {
		t.Fatal(err)
	}
	if want, got := m.Dump(), loaded.Dump(); !reflect.DeepEqual(want, got) { // a Diff of so many bytes takes minutes
		t.Fatalf("%v sessions and tombstones, loaded %v; or they are others", want.Sessions, got.Sessions)
	}
	// It is changed and given up as any other.
	for _, r := range list[:90] {
		loaded.Forget(r.SID)
	}
	for i := range 512 {
		loaded.Tidy(i%256, 1_000_000)
	}
	if err := loaded.Sound(); err != nil {
		t.Fatal(err)
	}
	if full, left := m.Bytes(), loaded.Bytes(); left > full/2 {
		t.Errorf("%d bytes are left of %d", left, full)
	}
}

// One sid twice is no snapshot, however far apart the two are.
func TestSnapshotOfOneSIDTwice(t *testing.T) {
	onCores(t, 4)
	for _, at := range []int{1, 40, 79} {
		list := bulky(80)
		list[at].SID = list[0].SID
		if m, _, err := projection.ReadSnapshot(bytes.NewReader(projection.SnapshotOf(snapKey, list)), snapKey); m != nil || !errors.Is(err, projection.ErrSnapshotDamaged) {
			t.Errorf("the first again at %d: %v", at, err)
		}
	}
}

// Where sessions that are loaded at the same time list one alias, the newest
// state has it.
func TestSnapshotOfOneAliasTwice(t *testing.T) {
	onCores(t, 4)
	for round := range 20 {
		list := slices.DeleteFunc(bulky(50), func(r projection.Held) bool { return !r.Known })
		newest := (round * 7) % len(list)
		for i := range list {
			list[i].Aliases[0] = events.Alias{Key: a1, Until: base + hour}
		}
		list[newest].StateSeq = 1000
		m, _ := load(t, projection.SnapshotOf(snapKey, list))
		if s, v, _ := m.LookupToken(a1, base); v != active || s.SID != list[newest].SID {
			t.Fatalf("%v, %v, want %v", v, s.SID, list[newest].SID)
		}
		if err := m.Sound(); err != nil {
			t.Fatal(err)
		}
	}
}

// What is not authentic is refused when all of it was loaded and only its end
// tells.
func TestSnapshotRefusedAtItsEnd(t *testing.T) {
	onCores(t, 4)
	file := projection.SnapshotOf(snapKey, bulky(40))
	other := slices.Clone(snapKey)
	other[3]++
	if m, h, err := projection.ReadSnapshot(bytes.NewReader(file), other); m != nil || h != nil || !errors.Is(err, projection.ErrSnapshotForeign) {
		t.Errorf("another key: %v", err)
	}
	for _, cut := range []int{1, 33, 100, 1_000_000, len(file) / 2} {
		if m, h, err := projection.ReadSnapshot(bytes.NewReader(file[:len(file)-cut]), snapKey); m != nil || h != nil || !errors.Is(err, projection.ErrSnapshotDamaged) {
			t.Errorf("without the last %d bytes: %v", cut, err)
		}
	}
}
