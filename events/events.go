// Package events defines what Revocast writes down: the kinds of events and
// their JSON, the subjects they are written to, the seal that makes them
// authentic, the positions that name them, and the Log that holds them.
//
// It has two logs: JetStream, which is durable, and Memory, which is for tests
// and can fail in every way the real one does. Both pass events/eventstest.
//
// It does not know whether a session is good: that is the fold in projection.
// DESIGN.md beside this file has one table per kind.
package events

import (
	"encoding/json"
	"log/slog"
	"slices"
	"time"
)

// Version is the newest payload version that this code reads and writes. Most
// events are written as version 1. What an older reader would take for more than
// it grants has the version that brought it, so that such a reader answers
// nothing instead: a State with Bound is version 2.
const Version = 2

// BoundVersion is the version of a State with Bound.
const BoundVersion = 2

// newestOf returns the newest version of the event's kind that this code reads.
func newestOf(e Event) int {
	if _, ok := e.(*State); ok {
		return BoundVersion
	}
	return 1
}

// versionOf returns the version that the event is written as.
func versionOf(e Event) int {
	if s, ok := e.(*State); ok && s.Bound {
		return BoundVersion
	}
	return 1
}

// Limits of what one event may hold (DESIGN section 7).
const (
	MaxUser    = 256      // bytes of a user id
	MaxPrivate = 8 << 10  // bytes of a private part before sealing
	MaxEvent   = 16 << 10 // bytes of a payload; also the stream's message limit together with the seal
	MaxAliases = 2        // tokens of a session beside the one its sid derives from
)

// TTLSlack is how much longer than its meaning a message stays in the log, so
// that no clock between servers lets it leave early.
const TTLSlack = 60 * time.Second

// UnknownLifetime is how long a revocation is kept when the absolute expiry of
// the session is not known: the longest life a session may have.
const UnknownLifetime = 366 * 24 * time.Hour

// Kind names what an event says. It is the last token of its subject.
type Kind string

// The kinds. An entry of another kind is skipped: its position counts, its
// content grants nothing. Unless it says that it is ignorable, a node that meets
// it answers nothing until it is gone: it may take something away.
const (
	KindState   Kind = "st"
	KindTouch   Kind = "tch"
	KindRevoke  Kind = "rev"
	KindAll     Kind = "all"
	KindExpire  Kind = "exp"
	KindApp     Kind = "app"
	KindKey     Kind = "key"
	KindAPIKey  Kind = "apikey"
	KindSetting Kind = "cfg"
	KindWork    Kind = "work"
	KindRegion  Kind = "region"
	KindNode    Kind = "reg"
	KindBeat    Kind = "hb"
	KindMarker  Kind = "snap"
)

// Event is the payload of one message. Its concrete types are the ones of this
// file; a Record holds a pointer to one of them.
type Event interface {
	// Subject returns where the event is written in the stream of region.
	Subject(region string) Subject
	version() *int
}

// Reasons of a State.
const (
	ReasonCreated  = "created"
	ReasonExtended = "extended"
	ReasonChanged  = "changed"
	ReasonRotated  = "rotated"
	ReasonRepaired = "repaired"
	// ReasonResealed: nothing changed but the cluster key that seals it.
	ReasonResealed = "resealed"
	// ReasonErased: the session is revoked, and its private part was taken away.
	ReasonErased = "erased"
)

// State is kind st: the whole current state of a session.
type State struct {
	V             int     `json:"v"`
	App           string  `json:"app"`
	User          string  `json:"user"`
	SID           SID     `json:"sid"`
	Reason        string  `json:"reason"`
	CreatedAt     int64   `json:"created_at"`
	ExpiresAt     int64   `json:"expires_at"`
	AbsoluteAt    int64   `json:"absolute_at"`
	Idle          int64   `json:"idle,omitempty"`
	SeenAt        int64   `json:"seen_at,omitempty"`
	Prev          uint64  `json:"prev,omitempty"`
	CreatedSeq    uint64  `json:"created_seq,omitempty"`
	AuthSeq       uint64  `json:"auth_seq,omitempty"`
	OriginalUntil int64   `json:"original_until,omitempty"`
	Aliases       []Alias `json:"aliases,omitempty"`
	By            string  `json:"by,omitempty"`
	// Bound: whoever shows a token or a JWT of the session must prove the key whose
	// thumbprint is in the private part. Once set it stays.
	Bound bool `json:"bound,omitempty"`
	// Changes say in what the session differs from the state before, nil: in nothing
	// that is said here. They are for subscribers, who see no private part; the fold
	// does not read them, and no later state repeats them.
	Changes *Changes `json:"changes,omitempty"`
}

