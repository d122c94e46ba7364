package nodetest_test

import (
	"testing"

	"github.com/revocast/revocast/node/nodetest"
)

// strong is a strong read that took so long.
func strong(start, end int64, outcome, reason string, marks ...string) nodetest.Op {
	o := at(nodetest.Op{Op: nodetest.OpUse, Via: "authenticate", Strong: true, Outcome: outcome, Reason: reason, Marks: marks}, "n2", start, end)
	return o
}

// patch leaves the mark, and shows marks.
func patch(start, end int64, outcome, mark string, marks ...string) nodetest.Op {
	return at(nodetest.Op{Op: nodetest.OpUse, Via: "patch", Outcome: outcome, Wrote: mark, Marks: marks}, "n2", start, end)
}

func failed(o nodetest.Op) nodetest.Op { o.Outcome = unknown; return o }

// What is linearizable is let pass, and nothing else.
func TestCheckLinear(t *testing.T) {
	c := create("n1", 1, 2)
	many := []nodetest.Op{c}
	for i := range int64(40) {
		many = append(many, strong(3+i, 4+i, valid, ""))
	}
	for _, tc := range []struct {
		name string
		want string // the one checker that must object; empty: none
		ops  []nodetest.Op
	}{
		{"good after it was revoked", "strong", []nodetest.Op{c, revoke("n1", 3, 4, ""), strong(5, 6, valid, "")}},
		{"good after its user was revoked", "strong", []nodetest.Op{c, revokeUser("n1", 3, 4, "", "x"), strong(5, 6, valid, "")}},
		{"good again", "strong", []nodetest.Op{c, revoke("n1", 3, 20, ""), strong(5, 6, invalid, "revoked"), strong(7, 8, valid, "")}},
		{"good again, though nobody acknowledged it", "strong", []nodetest.Op{
			c, failed(revoke("n1", 3, 4, "")), strong(5, 6, invalid, "revoked"), strong(7, 8, valid, ""),
		}},
		{"revoked by nobody", "strong", []nodetest.Op{c, strong(5, 6, invalid, "revoked")}},
		{"revoked before that was asked for", "strong", []nodetest.Op{c, strong(5, 6, invalid, "revoked"), revoke("n1", 7, 8, "")}},
		{"unknown after it was created", "strong", []nodetest.Op{c, strong(3, 4, invalid, "unknown")}},
		{"revoked though it was spared", "strong", []nodetest.Op{c, revokeUser("n1", 3, 4, "", "s"), strong(5, 6, invalid, "revoked")}},
		{"not decided", "strong", many},
		{"a mark that is gone", "change", []nodetest.Op{c, patch(3, 4, valid, "a", "a"), patch(5, 6, valid, "b", "b")}},
		{"of two at a time one is gone", "change", []nodetest.Op{
			c, patch(3, 6, valid, "a", "a"), patch(3, 6, valid, "b", "b"), strong(7, 8, valid, "", "b"),
		}},
		{"a change that its answer does not show", "change", []nodetest.Op{c, patch(3, 4, valid, "a")}},
		{"a mark that nobody left", "change", []nodetest.Op{c, patch(3, 4, valid, "a", "a", "z")}},
		{"a mark that was seen, and is gone", "change", []nodetest.Op{
			c, patch(3, 4, unknown, "a"), strong(5, 6, valid, "", "a"), strong(7, 8, valid, ""),
		}},

		{"a good run", "", []nodetest.Op{
			c, strong(3, 4, valid, ""), patch(5, 6, valid, "a", "a"), patch(7, 8, valid, "b", "a", "b"), strong(9, 10, valid, "", "a", "b"),
			revoke("n1", 11, 14, ""), strong(11, 12, valid, "", "a", "b"), strong(13, 14, invalid, "revoked"), strong(15, 16, invalid, "revoked"),
		}},
		{"two at a time that both see both", "", []nodetest.Op{c, patch(3, 6, valid, "a", "a", "b"), patch(3, 6, valid, "b", "a", "b")}},
		{"nobody acknowledged it, and it happens late", "", []nodetest.Op{
			c, failed(revoke("n1", 3, 4, "")), strong(5, 6, valid, ""), strong(7, 8, invalid, "revoked"),
			patch(3, 4, unknown, "a"), patch(20, 21, valid, "b", "a", "b"),
		}},
		{"a revocation of before", "", []nodetest.Op{create("n1", 5, 6), revokeUser("n2", 1, 2, "", ""), strong(7, 8, valid, "")}},
		{"a token that was replaced", "", []nodetest.Op{c, at(nodetest.Op{Op: nodetest.OpUse, Via: "rotate", Outcome: valid}, "n1", 3, 4), strong(5, 6, invalid, "unknown")}},
		{"revoked where its home is out of reach", "", []nodetest.Op{away(1, 2), pendingRevoke(3, 4), strong(5, 6, invalid, "revoked"), strong(7, 8, valid, "")}},
		{"a log that lost it", "", []nodetest.Op{c, revoke("n1", 3, 4, ""), lose(5, 20), strong(6, 7, valid, "")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bad := nodetest.CheckLinear(tc.ops)
			if tc.want == "" && len(bad) > 0 || tc.want != "" && (len(bad) == 0 || bad[0].Check != tc.want) {
				t.Errorf("want %q, got %v", tc.want, bad)
			}
		})
	}
}
