package node

import "slices"

// SessionDigest returns the digests over the sessions of all regions' streams at
// now (unix ms), which heartbeats carry only from time to time.
func (n *Node) SessionDigest(now int64) (all string) {
	for _, s := range slices.SortedFunc(slices.Values(n.streams()), func(a, b *stream) int { return int(a.number) - int(b.number) }) {
		if s != n.settings {
			all += s.region + " " + s.fold.Digest(now) + "\n"
		}
	}
	return all
}
