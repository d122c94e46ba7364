package node

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// consistencyWait is how long a request waits for a position it demands.
const consistencyWait = 500 * time.Millisecond

// consistency is how much of the log an answer must reflect.
type consistency struct {
	// strong: everything that was committed before it was asked for. It is one
	// round trip to the stream in which the session lives.
	strong  bool
	atLeast events.Revision
	// sure: what is unknown is unknown at this moment, not merely when it was
	// last asked for. Only a revocation demands it: "there was nothing to revoke".
	sure bool
	// again: the same request found the session before, so a token that was
	// replaced since is no reuse.
	again bool
}

// parseConsistency reads "bounded" (also when absent), "strong", or
// {"at_least": revision}.
func (n *Node) parseConsistency(raw json.RawMessage) (consistency, error) {
	if !given(raw) {
		return consistency{}, nil
	}
	var word string
	if json.Unmarshal(raw, &word) == nil {
		switch word {
		case "bounded":
			return consistency{}, nil
		case "strong":
			return consistency{strong: true}, nil
		}
		return consistency{}, badConsistency()
	}
	var demand struct {
		AtLeast string `json:"at_least"`
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if dec.Decode(&demand) != nil || demand.AtLeast == "" {
		return consistency{}, badConsistency()
	}
	r, err := parseRevision(demand.AtLeast)
	if err != nil {
		return consistency{}, fail(api.InvalidArgument, "consistency.at_least: %q is not a revision", demand.AtLeast).
			with("field", "consistency").because(err)
	}
	for _, p := range r {
		if _, known := n.catalog.Snapshot().Region(p.Stream); !known && n.streamOf(p.Stream) == nil {
			return consistency{}, fail(api.InvalidArgument, "consistency.at_least: no stream %q", p.Stream).with("field", "consistency")
		}
	}
	return consistency{atLeast: r}, nil
}

func badConsistency() error {
	return fail(api.InvalidArgument, `consistency: want "bounded", "strong" or {"at_least": revision}`).with("field", "consistency")
}

// reach returns once this node has come as far as the revision demanded; a
// strong read is seen to where the session's stream is known.
func (n *Node) reach(ctx context.Context, want consistency) error {
	if len(want.atLeast) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, consistencyWait)
	defer cancel()
	for _, p := range want.atLeast {
		s := n.streamOf(p.Stream)
		if s == nil { // its region is out of reach since this node began
			return fail(api.ConsistencyTimeout, "this node does not follow stream %s yet; ask another", p.Stream)
		}
		switch gen := s.position().Gen; {
		case p.Gen < gen:
			// The log that the position was of is gone: it reads as "bounded".
			continue
		case p.Gen > gen:
			return fail(api.ConsistencyTimeout, "this node has not heard of generation %d of stream %s", p.Gen, p.Stream)
		}
		if err := s.wait(ctx, p.Seq); err != nil {
			return fail(api.ConsistencyTimeout, "this node has not come as far as %s; ask again", p).because(err)
		}
	}
	return nil
}

// barrier returns once readers see everything that was committed before it was
// called: one round trip, shared with all who ask at the same time.
func (s *stream) barrier(ctx context.Context) error {
	return s.reads.pass(ctx, appendTimeout, true)
}

// streamOf returns the stream of the region, nil when this node follows none.
func (n *Node) streamOf(region string) *stream {
	for _, s := range n.streams() {
		if s.region == region {
			return s
		}
	}
	return nil
}
