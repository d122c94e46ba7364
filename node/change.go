package node

import (
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// changeTypes gives the reasons of a state their type in a feed. What is missing
// says nothing to who heard what came before it.
var changeTypes = map[string]string{
	events.ReasonCreated:  api.EventCreated,
	events.ReasonExtended: api.EventExtended,
	events.ReasonChanged:  api.EventChanged,
	events.ReasonRotated:  api.EventChanged,
}

// kindsOf returns the kinds of events that can become an event of the type.
func kindsOf(eventType string) []events.Kind {
	switch eventType {
	case api.EventCreated, api.EventExtended, api.EventChanged:
		return []events.Kind{events.KindState}
	case api.EventRevoked:
		return []events.Kind{events.KindRevoke}
	case api.EventExpired:
		return []events.Kind{events.KindExpire}
	case api.EventUserRevoked, api.EventAppRevoked:
		return []events.Kind{events.KindAll}
	case api.EventAppSuspended, api.EventAppResumed, api.EventAppDeleted:
		return []events.Kind{events.KindApp}
	case api.EventKeyCompromised:
		return []events.Kind{events.KindKey}
	}
	return nil
}

// changeOf returns what an entry of the stream, which stands at that position, says to
// a subscriber who was told everything up to the sequence since, nil if nothing.
//
// A revocation that is not authentic takes away all the same, and so is told; of
// anything else only what is authentic is.
func (s *stream) changeOf(r *events.Record, at events.Position, since uint64) *api.Event {
	out := &api.Event{
		Revision: at.String(), At: r.Time.UTC().Truncate(time.Millisecond), AppID: r.Subject.App, UserHash: r.Subject.User,
	}
	if r.Trust == events.Forged {
		return s.forgedChange(out, r)
	}
	if r.Trust != events.Authentic {
		return nil
	}
	switch e := r.Event.(type) {
	case *events.State:
		if e.Reason == events.ReasonRepaired || e.Reason == events.ReasonResealed {
			// It says again what was there, which may have been replaced unheard.
			if e.Prev <= since {
				return nil
			}
			out.Type = api.EventChanged
		} else if out.Type = changeTypes[e.Reason]; out.Type == "" {
			return nil
		}
		s.node.about(out, s.number, e.SID.String(), e.User)
		out.Reason, out.By = e.Reason, e.By
		out.StartedAt, out.ExpiresAt = moment(e.CreatedAt), moment(e.ExpiresAt)
		out.Changes = (*api.Changes)(e.Changes)
	case *events.Revoke:
		out.Type = api.EventRevoked
		s.node.about(out, e.SID.Stream(), e.SID.String(), e.User)
		out.Reason, out.By, out.RequestID, out.RevokedAt = e.Reason, e.By, e.Request, moment(e.At)
	case *events.RevokeAll:
		out.Type = groupType(r.Subject)
		s.node.about(out, homeOr(e.Home, s.number), "", e.User)
		out.Reason, out.By, out.RequestID, out.RevokedAt = e.Reason, e.By, e.Request, moment(e.At)
		for _, sid := range e.Except {
			out.Except = append(out.Except, sid.String())
		}
	case *events.Expire:
		out.Type = api.EventExpired
		s.node.about(out, e.SID.Stream(), e.SID.String(), e.User)
		out.Reason, out.ExpiredAt = e.Reason, moment(e.At)
	case *events.App:
		out.UserHash = ""
		out.Type, out.By = appChange[e.State], e.By
	case *events.SigningKey:
		if !e.Compromised {
			return nil
		}
		out.UserHash = ""
		out.Type, out.KID, out.By = api.EventKeyCompromised, e.KID, e.By
	default:
		return nil
	}
	return out
}

var appChange = map[string]string{
	events.AppActive:    api.EventAppResumed,
	events.AppSuspended: api.EventAppSuspended,
	events.AppDeleted:   api.EventAppDeleted,
}

// about says which session or user of the app, in the stream of the number, the
// event is about.
func (n *Node) about(e *api.Event, number uint8, sid, user string) {
	e.Region, e.Stream, e.SessionID, e.UserID = n.regionOf(number), number, sid, user
}

func homeOr(home, number uint8) uint8 {
	if home != 0 {
		return home
	}
	return number
}

// forgedChange is changeOf for what is not authentic: only its subject is believed.
func (s *stream) forgedChange(out *api.Event, r *events.Record) *api.Event {
	at := out.At
	out.Reason, out.RevokedAt = unverified, &at
	switch r.Subject.Kind {
	case events.KindRevoke:
		sid, err := events.ParseSID(r.Subject.ID)
		if err != nil {
			return nil
		}
		out.Type = api.EventRevoked
		s.node.about(out, sid.Stream(), sid.String(), "")
	case events.KindAll:
		home, ok := r.Subject.Home()
		if !ok {
			return nil
		}
		out.Type = groupType(r.Subject)
		s.node.about(out, homeOr(home, s.number), "", "")
	default:
		return nil
	}
	return out
}
