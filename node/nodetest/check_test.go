package nodetest_test

import (
	"testing"

	"github.com/revocast/revocast/node/nodetest"
)

// second is one of the driver's clock; the lease of these histories is 4 s.
const second = int64(1e9)

func at(o nodetest.Op, node string, start, end int64) nodetest.Op {
	o.Node, o.Life, o.Start, o.End = node, 1, start*second, end*second
	if o.SID == "" && o.Op != nodetest.OpRevokeUser {
		o.SID = "s"
	}
	if o.User == "" {
		o.User = "ada"
	}
	return o
}

func create(node string, start, end int64) nodetest.Op {
	return at(nodetest.Op{Op: nodetest.OpCreate, Outcome: nodetest.OK, Revision: "eu:0:10"}, node, start, end)
}

func revoke(node string, start, end int64, receipt string) nodetest.Op {
	return at(nodetest.Op{Op: nodetest.OpRevoke, Outcome: nodetest.OK, Receipt: receipt, Revision: "eu:0:20"}, node, start, end)
}

func revokeUser(node string, start, end int64, receipt, spared string) nodetest.Op {
	return at(nodetest.Op{
		Op: nodetest.OpRevokeUser, Outcome: nodetest.OK, Receipt: receipt, Revision: "eu:0:20", Spared: spared,
	}, node, start, end)
}

func use(node string, start int64, outcome, reason string) nodetest.Op {
	return at(nodetest.Op{Op: nodetest.OpUse, Via: "token", Outcome: outcome, Reason: reason}, node, start, start)
}

func atLeast(o nodetest.Op, revision string) nodetest.Op { o.AtLeast = revision; return o }

func inLife(o nodetest.Op, life int) nodetest.Op { o.Life = life; return o }

func read(node, outcome, reason string) nodetest.Op {
	return at(nodetest.Op{Op: nodetest.OpRead, Outcome: outcome, Reason: reason}, node, 90, 90)
}

func lose(when int64, seq uint64) nodetest.Op {
	return nodetest.Op{Op: nodetest.OpLose, Start: when * second, End: when * second, Seq: seq}
}

func probe(outcome string) nodetest.Op {
	return at(nodetest.Op{Op: nodetest.OpProbe, SID: "p", Outcome: outcome}, "n1", 80, 80)
}

func in(o nodetest.Op, region string) nodetest.Op { o.Region = region; return o }

// pendingRevoke is a revocation by a node in eu of what lives in us.
func pendingRevoke(start, end int64) nodetest.Op {
	o := in(revoke("eu1", start, end, "pending"), "eu")
	o.Revision, o.Pending = "eu:0:20@us.s", []string{"us"}
	return o
}

// away is the creation in us of what pendingRevoke revokes.
func away(start, end int64) nodetest.Op {
	o := in(create("us1", start, end), "us")
	o.Revision = "us:0:10"
	return o
}

// later is the receipt of a revocation that was asked for again.
func later(o nodetest.Op, status string, start, end int64) nodetest.Op {
	return at(nodetest.Op{Op: nodetest.OpReceipt, SID: "-", Outcome: nodetest.OK, Revision: o.Revision, Receipt: status}, "n3", start, end)
}

func heal(when int64) nodetest.Op {
	return nodetest.Op{Op: nodetest.OpHeal, Start: when * second, End: when * second}
}

func elect(start, end int64) nodetest.Op {
	return nodetest.Op{Op: nodetest.OpElect, Stream: "eu", Start: start * second, End: end * second}
}

func harm(node, name string, start, end int64) nodetest.Op {
	return nodetest.Op{Op: nodetest.OpHarm, Node: node, Note: name, Start: start * second, End: end * second}
}

func digest(node, value string) nodetest.Op {
	return nodetest.Op{Op: nodetest.OpDigest, Node: node, Note: value}
}

const (
	valid   = nodetest.Valid
	invalid = nodetest.Invalid
	fenced  = nodetest.Fenced
	unknown = nodetest.Unknown
)

