package node

// Loans returns how many nodes read the snapshot of this one.
func (n *Node) Loans() int {
	_, reading := n.snapshots.loans.state()
	return reading
}

// SessionCount returns how many sessions and how many tombstones are held.
func (n *Node) SessionCount() (sessions, tombstones int) { return n.sessions().Len() }
