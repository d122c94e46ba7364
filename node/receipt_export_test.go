package node

// BreakRule lets the node break a rule of the receipt.
func (n *Node) BreakRule(rule string) {
	switch rule {
	case "R5":
		n.faults.silentIsDead = true
	case "R9":
		n.faults.fromRequest = true
	case "R11":
		n.faults.membersAtRequest = true
	case "R12":
		n.faults.confirmEarly = true
	case "R13":
		n.faults.fastAfterBreak = true
	default:
		panic("no such rule: " + rule)
	}
}
