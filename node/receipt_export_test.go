package node

// BreakRule lets the node break a rule of DESIGN section 5, or what makes a strong
// read or a change one.
func (n *Node) BreakRule(rule string) {
	switch rule {
	case "R2":
		n.faults.fromReturn = true
	case "R3":
		n.faults.lookupFirst = true
	case "R4":
		n.faults.anyLife = true
	case "gap":
		n.faults.overGaps = true
	case "R6":
		n.faults.beatsApart = true
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
	case "R13, vouched":
		n.faults.blindVouch = true
	case "strong":
		n.faults.strongAtOnce = true
	case "change":
		n.faults.blindChange = true
	default:
		panic("no such rule: " + rule)
	}
}

// ForgetMembers makes the node know no member of its region's stream, as after
// a start from what was written before they were.
func (n *Node) ForgetMembers() { n.home.members.reset() }
