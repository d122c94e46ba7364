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

// readyz answers 200 when the node holds the leases it needs, else 503: a
// balancer should ask another node.
func (n *Node) readyz(_ context.Context, c *call) (int, any, error) {
	r := &api.Ready{NodeStatus: n.status()}
	if !r.Ready {
		c.h.Set("Retry-After", "1")
		return http.StatusServiceUnavailable, r, nil
	}
	return http.StatusOK, r, nil
}