// Changes are what became different with a State, without what it became: that is
// in the private part.
type Changes struct {
	// FactorsAdded are the types of authentication factors that the session had not.
	FactorsAdded []string `json:"factors_added,omitempty"`
	// Level and LevelBefore are the levels of assurance (aal1, aal2, aal3), absent when
	// they are the same; LevelBefore also when there was none.
	Level       string `json:"assurance_level,omitempty"`
	LevelBefore string `json:"assurance_level_before,omitempty"`
	// Claims: custom claims, roles or the organization.
	Claims bool `json:"claims,omitempty"`
}

// Alias is another token of a session: its key, and until when it is accepted
// (unix ms; 0 = as long as the session lives).
type Alias struct {
	Key   SID   `json:"key"`
	Until int64 `json:"until,omitempty"`
}

// Private is the sealed part of a State. It is never in a payload.
type Private struct {
	// Token is the current session token, so that it can be handed back to
	// who shows a JWT only.
	Token Token `json:"token,omitempty"`
	// Attributes say where the log-in came from.
	Attributes Attributes `json:"attributes,omitzero"`
	// Factors are the authentication factors as the API has them: an array of objects.
	Factors json.RawMessage `json:"factors,omitempty"`
	// CustomClaims go into JWTs; Metadata does not. Both are JSON objects.
	CustomClaims json.RawMessage `json:"custom_claims,omitempty"`
	Metadata     json.RawMessage `json:"metadata,omitempty"`
	// Roles are what the session may do in its organization, or anywhere.
	Roles []string `json:"roles,omitempty"`
	// Organization is what the session acts for.
	Organization Organization `json:"organization,omitzero"`
	// Actor is who acts as the user, a JSON object with "sub" (RFC 8693 section
	// 4.1); fixed at creation.
	Actor json.RawMessage `json:"actor,omitempty"`
	// Assurance is the level that the backend stated (aal1, aal2, aal3); empty:
	// what the factors say.
	Assurance string `json:"assurance,omitempty"`
	// BodyHash is the hash of the request that created the session under an
	// Idempotency-Key, base64url; a repeat with another body is refused by it.
	BodyHash string `json:"body_hash,omitempty"`
	// Thumbprint is that of the public key to which the session is bound (RFC 7638
	// with SHA-256, base64url); set if and only if the State is Bound.
	Thumbprint string `json:"jkt,omitempty"`
	// Data is what a web framework keeps in its session, in its own encoding;
	// Token is then the framework's.
	Data []byte `json:"data,omitempty"`
}

// LogValue implements [slog.LogValuer] and hides all of it.
func (Private) LogValue() slog.Value { return slog.StringValue("[private]") }

