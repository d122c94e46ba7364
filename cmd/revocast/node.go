package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"

	"github.com/revocast/revocast/node/api"
)

type nodeCmd struct {
	List nodeList `cmd:"" help:"List every node that the log of the last minute shows, and how each is."`
}

type nodeList struct{ remote }

// Run implements the command.
func (l *nodeList) Run(e *env) error {
	c, err := l.connect(e)
	if err != nil {
		return err
	}
	var out api.NodeList
	raw, err := c.asAdmin().call(e, http.MethodGet, "/v1/nodes", nil, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) { showNodes(w, out.Nodes) })
}

// showNodes prints a line for each stream of each node, and then what is wrong.
func showNodes(w io.Writer, nodes []api.Node) {
	row(w, "NODE", "STATE", "REGION", "LAST HEARD", "SESSIONS", "STREAM", "POSITION", "FRESH", "LEASE", "STALENESS", "DIGEST")
	problems := 0
	for _, n := range nodes {
		line := []any{n.Node, n.State, cmp.Or(n.Region, "-"), stampOr(n.LastHeard, "never")}
		if n.Status == nil {
			row(w, append(line, "-", "-", "-", "-", "-", "-", "-")...)
			continue
		}
		problems += len(n.Status.Problems)
		for i, st := range n.Status.Streams {
			if i > 0 {
				line = []any{"", "", "", ""}
			}
			sessions := any("")
			if i == 0 {
				sessions = n.Status.Sessions
			}
			row(w, append(line, sessions, st.Stream, st.Position, freshness(st),
				fmt.Sprintf("%d ms", st.LeaseMS), fmt.Sprintf("%d ms", st.StalenessMS), st.Digest)...)
		}
	}
	if problems == 0 {
		return
	}
	fmt.Fprintln(w)
	row(w, "NODE", "PROBLEM", "STREAM", "")
	for _, n := range nodes {
		if n.Status == nil {
			continue
		}
		for _, p := range n.Status.Problems {
			row(w, n.Node, p.State, cmp.Or(p.Stream, "-"), p.Message)
		}
	}
}
