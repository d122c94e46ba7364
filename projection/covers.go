package projection

// Covers reports whether m holds every revocation of o that matters at now (unix
// ms), so that who goes on from m instead of o makes no revoked session good
// again. It says no where it cannot tell, as between generations of a stream.
// Nobody applies anything to o meanwhile.
func (m *Map) Covers(o *Map, now int64) bool {
	for i := range o.streams {
		theirs, _ := o.streams[i].position()
		if mine, _ := m.streams[i].position(); mine != theirs {
			return false
		}
	}
	for i := range o.slices {
		for r := range o.held().list(i) {
			if !r.revoked() || now >= r.until {
				continue
			}
			if mine := m.get(r.SID); mine == nil || !mine.revoked() {
				return false
			}
		}
	}
	m.fold.RLock()
	defer m.fold.RUnlock()
	for i := range o.marks {
		for key, k := range o.marks[i] {
			mine := m.marks[key.index()][key]
			if now < k.time+year && (mine == nil || mine.seq < k.seq || len(k.kept) > 0) {
				return false
			}
		}
	}
	return true
}