// Attributes are the device information of a log-in.
type Attributes struct {
	IPAddress string `json:"ip_address,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
}

// Organization is the tenant of the app's own that a session acts for.
type Organization struct {
	ID   string `json:"id"`
	Slug string `json:"slug,omitempty"`
}

// Touch is kind tch: the session was used.
type Touch struct {
	V    int    `json:"v"`
	App  string `json:"app"`
	User string `json:"user"`
	SID  SID    `json:"sid"`
	At   int64  `json:"at"`
}

// Revoke is kind rev: one session is revoked, for good.
type Revoke struct {
	V          int    `json:"v"`
	App        string `json:"app"`
	User       string `json:"user"`
	SID        SID    `json:"sid"`
	Reason     string `json:"reason,omitempty"`
	By         string `json:"by,omitempty"`
	At         int64  `json:"at"`
	AbsoluteAt int64  `json:"absolute_at,omitempty"`
	Home       uint8  `json:"home,omitempty"`
	// Request is the id of the request that asked for it: equal in all that one
	// request revoked.
	Request string `json:"request,omitempty"`
}

// RevokeAll is kind all: every older session of a user, or with an empty User
// of the whole app, is revoked.
type RevokeAll struct {
	V      int    `json:"v"`
	App    string `json:"app"`
	User   string `json:"user,omitempty"`
	Except []SID  `json:"except,omitempty"`
	Reason string `json:"reason,omitempty"`
	By     string `json:"by,omitempty"`
	At     int64  `json:"at"`
	Prev   uint64 `json:"prev,omitempty"`
	Before uint64 `json:"before,omitempty"`
	Home   uint8  `json:"home,omitempty"`
	// Request is as that of a Revoke.
	Request string `json:"request,omitempty"`
}

// Spares reports whether the event leaves sid alone.
func (e *RevokeAll) Spares(sid SID) bool { return slices.Contains(e.Except, sid) }

// ExpiredEventTTL is how long the log keeps an Expire.
const ExpiredEventTTL = 24 * time.Hour

// Reasons of an Expire.
const (
	ReasonExpired = "expired"
	ReasonIdle    = "idle"
)

// Expire is kind exp: a session ran out at At, unix ms. It is for subscribers:
// verdicts come from the times of the session, and are the same without it. So
// Ignorable is always set, by Encode.
type Expire struct {
	V         int    `json:"v"`
	App       string `json:"app"`
	User      string `json:"user"`
	SID       SID    `json:"sid"`
	At        int64  `json:"at"`
	Reason    string `json:"reason"`
	Ignorable bool   `json:"ignorable"`
}

// States of an App.
const (
	AppActive    = "active"
	AppSuspended = "suspended"
	AppDeleted   = "deleted"
)

// App is kind app: a tenant and its settings. ServedUntil is when WhenStale was
// last changed from "serve" to something else, unix ms; 0: never.
type App struct {
	V           int         `json:"v"`
	App         string      `json:"app"`
	State       string      `json:"state"`
	CreatedAt   int64       `json:"created_at"`
	ChangedAt   int64       `json:"changed_at"`
	By          string      `json:"by,omitempty"`
	Prev        uint64      `json:"prev,omitempty"`
	ServedUntil int64       `json:"served_until,omitempty"`
	Settings    AppSettings `json:"settings"`
}

// AppSettings are what an app decides for itself. Durations are seconds.
type AppSettings struct {
	JWTProfile      string `json:"jwt_profile"`
	JWTAlg          string `json:"jwt_alg"`
	JWTTTL          int64  `json:"jwt_ttl"`
	SessionDuration int64  `json:"session_duration"`
	AbsoluteMax     int64  `json:"absolute_max"`
	Idle            int64  `json:"idle,omitempty"`
	WhenStale       string `json:"when_stale"`
	ReturnToken     bool   `json:"return_token,omitempty"`
	// Origins are those whose pages may call the routes for browsers.
	Origins []string `json:"origins,omitempty"`
	// ClientJWTTTL is the life of JWTs for browsers, where it is shorter than JWTTTL; 0: the default.
	ClientJWTTTL int64 `json:"client_jwt_ttl,omitempty"`
	// ClearSiteData: a log-out in a browser wipes what the origin has stored there.
	ClearSiteData bool `json:"clear_site_data,omitempty"`
	// IntrospectionMax is how far ahead the exp of an introspection may lie; 0: the default.
	IntrospectionMax int64 `json:"introspection_max_exp,omitempty"`
	// DPoPNonce: a proof of a bound session must have a nonce of a node.
	DPoPNonce bool `json:"dpop_nonce,omitempty"`
	// NoExpired: no Expire is written of sessions of the app.
	NoExpired bool `json:"no_expired_events,omitempty"`
	// StatusList: JWTs name their place in a Token Status List.
	StatusList bool `json:"status_list,omitempty"`
	// MaxSessions is how many sessions a user may have at a time, 0: any number;
	// SessionLimit what is done with one more; TokenReuse what with a token that was replaced.
	MaxSessions  int64  `json:"max_sessions,omitempty"`
	SessionLimit string `json:"session_limit,omitempty"`
	TokenReuse   string `json:"token_reuse,omitempty"`
	// ImportRegion is the region in whose stream the sessions of foreign tokens
	// live; empty: none was ever imported. It is set once.
	ImportRegion string `json:"import_region,omitempty"`
	// Compat lists the vendors whose API the app answers as well. Nil: the vendor
	// of JWTProfile; not nil but empty: none.
	Compat []string `json:"compat,omitzero"`
}

// SigningKey is kind key: a signing key of an app. Its private half is the
// sealed private part.
type SigningKey struct {
	V           int             `json:"v"`
	App         string          `json:"app"`
	KID         string          `json:"kid"`
	Alg         string          `json:"alg"`
	Public      json.RawMessage `json:"public"`
	CreatedAt   int64           `json:"created_at"`
	ActiveAt    int64           `json:"active_at"`
	RetiredAt   int64           `json:"retired_at,omitempty"`
	ListedUntil int64           `json:"listed_until,omitempty"`
	ForgetAt    int64           `json:"forget_at,omitempty"`
	Compromised bool            `json:"compromised,omitempty"`
	By          string          `json:"by,omitempty"`
	Prev        uint64          `json:"prev,omitempty"`
}

// APIKey is kind apikey: who may call the API, and for what. App is empty for
// a cluster admin key.
type APIKey struct {
	V         int      `json:"v"`
	ID        string   `json:"id"`
	App       string   `json:"app,omitempty"`
	Name      string   `json:"name,omitempty"`
	Hash      string   `json:"hash"`
	Scopes    []string `json:"scopes"`
	CreatedAt int64    `json:"created_at"`
	ExpiresAt int64    `json:"expires_at,omitempty"`
	RevokedAt int64    `json:"revoked_at,omitempty"`
	By        string   `json:"by,omitempty"`
	Prev      uint64   `json:"prev,omitempty"`
}

// Setting is kind cfg: one named setting of an app or of the cluster. A
// Setting without Value is deleted.
type Setting struct {
	V     int             `json:"v"`
	App   string          `json:"app,omitempty"`
	Type  string          `json:"type"`
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value,omitempty"`
	At    int64           `json:"at"`
	By    string          `json:"by,omitempty"`
	Prev  uint64          `json:"prev,omitempty"`
}

