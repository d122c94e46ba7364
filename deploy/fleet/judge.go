package fleet

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/revocast/revocast/node/nodetest"
)

func digest(lines []string) string {
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:8])
}

// Seen counts what clients were told.
type Seen struct {
	Uses, Valid, Invalid, Fenced, Unknown int
	Writes, Acknowledged                  int
	Reasons                               map[string]int // of what was fenced or got no answer
}

// String returns the counts on one line.
func (s Seen) String() string {
	out := fmt.Sprintf("%d uses (%d good, %d not, %d refused, %d unanswered), %d of %d writes acknowledged",
		s.Uses, s.Valid, s.Invalid, s.Fenced, s.Unknown, s.Acknowledged, s.Writes)
	for _, r := range slices.Sorted(maps.Keys(s.Reasons)) {
		out += fmt.Sprintf("; %s: %d", cmp.Or(r, "no answer"), s.Reasons[r])
	}
	return out
}

// Count counts the operations that a node was asked for between two moments of
// the history's clock; without a node, those of all.
func Count(ops []nodetest.Op, node string, from, to int64) Seen {
	s := Seen{Reasons: map[string]int{}}
	for _, o := range ops {
		if node != "" && o.Node != node || o.Start < from || o.Start >= to {
			continue
		}
		switch o.Op {
		case nodetest.OpUse:
			s.use(o)
		case nodetest.OpCreate, nodetest.OpRevoke, nodetest.OpRevokeUser:
			s.Writes++
			if o.Outcome == nodetest.OK {
				s.Acknowledged++
			} else {
				s.Reasons[o.Op+" "+o.Reason]++
			}
		}
	}
	return s
}

func (s *Seen) use(o nodetest.Op) {
	s.Uses++
	switch o.Outcome {
	case nodetest.Valid:
		s.Valid++
	case nodetest.Invalid:
		s.Invalid++
	case nodetest.Fenced:
		s.Fenced++
		s.Reasons[o.Via+" "+o.Reason]++
	default:
		s.Unknown++
		s.Reasons[o.Via+" "+o.Reason]++
	}
}

// Percentiles returns the p50, the p99 and the longest of the times, which it
// sorts.
func Percentiles(times []time.Duration) (p50, p99, longest time.Duration) {
	if len(times) == 0 {
		return 0, 0, 0
	}
	slices.Sort(times)
	return times[len(times)/2], times[len(times)*99/100], times[len(times)-1]
}