// Each checker rejects the histories that break its promise, and no other one.
func TestCheckers(t *testing.T) {
	c := create("n1", 1, 2)
	for _, tc := range []struct {
		name string
		want string // the one checker that must object; empty: none
		ops  []nodetest.Op
	}{
		{"a session that is gone at the end", "C1", []nodetest.Op{c, read("n2", invalid, "unknown")}},
		{"a revocation that is gone at the end", "C1", []nodetest.Op{c, revoke("n1", 3, 4, "committed"), read("n2", valid, "")}},
		{"a revocation of a user that is gone at the end", "C1", []nodetest.Op{c, revokeUser("n1", 3, 4, "committed", ""), read("n2", valid, "")}},
		{"good after revoked on one node", "C2", []nodetest.Op{c, use("n2", 5, invalid, "revoked"), use("n2", 6, valid, "")}},
		{"good after revoked, in the next life", "C2", []nodetest.Op{c, use("n2", 5, invalid, "revoked"), inLife(use("n2", 6, valid, ""), 2)}},
		{"older than a lease", "C3", []nodetest.Op{c, revoke("n1", 3, 4, "committed"), use("n2", 9, valid, "")}},
		{"good after the receipt", "C4", []nodetest.Op{c, revoke("n1", 3, 8, "complete"), use("n2", 9, valid, "")}},
		{"good after the receipt for the user", "C4", []nodetest.Op{c, revokeUser("n1", 3, 8, "complete", "x"), use("n2", 9, valid, "")}},
		{"minted after the receipt", "C4", []nodetest.Op{c, revoke("n1", 3, 8, "complete"), func() nodetest.Op {
			o := use("n2", 9, valid, "")
			o.Via = "mint"
			return o
		}()}},
		{"own session not seen", "C5", []nodetest.Op{c, use("n1", 3, invalid, "unknown")}},
		{"own revocation not seen", "C5", []nodetest.Op{c, revoke("n1", 3, 4, "committed"), use("n1", 5, valid, "")}},
		{"session not seen at its revision", "C5", []nodetest.Op{c, atLeast(use("n2", 3, invalid, "unknown"), "eu:0:10")}},
		{"revocation not seen at its revision", "C5", []nodetest.Op{c, revoke("n1", 3, 4, "committed"), atLeast(use("n2", 5, valid, ""), "eu:0:20")}},
		{"two states of one log", "C6", []nodetest.Op{digest("n1", "a"), digest("n2", "a"), digest("n3", "b")}},
		{"no session after healing", "C7", []nodetest.Op{probe(unknown)}},
		{"no answer after healing", "C7", []nodetest.Op{c, read("n2", fenced, "node_stale")}},
		{"a slow write after healing", "C7", []nodetest.Op{heal(10), func() nodetest.Op {
			o := probe(nodetest.OK)
			o.End = o.Start + 16*second
			return o
		}()}},
		{"fenced long after healing", "C7", []nodetest.Op{c, heal(10), use("n2", 19, fenced, nodetest.Stale)}},
		{"pending after healing", "C7", []nodetest.Op{away(1, 2), pendingRevoke(3, 4), heal(10), later(pendingRevoke(3, 4), "pending", 20, 20)}},
		{"committed after healing", "C7", []nodetest.Op{heal(10), later(revoke("n1", 3, 4, "committed"), "committed", 20, 40)}},
		{"fenced by an election", "C8", []nodetest.Op{c, elect(10, 13), use("n2", 12, fenced, nodetest.Stale)}},
		{"fenced right after an election", "C8", []nodetest.Op{c, elect(10, 13), use("n2", 14, fenced, nodetest.Stale)}},
		{"a goroutine is left", "C9", []nodetest.Op{{Op: nodetest.OpStop, Seq: 1}}},
		{"a pending revocation that is gone at the end", "C1", []nodetest.Op{away(1, 2), pendingRevoke(3, 4), in(read("us1", valid, ""), "us")}},
		{"a pending revocation not seen where it was taken", "C5", []nodetest.Op{away(1, 2), pendingRevoke(3, 4), in(use("eu1", 5, valid, ""), "eu")}},
		{"a pending revocation not seen at its revision", "C5", []nodetest.Op{
			away(1, 2), pendingRevoke(3, 4), in(atLeast(use("us1", 5, valid, ""), "eu:0:20@us.s"), "us"),
		}},
		{"a pending revocation that its region does not hear of", "C3", []nodetest.Op{
			away(1, 2), pendingRevoke(3, 4), harm("eu1", "sever", 0, 20), harm("us1", "pause", 3, 20), in(use("eu2", 9, valid, ""), "eu"),
		}},
		{"good after a receipt that was asked for later", "C4", []nodetest.Op{
			away(1, 2), pendingRevoke(3, 4), later(pendingRevoke(3, 4), "complete", 10, 12), in(use("us1", 13, valid, ""), "us"),
		}},
		{"good after the later receipt for the user", "C4", []nodetest.Op{
			c, revokeUser("n1", 3, 4, "committed", ""), later(revoke("n1", 3, 4, ""), "complete", 5, 6), use("n2", 7, valid, ""),
		}},

		{"a good run", "", []nodetest.Op{
			c, use("n1", 3, valid, ""), revoke("n1", 4, 9, "complete"), use("n2", 10, invalid, "revoked"),
			read("n1", invalid, "revoked"), digest("n1", "a"), digest("n2", "a"), probe(nodetest.OK),
		}},
		{"stale, within the lease, on another node", "", []nodetest.Op{c, revoke("n1", 3, 4, "committed"), use("n2", 8, valid, "")}},
		{"asked before the receipt", "", []nodetest.Op{c, revoke("n1", 3, 8, "complete"), use("n2", 8, valid, "")}},
		{"a revocation nobody acknowledged", "", []nodetest.Op{c, func() nodetest.Op {
			o := revoke("n1", 3, 4, "")
			o.Outcome = unknown
			return o
		}(), use("n2", 20, valid, ""), read("n1", invalid, "revoked")}},
		{"created while its user was revoked", "", []nodetest.Op{create("n1", 3, 5), revokeUser("n2", 4, 6, "complete", ""), use("n1", 20, valid, "")}},
		{"spared", "", []nodetest.Op{c, revokeUser("n2", 4, 8, "complete", "s"), use("n1", 20, valid, ""), read("n1", valid, "")}},
		{"lost by the log", "", []nodetest.Op{c, lose(5, 10), read("n1", invalid, "unknown")}},
		{"a region that has not heard of a pending revocation", "", []nodetest.Op{
			away(1, 2), pendingRevoke(3, 4), in(use("eu1", 5, invalid, "revoked"), "eu"), in(use("us1", 60, valid, ""), "us"),
			in(read("us1", invalid, "revoked"), "us"), heal(70), later(pendingRevoke(3, 4), "complete", 80, 81),
		}},
		{"a node that was cut off the stream that says a pending revocation", "", []nodetest.Op{
			away(1, 2), pendingRevoke(3, 4), harm("eu2", "cut of one stream", 3, 20), in(use("eu2", 9, valid, ""), "eu"),
		}},
		{"fenced in an election, and by something else", "", []nodetest.Op{
			c, elect(10, 13), harm("n2", "pause", 8, 9), use("n2", 12, fenced, nodetest.Stale), heal(13),
		}},
		{"fenced in an election as long as a lease", "", []nodetest.Op{c, elect(10, 14), use("n2", 13, fenced, nodetest.Stale)}},
		{"a write that is not taken in an election", "", []nodetest.Op{c, elect(10, 13), use("n2", 12, fenced, "log_unavailable")}},
		{"fenced soon after healing", "", []nodetest.Op{c, heal(10), use("n2", 17, fenced, nodetest.Stale)}},
		{"lost by the log of the other region", "C1", []nodetest.Op{c, func() nodetest.Op {
			o := lose(5, 10)
			o.Stream = "us"
			return o
		}(), read("n1", invalid, "unknown")}},
		{"a node that does not answer", "", []nodetest.Op{c, revoke("n1", 3, 8, "complete"), use("n2", 9, fenced, "node_stale")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			found := map[string]bool{}
			bad := nodetest.Check(tc.ops, nodetest.Lease)
			for _, v := range bad {
				found[v.Check] = true
			}
			if tc.want == "" && len(found) > 0 || tc.want != "" && (!found[tc.want] || len(found) > 1) {
				t.Errorf("want %q, got %v", tc.want, bad)
			}
		})
	}
}
