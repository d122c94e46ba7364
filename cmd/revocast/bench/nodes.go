package bench

import "io"

// Fleet is what a number of nodes on one log costs.
type Fleet struct{}

func (r *Report) writeNodes(w io.Writer) {}
