package api

import (
	"encoding/json"
	"time"
)

// SSFMetadata is the transmitter configuration metadata of Shared Signals (SSF 1.0
// section 7.1).
type SSFMetadata struct {
	SpecVersion      string      `json:"spec_version"`
	Issuer           string      `json:"issuer"`
	JWKSURI          string      `json:"jwks_uri"`
	DeliveryMethods  []string    `json:"delivery_methods_supported"`
	Configuration    string      `json:"configuration_endpoint"`
	Status           string      `json:"status_endpoint"`
	Verification     string      `json:"verification_endpoint"`
	CriticalSubjects []string    `json:"critical_subject_members"`
	Authorization    []SSFScheme `json:"authorization_schemes"`
	DefaultSubjects  string      `json:"default_subjects"`
}

// SSFScheme names a way to authorize calls of the stream management.
type SSFScheme struct {
	SpecURN string `json:"spec_urn"`
}

// SSFDelivery is how the SETs of a stream get to its receiver.
type SSFDelivery struct {
	// Method is urn:ietf:rfc:8935 (push) or urn:ietf:rfc:8936 (poll).
	Method string `json:"method"`
	// EndpointURL is where SETs are pushed to, or, made by the transmitter, polled from.
	EndpointURL string `json:"endpoint_url,omitempty"`
	// AuthorizationHeader is sent with each push as it is. It is write-only.
	AuthorizationHeader string `json:"authorization_header,omitempty"`
}

// SSFRequest is the body of POST, PATCH and PUT /ssf/streams. Members that are not
// known are passed over, and an empty text is as none.
type SSFRequest struct {
	StreamID string `json:"stream_id,omitempty"`
	// Delivery is an SSFDelivery; absent: polled.
	Delivery json.RawMessage `json:"delivery,omitempty"`
	// EventsRequested are URIs of events; absent: all that are supported. Others are ignored.
	EventsRequested *[]string `json:"events_requested,omitempty"`
	Description     *string   `json:"description,omitempty"`
	// SubjectFormat is how SETs name whom they are about: complex (default), iss_sub, email or opaque.
	SubjectFormat *string `json:"subject_format,omitempty"`
	// Issuer, Audience, EventsSupported, EventsDelivered and MinVerification are the
	// transmitter's; given in a change they must be as they are.
	Issuer          string   `json:"iss,omitempty"`
	Audience        string   `json:"aud,omitempty"`
	EventsSupported []string `json:"events_supported,omitempty"`
	EventsDelivered []string `json:"events_delivered,omitempty"`
	MinVerification *int64   `json:"min_verification_interval,omitempty"`
}

// SSFStream is a stream as its receiver sees it (SSF 1.0 section 8.1.1).
type SSFStream struct {
	StreamID        string      `json:"stream_id"`
	Issuer          string      `json:"iss"`
	Audience        string      `json:"aud"`
	EventsSupported []string    `json:"events_supported"`
	EventsRequested []string    `json:"events_requested,omitempty"`
	EventsDelivered []string    `json:"events_delivered"`
	Delivery        SSFDelivery `json:"delivery"`
	MinVerification int64       `json:"min_verification_interval"`
	Description     string      `json:"description,omitempty"`
	SubjectFormat   string      `json:"subject_format"`
}

// SSFStatus is the state of a stream: the body and the answer of /ssf/status.
type SSFStatus struct {
	StreamID string `json:"stream_id"`
	// Status is enabled, paused (events are kept) or disabled (events are dropped).
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
	// Failed counts SETs that the receiver refused for good, SETErrors are the newest of
	// what it said of them; in answers to GET only.
	Failed    int64         `json:"failed,omitempty"`
	SETErrors []SSFSETFault `json:"set_errors,omitempty"`
	// Delivery is how pushing fares, by region; in answers to GET only.
	Delivery []Delivery `json:"delivery,omitempty"`
}

// SSFReplay is the body of POST /ssf/replay: events that come after the revision From
// are told again, of the regions that it names.
type SSFReplay struct {
	StreamID string `json:"stream_id"`
	From     string `json:"from"`
}

// SSFVerify is the body of POST /ssf/verify. The query parameter stream_id does the
// same as the member.
type SSFVerify struct {
	StreamID string `json:"stream_id,omitempty"`
	// State is sent back in the verification event; at most 1024 bytes.
	State *string `json:"state,omitempty"`
}

// SSFPoll is the body of POST /ssf/poll/{stream_id} (RFC 8936 section 2.2).
type SSFPoll struct {
	// MaxEvents is how many SETs are wanted at most; 0: none, only to acknowledge; absent: 100, which is the most.
	MaxEvents *int64 `json:"maxEvents,omitempty"`
	// ReturnImmediately: without SETs, answer at once instead of within 24 s.
	ReturnImmediately bool `json:"returnImmediately,omitempty"`
	// Ack lists the jti of SETs that arrived, SetErrs says of others what was wrong with them. Neither is sent again.
	Ack     []string               `json:"ack,omitempty"`
	SetErrs map[string]SSFSetError `json:"setErrs,omitempty"`
}

// SSFSetError is what was wrong with a SET.
type SSFSetError struct {
	Err         string `json:"err"`
	Description string `json:"description,omitempty"`
}

// SSFSETFault is what a receiver said of a SET that it could make nothing of.
type SSFSETFault struct {
	JTI         string    `json:"jti"`
	Err         string    `json:"err"`
	Description string    `json:"description,omitempty"`
	At          time.Time `json:"at"`
}

// SSFPollAnswer answers it. A SET is sent again, as it was, until it is
// acknowledged.
type SSFPollAnswer struct {
	// SETs are the tokens by jti.
	SETs map[string]string `json:"sets"`
	// MoreAvailable is absent when there are no more for now.
	MoreAvailable bool `json:"moreAvailable,omitempty"`
}

// SSFKeys answers POST /v1/ssf/keys/rotate.
type SSFKeys struct {
	Meta
	Keys     []SigningKey `json:"keys"`
	Revision string       `json:"revision,omitempty"`
}
