package node

import (
	"context"
	"net/http"

	"github.com/revocast/revocast/node/api"
)

// alive answers GET /healthz: the process answers, whatever it knows.
type alive struct {
	api.Meta
	Status string `json:"status"`
}

func (n *Node) healthz(context.Context, *call) (int, any, error) {
	return http.StatusOK, &alive{Status: "ok"}, nil
}

// readyz answers 200 when the node holds a lease on every stream, else 503: a
// balancer should ask another node.
func (n *Node) readyz(_ context.Context, c *call) (int, any, error) {
	r := api.Ready{
		Ready: true, Node: n.conf.Name, Region: n.home.region, Version: n.conf.Version,
		Durability: n.conf.Durability(),
	}
	r.Sessions, r.Tombstones = n.sessions().Len()
	for _, s := range n.streams() {
		state := s.state()
		// Another region out of reach is no reason to ask another node.
		r.Ready = r.Ready && (state.Fresh || s != n.settings && s != n.home)
		r.Streams = append(r.Streams, state)
	}
	if !r.Ready {
		c.h.Set("Retry-After", "1")
		return http.StatusServiceUnavailable, &r, nil
	}
	return http.StatusOK, &r, nil
}

// state returns how the node stands to the stream. StalenessMS is -1 when the
// node never knew all of it.
func (s *stream) state() api.StreamState {
	now := s.node.conf.Clock.Boot()
	st := api.StreamState{
		Stream: s.region, Position: s.position().String(), Fresh: s.lease.holds(now),
		LeaseMS: s.lease.left(now).Milliseconds(), StalenessMS: -1,
		Bytes: s.bytes.Load(), MaxBytes: s.maxBytes.Load(), Overwrites: s.overwrites.Load(),
		Digest:  s.digestState(),
		Pending: s.node.sessions().PendingLen(s.number),
	}
	if age, ok := s.lease.staleness(now); ok {
		st.StalenessMS = age.Milliseconds()
	}
	if !st.Fresh {
		st.Fenced, st.Detail = s.lease.why(), s.lease.detail()
	}
	return st
}
