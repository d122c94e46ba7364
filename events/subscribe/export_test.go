package subscribe

import "time"

// DropLive has the subscriber lose the live messages for which drop is true.
func (s *Subscriber) DropLive(drop func(seq uint64) bool) { s.dropLive = drop }

// Hasten shortens how long nobody may answer at first, and how long deliveries may
// be missing.
func (s *Subscriber) Hasten(start, shared time.Duration) { s.startWait, s.sharedFor = start, shared }
