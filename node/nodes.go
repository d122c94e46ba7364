package node

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

const (
	// statusTopic is the query that a node answers with its api.NodeStatus.
	statusTopic = "status"
	// surveyWait is how long other nodes have to say how they are.
	surveyWait = time.Second
	// surveyRounds is how often they are asked in that time: a question may be lost.
	surveyRounds = 2
)

// tellStatus answers the query of other nodes.
func (n *Node) tellStatus(context.Context, []byte) ([]byte, bool) {
	b, err := json.Marshal(n.status())
	return b, err == nil
}

// listNodes answers GET /v1/nodes: who the log of the last four leases shows,
// and how those are who answer.
func (n *Node) listNodes(ctx context.Context, _ *call) (int, any, error) {
	known := n.heardOf()
	var awaited int
	for _, a := range known {
		if !a.left && a.incarnation != n.incarnation {
			awaited++
		}
	}
	told := n.survey(ctx, awaited)
	mine := n.status()
	told[n.incarnation] = &mine
	out := &api.NodeList{Nodes: make([]api.Node, 0, len(known))}
	for _, a := range known {
		out.Nodes = append(out.Nodes, listed(a, told[a.incarnation]))
		delete(told, a.incarnation)
	}
	for who, st := range told {
		// It answers and nothing of it is in the log: it may not write there.
		out.Nodes = append(out.Nodes, listed(announced{node: st.Node, region: st.Region, incarnation: who}, st))
	}
	slices.SortStableFunc(out.Nodes, func(a, b api.Node) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Incarnation, b.Incarnation))
	})
	return http.StatusOK, out, nil
}

func listed(a announced, st *api.NodeStatus) api.Node {
	out := api.Node{Node: a.node, Incarnation: a.incarnation.String(), Region: a.region, State: api.NodeSilent, Status: st}
	if !a.logged.IsZero() {
		out.LastHeard = new(a.logged.UTC())
	}
	switch {
	case a.left:
		out.State, out.Status = api.NodeLeft, nil
	case st != nil:
		out.Region, out.State = st.Region, api.NodeFenced
		if st.Ready {
			out.State = api.NodeReady
		}
	}
	return out
}

// heardOf returns the incarnations that any stream shows.
func (n *Node) heardOf() (all []announced) {
	byID := map[events.Incarnation]announced{}
	since := n.conf.Clock.Boot() - forgetAfter*n.conf.Lease
	for _, s := range n.streams() {
		for _, a := range s.said.recent(since) {
			if was, ok := byID[a.incarnation]; ok {
				if was.logged.After(a.logged) {
					a.logged = was.logged
				}
				a.region, a.left = cmp.Or(a.region, was.region), a.left || was.left
			}
			byID[a.incarnation] = a
		}
	}
	for _, a := range byID {
		all = append(all, a)
	}
	return all
}

// survey asks all other nodes how they are until so many have answered, or a
// second has passed.
func (n *Node) survey(ctx context.Context, awaited int) map[events.Incarnation]*api.NodeStatus {
	told := map[events.Incarnation]*api.NodeStatus{}
	if n.conf.Mesh == nil || awaited == 0 && n.conf.Solo {
		return told
	}
	var mu sync.Mutex // guards heard
	heard := map[events.Incarnation][]byte{}
	for range surveyRounds {
		ctx, cancel := context.WithTimeout(ctx, surveyWait/surveyRounds)
		n.conf.Mesh.Query(ctx, statusTopic, events.Incarnation{}, nil, func(from events.Incarnation, body []byte) {
			mu.Lock()
			defer mu.Unlock()
			heard[from] = body
			if len(heard) >= awaited && awaited > 0 {
				cancel()
			}
		})
		cancel()
		if len(heard) >= awaited && awaited > 0 {
			break
		}
	}
	for from, body := range heard {
		st := new(api.NodeStatus)
		if json.Unmarshal(body, st) == nil {
			told[from] = st
		}
	}
	return told
}
