package events

import "strconv"

// scanPayload decodes the kinds that make up nearly all of a log, as Encode
// writes them. It returns nil for any other kind, version or form, which says
// nothing about the payload. Strings that stand in the subject too are shared
// with it.
func scanPayload(at Subject, payload []byte) Event {
	s := scanner{b: payload}
	if at.Kind == KindState && s.next(`{"v":2`) {
		if e := (&State{V: BoundVersion}); s.state(e, at.App) {
			return e
		}
		return nil
	}
	if s.want(`{"v":1`); s.failed { // another version begins otherwise
		return nil
	}
	switch at.Kind {
	case KindState:
		if e := (&State{V: 1}); s.state(e, at.App) {
			return e
		}
	case KindTouch:
		if e := new(Touch); s.touch(e, at.App) {
			return e
		}
	case KindRevoke:
		if e := new(Revoke); s.revoke(e, at.App) {
			return e
		}
	case KindAll:
		if e := new(RevokeAll); s.revokeAll(e, at.App) {
			return e
		}
	case KindExpire:
		if e := new(Expire); s.expire(e, at.App) {
			return e
		}
	case KindBeat:
		if e := new(Beat); s.beat(e, at.User) {
			return e
		}
	}
	return nil
}

func (s *scanner) state(e *State, app string) bool {
	s.known(`,"app":`, &e.App, app)
	s.text(`,"user":`, &e.User)
	s.sid(`,"sid":`, &e.SID)
	s.known(`,"reason":`, &e.Reason, ReasonCreated, ReasonExtended, ReasonChanged, ReasonRotated, ReasonRepaired, ReasonResealed, ReasonErased)
	s.integer(`,"created_at":`, &e.CreatedAt)
	s.integer(`,"expires_at":`, &e.ExpiresAt)
	s.integer(`,"absolute_at":`, &e.AbsoluteAt)
	s.integer(`,"idle":`, &e.Idle)
	s.integer(`,"seen_at":`, &e.SeenAt)
	s.seq(`,"prev":`, &e.Prev)
	s.seq(`,"created_seq":`, &e.CreatedSeq)
	s.seq(`,"auth_seq":`, &e.AuthSeq)
	s.integer(`,"original_until":`, &e.OriginalUntil)
	s.list(`,"aliases":`, func() {
		var a Alias
		s.want("{")
		if s.next(`"key":`) {
			a.Key = s.id()
		} else {
			s.failed = true // without a key, the first member has no comma
		}
		s.integer(`,"until":`, &a.Until)
		s.want("}")
		if e.Aliases == nil {
			e.Aliases = make([]Alias, 0, MaxAliases)
		}
		e.Aliases = append(e.Aliases, a)
	})
	s.text(`,"by":`, &e.By)
	e.Bound = s.next(`,"bound":true`)
	s.changes(&e.Changes)
	return s.done()
}

func (s *scanner) changes(to **Changes) {
	if !s.next(`,"changes":{`) {
		return
	}
	c, first := new(Changes), true
	member := func(name string) bool {
		start := s.i
		if (first || s.next(",")) && s.next(name) {
			first = false
			return true
		}
		s.i = start
		return false
	}
	if member(`"factors_added":`) {
		s.list("", func() { c.FactorsAdded = append(c.FactorsAdded, string(s.raw())) })
	}
	if member(`"assurance_level":`) {
		c.Level = string(s.raw())
	}
	if member(`"assurance_level_before":`) {
		c.LevelBefore = string(s.raw())
	}
	if member(`"claims":`) {
		s.want("true")
		c.Claims = true
	}
	s.want("}")
	*to = c
}

func (s *scanner) touch(e *Touch, app string) bool {
	e.V = 1
	s.known(`,"app":`, &e.App, app)
	s.text(`,"user":`, &e.User)
	s.sid(`,"sid":`, &e.SID)
	s.integer(`,"at":`, &e.At)
	return s.done()
}

