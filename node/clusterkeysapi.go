package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// listClusterKeys answers GET /v1/cluster-keys: for this node, and what it knows
// of the others.
func (n *Node) listClusterKeys(context.Context, *call) (int, any, error) {
	if stale := n.configStale(); stale != nil {
		return 0, nil, stale
	}
	return http.StatusOK, n.clusterKeys(), nil
}

// rotateClusterKeys answers POST /v1/cluster-keys/rotate: this node begins to seal
// anew what another key than the first sealed, unless it is at it already. The
// answer does not wait for the end.
func (n *Node) rotateClusterKeys(_ context.Context, c *call) (int, any, error) {
	if err := c.nothing(); err != nil {
		return 0, nil, err
	}
	if _, err := n.administer(); err != nil {
		return 0, nil, err
	}
	first, sealing := n.conf.Keys.IDs()[0], n.conf.Keys.Sealing()
	if first != sealing {
		names := lacking(n.listing(), first)
		if len(names) == 0 {
			return 0, nil, fail(api.Conflict, "cluster key %s comes first but does not seal yet; try again in a moment", first).with("key_id", first)
		}
		return 0, nil, fail(api.Conflict, "cluster key %s comes first but does not seal yet: %s must hold it as well", first, strings.Join(names, ", ")).
			with("key_id", first).with("lacking", names)
	}
	n.reseal.begin(sealing, n.conf.Clock.Wall())
	return http.StatusAccepted, n.clusterKeys(), nil
}

func (n *Node) clusterKeys() *api.ClusterKeyList {
	out := &api.ClusterKeyList{Node: n.conf.Name, Rotation: n.reseal.report()}
	sealing, all := n.conf.Keys.Sealing(), n.listing()
	for _, id := range n.conf.Keys.IDs() {
		k := api.ClusterKey{KeyID: id, Sealing: id == sealing, Lacking: lacking(all, id)}
		if k.Needed = n.neededBy(id, sealing, &out.Rotation, all); len(k.Needed) == 0 {
			k.MayGo = true
			until := n.conf.Clock.Wall().Add(events.DefaultRetention).UTC().Truncate(time.Second)
			k.HistoryUntil = &until
		}
		out.Keys = append(out.Keys, k)
	}
	return out
}

// neededBy says what still needs the cluster key.
func (n *Node) neededBy(id, sealing string, r *api.ClusterKeyRotation, all []announced) (needed []string) {
	if id == sealing {
		return []string{"it seals"}
	}
	for _, name := range lacking(all, sealing) {
		needed = append(needed, fmt.Sprintf("node %s does not hold %s, which seals here", name, sealing))
	}
	if r.State != rotationComplete || r.KeyID != sealing {
		return append(needed, "no rotation to "+sealing+" was completed on this node since it seals")
	}
	for _, l := range r.Left {
		switch {
		case l.KeyID != id:
		case l.Until == nil:
			needed = append(needed, fmt.Sprintf("%d events in stream %s", l.Count, l.Stream))
		case n.conf.Clock.Wall().Before(*l.Until):
			needed = append(needed, fmt.Sprintf("%d events in stream %s, which leave by %s", l.Count, l.Stream, l.Until.Format(time.RFC3339)))
		}
	}
	for _, m := range all {
		if m.sealed == id && n.conf.Clock.Boot()-m.heard < n.maxWait() {
			needed = append(needed, fmt.Sprintf("node %s still seals with it", m.node))
		}
	}
	slices.Sort(needed)
	return slices.Compact(needed)
}
