package node

import "testing"

func TestTrail(t *testing.T) {
	var s trail
	if _, ok := s.at(0); ok {
		t.Error("knows what stands before everything")
	}
	s.note(1, 11, 11)
	s.note(3, 33, 33)
	s.note(3, 34, 34) // delivered twice
	s.note(2, 22, 22) // below what was applied
	for seq, want := range map[uint64]uint64{1: 11, 3: 33} {
		if got, ok := s.at(seq); !ok || got != want || !s.holds(seq, want) || s.holds(seq, want+1) {
			t.Errorf("at %d: %d, %t", seq, got, ok)
		}
	}
	if _, ok := s.at(2); ok {
		t.Error("knows what was never applied")
	}
	s.note(1+trailLength, 44, 44)
	if _, ok := s.at(1); ok || !s.holds(1+trailLength, 44) {
		t.Error("what came so much later did not take its place")
	}
	s.reset()
	if _, ok := s.at(3); ok {
		t.Error("remembers what was before it was reset")
	}
	s.note(3, 35, 35)
	if !s.holds(3, 35) {
		t.Error("remembers nothing after it was reset")
	}
}
