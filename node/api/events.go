package api

import "time"

// Types of events. Those of the second group are of the app as a whole.
const (
	EventCreated  = "session.created"
	EventExtended = "session.extended"
	EventChanged  = "session.changed"
	EventRevoked  = "session.revoked"
	EventExpired  = "session.expired"
	// EventUserRevoked: every older session of a user, of one region, is revoked;
	// EventAppRevoked: of everybody.
	EventUserRevoked = "user.revoked"
	EventAppRevoked  = "app.revoked"

	EventAppSuspended   = "app.suspended"
	EventAppResumed     = "app.resumed"
	EventAppDeleted     = "app.deleted"
	EventKeyCompromised = "key.compromised"
)

// EventTypes returns all types of events that a subscriber may ask for.
func EventTypes() []string {
	return []string{
		EventCreated, EventExtended, EventChanged, EventRevoked, EventExpired, EventUserRevoked, EventAppRevoked,
		EventAppSuspended, EventAppResumed, EventAppDeleted, EventKeyCompromised,
	}
}

// Event is one event as a subscriber reads it. Members that do not apply are
// absent. Revocations come at least once, in the order of the log for each stream;
// of what else happened to a session at least the newest.
type Event struct {
	Type string `json:"type"`
	// Revision is the position of the event: of two events of one stream the later
	// has the higher.
	Revision string    `json:"revision"`
	At       time.Time `json:"at"` // when the log took it, by the log's clock
	AppID    string    `json:"app_id"`
	// Region and Stream name the stream of the sessions it is about. A session's id
	// begins with the number of its stream.
	Region    string `json:"region,omitempty"`
	Stream    uint8  `json:"stream,omitempty"`
	SessionID string `json:"session_id,omitempty"`
	// UserHash is the first 22 characters of base64url(SHA-256(app, NUL, user)). It
	// is there whenever the event is about a user, UserID when that is known too.
	UserID   string `json:"user_id,omitempty"`
	UserHash string `json:"user_hash,omitempty"`
	// Reason is why; "unverified" is that of a revocation which is not authentic, and
	// takes away all the same. By is who asked for it: an API key, user, admin.
	Reason string `json:"reason,omitempty"`
	By     string `json:"by,omitempty"`
	// RequestID is that of the request that revoked: equal in all that one request did.
	RequestID string     `json:"request_id,omitempty"`
	StartedAt *time.Time `json:"started_at,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
	ExpiredAt *time.Time `json:"expired_at,omitempty"`
	// Except are sessions that a revocation of a user or an app spared.
	Except []string `json:"except_session_ids,omitempty"`
	// KID names the signing key that is compromised.
	KID string `json:"kid,omitempty"`
	// Changes say what a session.changed is about, absent: nothing that has a name here.
	Changes *Changes `json:"changes,omitempty"`
}

// Changes are what became different with a change of a session, without what it
// became where that may be secret.
type Changes struct {
	// FactorsAdded are types of authentication factors that the session had not.
	FactorsAdded []string `json:"factors_added,omitempty"`
	// Level and LevelBefore are the levels of assurance, when they differ; LevelBefore
	// is absent when there was none.
	Level       string `json:"assurance_level,omitempty"`
	LevelBefore string `json:"assurance_level_before,omitempty"`
	// Claims: custom claims, roles or the organization differ.
	Claims bool `json:"claims,omitempty"`
}

// FeedStream says how well a node knows a stream: all that was committed up to
// StalenessMS ago, or, with Stale, nothing for certain.
type FeedStream struct {
	Region      string `json:"region"`
	Stream      uint8  `json:"stream"`
	StalenessMS int64  `json:"staleness_ms"`
	// Stale is why nothing is promised of the stream.
	Stale string `json:"stale,omitempty"`
}

// FeedHello begins a feed. Feed names it in a ping.
type FeedHello struct {
	Feed             string       `json:"feed,omitempty"`
	Revision         string       `json:"revision"`
	Node             string       `json:"node,omitempty"`
	HeartbeatSeconds int64        `json:"heartbeat_seconds"`
	JWTLifeSeconds   int64        `json:"jwt_life_seconds,omitempty"`
	Streams          []FeedStream `json:"streams"`
}

// FeedHeartbeat says up to where a feed has delivered: of each of Streams all that
// was committed up to StalenessMS before the heartbeat, as far as it was asked for.
type FeedHeartbeat struct {
	Revision string       `json:"revision"`
	Streams  []FeedStream `json:"streams"`
	// Nonce is that of the ping which it answers.
	Nonce string `json:"nonce,omitempty"`
}

// FeedResync ends a feed that cannot go on. After "slow" one goes on behind the last
// id; after anything else one reads GET /v1/revocations first.
type FeedResync struct {
	Reason         string `json:"reason"`
	RevocationsURL string `json:"revocations_url"`
}

// Ping is the body of POST /v1/events/ping. The feed answers with a heartbeat that
// has the nonce, of at most 64 characters [A-Za-z0-9_-].
type Ping struct {
	Feed  string `json:"feed"`
	Nonce string `json:"nonce"`
}

// Accepted answers what was taken and goes on elsewhere.
type Accepted struct{ Meta }

// Revocations is what a verifier must know before it follows a feed: everything
// revoked whose JWTs may still be alive.
type Revocations struct {
	Meta
	// Revision is the cursor with which a feed goes on from here. It names the
	// streams of which this answer is complete, and only those.
	Revision string `json:"revision"`
	// JWTLifeSeconds is the longest life that a JWT of the app can have.
	JWTLifeSeconds int64  `json:"jwt_life_seconds"`
	AppState       string `json:"app_state"` // active, suspended, deleted
	// Sessions are ids of revoked ones.
	Sessions []string `json:"sessions"`
	// Users and All are revocations of every older session of a user, or of
	// everybody, in one stream.
	Users           []Watermark  `json:"users"`
	All             []Watermark  `json:"all"`
	CompromisedKeys []string     `json:"compromised_keys"`
	Streams         []FeedStream `json:"streams"`
}

// Watermark is a revocation of all older sessions in one stream.
type Watermark struct {
	UserHash  string    `json:"user_hash,omitempty"`
	UserID    string    `json:"user_id,omitempty"`
	Region    string    `json:"region"`
	Stream    uint8     `json:"stream"`
	RevokedAt time.Time `json:"revoked_at"`
	// MintedUntil: whatever JWT has a later iat is of a session that this revocation did
	// not take. It allows for leases and for clocks; absent: it cannot be told.
	MintedUntil *time.Time `json:"minted_until,omitempty"`
	Except      []string   `json:"except_session_ids,omitempty"`
}
