package api

import "time"

// EraseUser is the body of POST /v1/users/erase.
type EraseUser struct {
	UserID string `json:"user_id"`
	// Reason stands in the revocation of the user's sessions; absent: erased.
	Reason string `json:"reason,omitempty"`
}

// EraseAnswer answers it. It may be asked for again: what is erased stays so.
type EraseAnswer struct {
	Meta
	Freshness
	Revoked int `json:"revoked"` // sessions that were good until now
	// Erased counts the sessions whose token, device, factors, claims and metadata were taken out of the log by this call.
	Erased int `json:"erased"`
	// History names the regions from whose history all events about the user's sessions are gone.
	History []string `json:"history"`
	// Pending names the regions that were out of reach, or whose history could not be erased: ask again.
	Pending []PendingErasure `json:"pending,omitempty"`
	// Remains says what is still there, where, and until when.
	Remains []Remains `json:"remains"`
	Receipt *Receipt  `json:"receipt,omitempty"`
}

// PendingErasure is what could not be erased in a region.
type PendingErasure struct {
	Region string `json:"region"`
	What   string `json:"what"` // sessions, history
	Why    string `json:"why"`
}

// Remains is something about an erased user that is still there.
type Remains struct {
	What  string `json:"what"`
	Where string `json:"where"`
	// Until is when it is gone by itself; absent: that is not for a node to say.
	Until *time.Time `json:"until,omitempty"`
}
