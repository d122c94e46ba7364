package node

// SessionDigest returns the digest over the sessions of the home stream at now
// (unix ms), which heartbeats carry only from time to time.
func (n *Node) SessionDigest(now int64) string { return n.home.fold.Digest(now) }
