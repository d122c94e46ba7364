package node

import (
	"fmt"

	"github.com/revocast/revocast/events"
)

// unread are authentic events that this version cannot read and that do not say
// that they may be skipped: any of them may be a revocation. While one of them
// stands in the stream, the node answers nothing about it.
type unread struct {
	standing map[string]int64 // subject to when it has left the log (unix ms, 0 never)
	newest   string           // kind of the newest, for people
	seq      uint64
}

// maxUnread bounds the subjects remembered. Beyond it the stream stays unread
// until the node is restarted.
const maxUnread = 10_000

// read takes notice of what the stream holds on a subject now.
func (s *stream) read(e *events.Entry, r *events.Record) {
	foreign := r.Trust == events.Foreign && !r.Ignorable
	if !foreign && (r.Trust != events.Authentic || !s.behind.Load()) {
		return
	}
	s.mu.Lock()
	u := &s.unread
	if foreign {
		var until int64
		if e.TTL > 0 && len(u.standing) < maxUnread {
			until = e.Time.Add(e.TTL + events.TTLSlack).UnixMilli()
		}
		if u.standing == nil {
			u.standing = map[string]int64{}
		}
		if len(u.standing) < maxUnread {
			u.standing[e.Subject] = until
		} else {
			u.standing[""] = 0
		}
		u.newest, u.seq = string(r.Subject.Kind), e.Seq
	} else {
		delete(u.standing, e.Subject)
	}
	s.behind.Store(len(u.standing) > 0)
	s.mu.Unlock()
	s.checkFormat()
}

// checkFormat fences this node, or ends that, by what it could not read.
func (s *stream) checkFormat() {
	if !s.behind.Load() {
		s.lease.bar(reasonFormat, "")
		return
	}
	s.mu.Lock()
	u, detail := &s.unread, ""
	for subject, until := range u.standing {
		// By the log's time: it is the log's server that lets events leave.
		if until != 0 && until < s.node.agreed.Load() {
			delete(u.standing, subject)
		}
	}
	s.behind.Store(len(u.standing) > 0)
	if n := len(u.standing); n > 0 {
		detail = fmt.Sprintf("%d events of a newer version, the newest of kind %q at sequence %d, cannot be read and may be revocations: run the newer version on this node",
			n, u.newest, u.seq)
	}
	s.mu.Unlock()
	if s.lease.bar(reasonFormat, detail) {
		s.node.conf.Log.Error("fenced because of events that this version cannot read", "stream", s.region, "detail", detail)
	}
}