func (s *scanner) revoke(e *Revoke, app string) bool {
	e.V = 1
	s.known(`,"app":`, &e.App, app)
	s.text(`,"user":`, &e.User)
	s.sid(`,"sid":`, &e.SID)
	s.text(`,"reason":`, &e.Reason)
	s.text(`,"by":`, &e.By)
	s.integer(`,"at":`, &e.At)
	s.integer(`,"absolute_at":`, &e.AbsoluteAt)
	s.small(`,"home":`, &e.Home)
	s.text(`,"request":`, &e.Request)
	return s.done()
}

func (s *scanner) revokeAll(e *RevokeAll, app string) bool {
	e.V = 1
	s.known(`,"app":`, &e.App, app)
	s.text(`,"user":`, &e.User)
	s.list(`,"except":`, func() { e.Except = append(e.Except, s.id()) })
	s.text(`,"reason":`, &e.Reason)
	s.text(`,"by":`, &e.By)
	s.integer(`,"at":`, &e.At)
	s.seq(`,"prev":`, &e.Prev)
	s.seq(`,"before":`, &e.Before)
	s.small(`,"home":`, &e.Home)
	s.text(`,"request":`, &e.Request)
	return s.done()
}

func (s *scanner) expire(e *Expire, app string) bool {
	e.V = 1
	s.known(`,"app":`, &e.App, app)
	s.text(`,"user":`, &e.User)
	s.sid(`,"sid":`, &e.SID)
	s.integer(`,"at":`, &e.At)
	s.known(`,"reason":`, &e.Reason, ReasonExpired, ReasonIdle)
	e.Ignorable = s.next(`,"ignorable":true`)
	return s.done()
}

func (s *scanner) beat(e *Beat, node string) bool {
	e.V = 1
	s.known(`,"node":`, &e.Node, node)
	if s.next(`,"incarnation":`) {
		e.Incarnation = s.id()
	}
	s.seq(`,"n":`, &e.N)
	s.text(`,"region":`, &e.Region)
	var format int64
	s.integer(`,"format":`, &format)
	e.Format = int(format)
	s.list(`,"keys":`, func() { e.Keys = append(e.Keys, string(s.raw())) })
	s.dict(`,"positions":`, &e.Positions)
	s.dict(`,"digests":`, &e.Digests)
	s.integer(`,"at":`, &e.At)
	s.dict(`,"trails":`, &e.Trails)
	return s.done()
}

// isAt reports whether the event belongs on the subject: the same as
// ev.Subject(at.Region) == at, without building it. The kind is that of at.
func isAt(ev Event, at Subject) bool {
	switch e := ev.(type) {
	case *State:
		return isSessionAt(at, e.App, e.User, e.SID)
	case *Touch:
		return isSessionAt(at, e.App, e.User, e.SID)
	case *Revoke:
		return isSessionAt(at, e.App, e.User, e.SID)
	case *Expire:
		return isSessionAt(at, e.App, e.User, e.SID)
	case *Node:
		return isNodeAt(at, e.Node, e.Incarnation, e.N)
	case *Beat:
		return isNodeAt(at, e.Node, e.Incarnation, e.N)
	case *Marker:
		return isNodeAt(at, e.Node, e.Incarnation, e.N)
	}
	return ev.Subject(at.Region) == at
}

func isSessionAt(at Subject, app, user string, sid SID) bool {
	var text [22]byte
	b64.Encode(text[:], sid[:])
	if app != at.App || string(text[:]) != at.ID {
		return false
	}
	if user == "" {
		return at.User == ""
	}
	text = userHash(app, user)
	return string(text[:]) == at.User
}

func isNodeAt(at Subject, node string, i Incarnation, n uint64) bool {
	id := b64.AppendEncode(make([]byte, 0, 48), i[:])
	id = append(id, '-')
	id = strconv.AppendUint(id, n, 10)
	return at.App == "" && node == at.User && string(id) == at.ID
}
