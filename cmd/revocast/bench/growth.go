package bench

import "io"

// Size is what a number of sessions costs.
type Size struct{}

// Fleet is what a number of nodes on one log costs.
type Fleet struct{}

func (r *Report) writeGrowth(w io.Writer) {}