// Work is kind work: who does something for all the nodes, or how far that is. It
// changes all the time and is of no interest later, so the archive does not take
// it, and a node that does not know the kind passes over it (Ignorable is true in
// all that is written). A Work without Value is over.
type Work struct {
	V         int             `json:"v"`
	Ignorable bool            `json:"ignorable"`
	App       string          `json:"app,omitempty"`
	Type      string          `json:"type"`
	Name      string          `json:"name"`
	Value     json.RawMessage `json:"value,omitempty"`
	At        int64           `json:"at"`
	By        string          `json:"by,omitempty"`
	Prev      uint64          `json:"prev,omitempty"`
}

// Region is kind region: the number of a region's stream, assigned once. Domain
// is the JetStream domain of the stream, if that is not named as the region is.
type Region struct {
	V      int    `json:"v"`
	Region string `json:"region"`
	Number uint8  `json:"number"`
	Domain string `json:"domain,omitempty"`
	At     int64  `json:"at"`
}

// Node is kind reg: a node's incarnation begins, or with Left has ended.
type Node struct {
	V           int         `json:"v"`
	Node        string      `json:"node"`
	Incarnation Incarnation `json:"incarnation"`
	N           uint64      `json:"n"`
	Region      string      `json:"region"`
	Format      int         `json:"format"`
	Keys        []string    `json:"keys"`
	Left        bool        `json:"left,omitempty"`
	At          int64       `json:"at,omitempty"` // the writer's wall clock, unix ms
}

// Beat is kind hb: a heartbeat. Seen again by its sender, it proves that the
// sender has applied everything committed before it was sent. Region is the sender's.
type Beat struct {
	V           int               `json:"v"`
	Node        string            `json:"node"`
	Incarnation Incarnation       `json:"incarnation"`
	N           uint64            `json:"n"`
	Region      string            `json:"region,omitempty"`
	Format      int               `json:"format"`
	Keys        []string          `json:"keys"`
	Positions   map[string]string `json:"positions,omitempty"`
	Digests     map[string]string `json:"digests,omitempty"`
	At          int64             `json:"at,omitempty"` // the sender's wall clock, unix ms
	// Trails says of a stream what the sender applied lately: "from-to-count-sum",
	// see the table in DESIGN.md.
	Trails map[string]string `json:"trails,omitempty"`
}

// Marker is kind snap: a place in the log from which its node may resume.
type Marker struct {
	V           int         `json:"v"`
	Node        string      `json:"node"`
	Incarnation Incarnation `json:"incarnation"`
	N           uint64      `json:"n"`
}

func (e *State) version() *int      { return &e.V }
func (e *Touch) version() *int      { return &e.V }
func (e *Revoke) version() *int     { return &e.V }
func (e *RevokeAll) version() *int  { return &e.V }
func (e *Expire) version() *int     { return &e.V }
func (e *App) version() *int        { return &e.V }
func (e *SigningKey) version() *int { return &e.V }
func (e *APIKey) version() *int     { return &e.V }
func (e *Setting) version() *int    { return &e.V }
func (e *Work) version() *int       { return &e.V }
func (e *Region) version() *int     { return &e.V }
func (e *Node) version() *int       { return &e.V }
func (e *Beat) version() *int       { return &e.V }
func (e *Marker) version() *int     { return &e.V }

// newEvent returns an empty event of the kind, or nil for a kind this version
// does not know.
func newEvent(k Kind) Event {
	switch k {
	case KindState:
		return new(State)
	case KindTouch:
		return new(Touch)
	case KindRevoke:
		return new(Revoke)
	case KindAll:
		return new(RevokeAll)
	case KindExpire:
		return new(Expire)
	case KindApp:
		return new(App)
	case KindKey:
		return new(SigningKey)
	case KindAPIKey:
		return new(APIKey)
	case KindSetting:
		return new(Setting)
	case KindWork:
		return new(Work)
	case KindRegion:
		return new(Region)
	case KindNode:
		return new(Node)
	case KindBeat:
		return new(Beat)
	case KindMarker:
		return new(Marker)
	}
	return nil
}
