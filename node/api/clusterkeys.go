package api

import "time"

// ClusterKey is a cluster key that the node holds; never the key itself.
type ClusterKey struct {
	KeyID string `json:"key_id"`
	// Sealing: the node seals with it.
	Sealing bool `json:"sealing"`
	// Lacking are the nodes that run and do not hold it: until there is none, no
	// node seals with it.
	Lacking []string `json:"lacking,omitempty"`
	// Needed says what still needs it; MayGo that nothing in the streams does,
	// as far as the rotation that this node did last can say.
	Needed []string `json:"needed,omitempty"`
	MayGo  bool     `json:"may_go"`
	// HistoryUntil is until when the history of sessions can hold events that
	// cannot be read without the key. Absent while the key may not go.
	HistoryUntil *time.Time `json:"history_until,omitempty"`
}

// ClusterKeyRotation is the rotation that the node does, or did last.
type ClusterKeyRotation struct {
	State string `json:"state"` // none, running, complete, failed
	// KeyID is the key that seals what is appended again.
	KeyID      string     `json:"key_id,omitempty"`
	StartedAt  *time.Time `json:"started_at,omitempty"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
	// Scanned and Resealed count events looked at and appended again.
	Scanned  int64 `json:"scanned"`
	Resealed int64 `json:"resealed"`
	// Left are events of other keys that are not appended again, because they
	// are over and leave by themselves.
	Left  []ClusterKeyLeft `json:"left,omitempty"`
	Error string           `json:"error,omitempty"`
}

// ClusterKeyLeft counts such events of one stream and key.
type ClusterKeyLeft struct {
	Stream string     `json:"stream"`
	KeyID  string     `json:"key_id"`
	Count  int64      `json:"count"`
	Until  *time.Time `json:"until,omitempty"` // when the last of them leaves
}

// ClusterKeyList answers GET /v1/cluster-keys and POST /v1/cluster-keys/rotate.
type ClusterKeyList struct {
	Meta
	Node string `json:"node"`
	// Keys are in the order in which the node prefers to seal with them.
	Keys     []ClusterKey       `json:"keys"`
	Rotation ClusterKeyRotation `json:"rotation"`
}
