package api

import "time"

// EventWebhookTest is the type of what POST /v1/webhooks/{id}/test sends.
const EventWebhookTest = "webhook.test"

// WebhookEventTypes returns the types of events that webhooks can be told of: those
// about sessions.
func WebhookEventTypes() []string {
	return []string{
		EventCreated, EventExtended, EventChanged, EventRevoked, EventExpired, EventUserRevoked, EventAppRevoked,
	}
}

// WebhookPayload is the body of a webhook. Its form is that of Standard Webhooks.
type WebhookPayload struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"` // of the event, not of the attempt
	Data      any       `json:"data"`      // an Event; of a test WebhookTestEvent
}

// WebhookTestEvent is the data of a webhook.test.
type WebhookTestEvent struct {
	Type      string    `json:"type"`
	At        time.Time `json:"at"`
	AppID     string    `json:"app_id"`
	WebhookID string    `json:"webhook_id"`
}

// CreateWebhook is the body of POST /v1/webhooks.
type CreateWebhook struct {
	URL string `json:"url"`
	// Types are those of the events it is told of; absent: all there are.
	Types       []string `json:"types,omitempty"`
	Description string   `json:"description,omitempty"`
	Enabled     *bool    `json:"enabled,omitempty"` // absent: true
	// Secret signs; absent: one is made, and shown once.
	Secret string `json:"secret,omitempty" filled:"true"`
}

// PatchWebhook is the body of PATCH /v1/webhooks/{id}. What is absent stays.
type PatchWebhook struct {
	URL         *string  `json:"url,omitempty"`
	Types       []string `json:"types,omitempty"`
	Description *string  `json:"description,omitempty"`
	// Enabled true also makes a webhook go on that was paused or disabled.
	Enabled *bool `json:"enabled,omitempty"`
}

// States of an endpoint.
const (
	EndpointEnabled  = "enabled"
	EndpointPaused   = "paused"   // it took nothing for 72 hours
	EndpointDisabled = "disabled" // by the app, or because it answered 410
)

// Webhook is an endpoint that is told of events.
type Webhook struct {
	ID          string    `json:"webhook_id"`
	URL         string    `json:"url"`
	Types       []string  `json:"types"`
	Description string    `json:"description,omitempty"`
	Enabled     bool      `json:"enabled"` // what the app wants
	CreatedAt   time.Time `json:"created_at"`
	// OldSecretUntil is until when the secret before the present one signs as well.
	OldSecretUntil *time.Time `json:"old_secret_until,omitempty"`
	// Status is the worst of those of the regions, and Reason why it is not enabled.
	Status   string     `json:"status"`
	Reason   string     `json:"reason,omitempty"`
	Delivery []Delivery `json:"delivery"`
}

// Delivery is how an endpoint stands to the events of one region.
type Delivery struct {
	Region string `json:"region"`
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
	// Since is when it was paused or disabled.
	Since *time.Time `json:"since,omitempty"`
	// Revision is up to where everything is settled: the endpoint took it, it is a dead
	// letter, or it is none of its business.
	Revision string `json:"revision,omitempty"`
	// LagSeconds is the age of the oldest event that is known to wait.
	LagSeconds    int64            `json:"lag_seconds"`
	LastSuccessAt *time.Time       `json:"last_success_at,omitempty"`
	Failing       *DeliveryFailing `json:"failing,omitempty"`
	DeadLetters   uint64           `json:"dead_letters"` // that there ever were
	Gap           *DeliveryGap     `json:"gap,omitempty"`
}

// DeliveryFailing is an event that the endpoint does not take.
type DeliveryFailing struct {
	Revision string    `json:"revision"`
	Since    time.Time `json:"since"` // since when it took nothing
	Attempts int       `json:"attempts"`
	Status   int       `json:"status,omitempty"` // of the last answer
	Reason   string    `json:"reason"`
	NextAt   time.Time `json:"next_attempt_at"`
}

// DeliveryGap says that the log went backwards, last at At, while the endpoint was at
// From. What the log still says was delivered from To on, some of it again.
type DeliveryGap struct {
	From  string    `json:"from"`
	To    string    `json:"to"`
	At    time.Time `json:"at"`
	Count uint64    `json:"count"`
}

// WebhookAnswer answers whatever is about one webhook. Secret is shown once.
type WebhookAnswer struct {
	Meta
	Webhook  Webhook `json:"webhook"`
	Secret   string  `json:"secret,omitempty"`
	Revision string  `json:"revision,omitempty"`
}

// WebhookList answers GET /v1/webhooks.
type WebhookList struct {
	Meta
	Webhooks []Webhook `json:"webhooks"`
}

// RotateSecret is the body of POST /v1/webhooks/{id}/rotate-secret.
type RotateSecret struct {
	// OverlapSeconds is how long the present secret signs beside the new one; absent:
	// a day, 0: not at all.
	OverlapSeconds *int64 `json:"overlap_seconds,omitempty"`
	// Secret is the new one; absent: one is made, and shown once.
	Secret string `json:"secret,omitempty" filled:"true"`
}

// ReplayWebhook is the body of POST /v1/webhooks/{id}/replay: one of the two.
type ReplayWebhook struct {
	// From is a revision; all that comes after it is delivered again, of the regions
	// that it names, as is what was not delivered yet: nothing is passed over.
	From string `json:"from,omitempty"`
	// DeadLetter is the revision of one dead letter, which is delivered now.
	DeadLetter string `json:"dead_letter,omitempty"`
}

// DeadLetter is an event that an endpoint refused again and again.
type DeadLetter struct {
	Revision string    `json:"revision"`
	Type     string    `json:"type"`
	EventAt  time.Time `json:"event_at"`
	FailedAt time.Time `json:"failed_at"`
	Attempts int       `json:"attempts"`
	Status   int       `json:"status"` // of the last answer
}

// DeadLetterList answers GET /v1/webhooks/{id}/dead-letters, the newest first.
type DeadLetterList struct {
	Meta
	DeadLetters []DeadLetter `json:"dead_letters"`
	Total       uint64       `json:"total"` // that there ever were
}

// DeliveryAttempt answers what was sent at once: a test, or one dead letter.
type DeliveryAttempt struct {
	Meta
	Delivered bool   `json:"delivered"`
	Status    int    `json:"receiver_status,omitempty"` // of the receiver's answer; absent: there was none
	Reason    string `json:"reason,omitempty"`
	TookMS    int64  `json:"took_ms"`
}

// LogoutClient is a relying party that is told of log-outs by OpenID Connect
// Back-Channel Logout 1.0.
type LogoutClient struct {
	ClientID string `json:"client_id,omitempty"`
	URI      string `json:"backchannel_logout_uri"`
	// SessionRequired: each logout token names a session (sid), also where a user's are
	// all revoked.
	SessionRequired bool  `json:"backchannel_logout_session_required,omitempty"`
	Enabled         *bool `json:"enabled,omitempty"` // absent: true
}

// LogoutClientAnswer answers what is about one of them.
type LogoutClientAnswer struct {
	Meta
	LogoutClient
	CreatedAt time.Time  `json:"created_at"`
	Status    string     `json:"status"`
	Reason    string     `json:"reason,omitempty"`
	Delivery  []Delivery `json:"delivery"`
	Revision  string     `json:"revision,omitempty"`
}

// LogoutClientList answers GET /v1/apps/{app}/logout-clients.
type LogoutClientList struct {
	Meta
	LogoutClients []LogoutClientAnswer `json:"logout_clients"`
}
