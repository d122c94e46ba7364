package node

// Loans returns how many nodes read the snapshot of this one.
func (n *Node) Loans() int {
	_, reading := n.snapshots.loans.state()
	return reading
}
