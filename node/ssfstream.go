package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// ssfStreamType is the type of setting that a Shared Signals stream is; its name is
// the stream id. The private part is the authorization header of its pushes.
const ssfStreamType = "ssf_stream"

// Limits of a stream.
const (
	maxSSFText     = 1024 // bytes of a description and of the state of a verification
	maxSSFURL      = 2048
	maxSSFHeader   = 2048 // bytes of an authorization header
	maxSSFEvents   = 100  // requested
	maxSSFAsked    = 4096 // bytes of all of them
	maxSSFControls = 8    // events about the stream itself that are not delivered yet
	maxSSFPending  = 6144 // bytes of those, but for the newest
	// minVerification is the time between two verifications, in seconds.
	minVerification = 10
)

// Delivery methods.
const (
	ssfPush = "urn:ietf:rfc:8935"
	ssfPoll = "urn:ietf:rfc:8936"
)

// States of a stream.
const (
	ssfEnabled  = "enabled"
	ssfPaused   = "paused"
	ssfDisabled = "disabled"
)

// Subject formats.
const (
	formatComplex = "complex"
	formatIssSub  = "iss_sub"
	formatEmail   = "email"
	formatOpaque  = "opaque"
)

var subjectFormats = []string{formatComplex, formatIssSub, formatEmail, formatOpaque}

// ssfStream is a stream as it is stored.
type ssfStream struct {
	ID  string `json:"-"`
	App string `json:"-"`
	// Key is the API key that made the stream and is its receiver; KeyApp the app of
	// the key, empty for a cluster admin key.
	Key    string `json:"key"`
	KeyApp string `json:"key_app,omitempty"`
	// Method is ssfPush or ssfPoll. URL is where to push.
	Method string `json:"method"`
	URL    string `json:"endpoint_url,omitempty"`
	// Requested are the events asked for; nil: all.
	Requested   []string `json:"events_requested,omitzero"`
	Description string   `json:"description,omitempty"`
	Format      string   `json:"subject_format"`
	Status      string   `json:"status"`
	Reason      string   `json:"reason,omitempty"`
	// Since is the revision from which on events are told, as of Epoch (unix ms): what
	// was delivered under another epoch says nothing.
	Since string `json:"since"`
	Epoch int64  `json:"epoch"`
	// Controls are the newest events about the stream itself, in order of their numbers.
	Controls []ssfControl `json:"controls,omitempty"`
	// Delivery is what the one who pushes is told. Halted is the turn of it, and 1, in
	// which the receiver was told that the transmitter stopped.
	Delivery deliverySetting `json:"delivery"`
	Halted   uint64          `json:"halted,omitempty"`
	// VerifiedAt is when the receiver last asked for a verification, unix ms.
	VerifiedAt int64 `json:"verified_at,omitempty"`
}

// ssfControl is an event about the stream itself: a verification, or with Status an
// update.
type ssfControl struct {
	N      uint64  `json:"n"`
	At     int64   `json:"at"` // unix ms
	State  *string `json:"state,omitempty"`
	Status string  `json:"status,omitempty"`
	Reason string  `json:"reason,omitempty"`
}

// add appends an event about the stream, with the next number. At most
// maxSSFControls are kept, and no more than fit into an event.
func (s *ssfStream) add(c ssfControl) {
	if len(s.Controls) > 0 {
		c.N = s.Controls[len(s.Controls)-1].N
	}
	c.N++
	s.Controls = append(slices.Clone(s.Controls), c)
	s.Controls = s.Controls[max(0, len(s.Controls)-maxSSFControls):]
	for len(s.Controls) > 1 {
		if text, err := json.Marshal(s.Controls[:len(s.Controls)-1]); err != nil || len(text) <= maxSSFPending {
			return
		}
		s.Controls = s.Controls[1:]
	}
}

// ssfStreamID returns the id of the stream of the API key for the app. It follows
// from both, so that a receiver that asks for two at once gets one.
func ssfStreamID(app, keyID string) string {
	sum := sha256.Sum256([]byte("revocast ssf stream\x00" + app + "\x00" + keyID))
	return "ssf_" + base64.RawURLEncoding.EncodeToString(sum[:16])
}

func readSSFStream(held *events.Setting) (*ssfStream, error) {
	s := &ssfStream{ID: held.Name, App: held.App}
	if err := json.Unmarshal(held.Value, s); err != nil {
		return nil, fmt.Errorf("read ssf stream %s: %w", held.Name, err)
	}
	return s, nil
}

// ssfStreamIn returns the stream with the id, which must be one of the caller's: of
// its API key, or of the app if it may administer that.
func ssfStreamIn(snap *projection.Snapshot, c *caller, id string) (*ssfStream, error) {
	held, ok := snap.Setting(c.app, ssfStreamType, id)
	if !ok {
		return nil, noSSFStream(id)
	}
	s, err := readSSFStream(held)
	if err == nil && !s.of(c) && !c.may(api.ScopeAdmin) {
		return nil, noSSFStream(id)
	}
	return s, err
}

// noSSFStream has the same answer for a stream of another receiver.
func noSSFStream(id string) *failure {
	return fail(api.NotFound, "no stream %q", id).with("stream_id", id)
}

// of reports whether the caller's API key made the stream.
func (s *ssfStream) of(c *caller) bool { return s.Key == c.keyID && (s.KeyApp == "") == c.cluster }

// ssfLive reports whether events of the stream may be told: it is enabled, its app is
// not suspended, and the API key of its receiver is in force. Who took the key away must not have to
// remember the stream.
func (n *Node) ssfLive(snap *projection.Snapshot, s *ssfStream) bool {
	return s.Status == ssfEnabled && n.ssfAppLive(snap, s) && n.ssfKeyLive(snap, s)
}

// ssfAppLive reports whether the app of the stream is neither suspended nor deleted.
func (n *Node) ssfAppLive(snap *projection.Snapshot, s *ssfStream) bool {
	app, ok := snap.App(s.App)
	return ok && app.State == events.AppActive
}

// ssfKeyLive reports whether the API key of the receiver is in force.
func (n *Node) ssfKeyLive(snap *projection.Snapshot, s *ssfStream) bool {
	key, ok := snap.APIKeyByID(s.KeyApp, s.Key)
	return ok && key.RevokedAt == 0 && (key.ExpiresAt == 0 || n.judged() < key.ExpiresAt)
}

// editSSFStream changes the stream and returns it. The private part stays unless
// edit returns another.
func (n *Node) editSSFStream(ctx context.Context, c *caller, id string, edit func(s *ssfStream, header []byte) ([]byte, error)) (*ssfStream, error) {
	return n.editSSFStreamIn(ctx, c, id, func(_ *projection.Snapshot, s *ssfStream, header []byte) ([]byte, error) { return edit(s, header) })
}

func (n *Node) editSSFStreamIn(ctx context.Context, c *caller, id string, edit func(snap *projection.Snapshot, s *ssfStream, header []byte) ([]byte, error)) (*ssfStream, error) {
	var out *ssfStream
	_, err := n.editSetting(ctx, c.app, ssfStreamType, id, c.keyID, func(snap *projection.Snapshot, held *events.Setting) (json.RawMessage, []byte, error) {
		s, err := ssfStreamIn(snap, c, id)
		if err != nil {
			return nil, nil, err
		}
		header, err := n.conf.Keys.OpenVerified(snap.Sealed(held))
		if err != nil {
			return nil, nil, fmt.Errorf("open ssf stream %s: %w", id, err)
		}
		before := *s
		next, err := edit(snap, s, header)
		if err != nil {
			return nil, nil, err
		}
		out = s
		value, err := marshal(s)
		if was, _ := marshal(&before); bytes.Equal(was, value) && bytes.Equal(header, next) {
			return nil, nil, errUnchanged
		}
		return value, next, err
	})
	return out, err
}

// ssfRequested is what is read of a request.
type ssfRequested struct {
	api.SSFRequest
	delivery    api.SSFDelivery
	hasDelivery bool
}

// readSSF reads the body into v as receivers write it: members that are not known
// are passed over, whose spelling is not that of one that is.
func (c *call) readSSF(v any) error {
	b, err := c.read()
	if text := bytes.TrimSpace(b); err != nil || len(text) == 0 || string(text) == "null" {
		return err
	}
	return decodeBody(b, v, notMisspelt)
}

// notMisspelt reports whether a member that is not known may be passed over.
// encoding/json would take one that differs only in case for the one that is known.
func notMisspelt(name string, known map[string]bodyMember) bool {
	for other := range known {
		if strings.EqualFold(name, other) {
			return false
		}
	}
	return true
}

func (c *call) readSSFRequest() (r ssfRequested, err error) {
	if err = c.readSSF(&r.SSFRequest); err != nil {
		return r, err
	}
	for _, text := range []**string{&r.Description, &r.SubjectFormat} {
		if *text != nil && **text == "" {
			*text = nil
		}
	}
	if !given(r.Delivery) {
		return r, nil
	}
	if err = decodeBody(r.Delivery, &r.delivery, notMisspelt); err != nil {
		return r, badSetting("delivery", "%v", err)
	}
	r.hasDelivery = r.delivery != api.SSFDelivery{}
	return r, nil
}

// take sets what the receiver decides: what is in the request, or with replace all
// of it. It returns the authorization header that the stream has then.
func (n *Node) take(s *ssfStream, r *ssfRequested, replace bool, header []byte) ([]byte, error) {
	if r.hasDelivery || replace {
		var err error
		if header, err = n.takeDelivery(s, &r.delivery, replace, header); err != nil {
			return nil, err
		}
	}
	if r.EventsRequested != nil || replace {
		if err := s.takeEvents(r.EventsRequested); err != nil {
			return nil, err
		}
	}
	if r.Description != nil || replace {
		s.Description = orNothing(r.Description)
		if err := checkText("description", s.Description, maxSSFText); err != nil {
			return nil, err
		}
	}
	if r.SubjectFormat != nil || replace {
		if s.Format = orNothing(r.SubjectFormat); s.Format == "" {
			s.Format = formatComplex
		}
		if !slices.Contains(subjectFormats, s.Format) {
			return nil, badSetting("subject_format", "want one of complex, iss_sub, email, opaque")
		}
	}
	return header, nil
}

func orNothing(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// takeDelivery sets how the SETs get to the receiver. Without a header in a change
// the one that is held stays, as answers do not show it, but only for the address
// it was given for.
func (n *Node) takeDelivery(s *ssfStream, d *api.SSFDelivery, replace bool, header []byte) ([]byte, error) {
	const field = "delivery.endpoint_url"
	switch d.Method {
	case "", ssfPoll:
		if d.EndpointURL != "" && d.EndpointURL != n.ssfPollURL(s.ID) {
			return nil, badSetting(field, "is the transmitter's to say when events are polled")
		}
		if d.AuthorizationHeader != "" {
			return nil, badSetting("delivery.authorization_header", "only for pushed events")
		}
		s.Method, s.URL = ssfPoll, ""
		return nil, nil
	case ssfPush:
	default:
		return nil, badSetting("delivery.method", "want %s or %s", ssfPush, ssfPoll)
	}
	if d.EndpointURL == "" || len(d.EndpointURL) > maxSSFURL {
		return nil, badSetting(field, "want where to push, of at most %d bytes", maxSSFURL)
	}
	if err := n.conf.Outbound.Check(d.EndpointURL); err != nil {
		return nil, badSetting(field, "%v", err)
	}
	if !isHeader(d.AuthorizationHeader) {
		return nil, badSetting("delivery.authorization_header", "want printable ASCII of at most %d bytes", maxSSFHeader)
	}
	if d.AuthorizationHeader != "" || replace || s.Method != ssfPush || s.URL != d.EndpointURL {
		header = []byte(d.AuthorizationHeader)
	}
	s.Method, s.URL = ssfPush, d.EndpointURL
	return header, nil
}

// isHeader reports whether text can be the value of a header as it is.
func isHeader(text string) bool {
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return len(text) <= maxSSFHeader && len(text) == len(bytes.TrimSpace([]byte(text)))
}

func (s *ssfStream) takeEvents(asked *[]string) error {
	if asked == nil {
		s.Requested = nil
		return nil
	}
	if len(*asked) > maxSSFEvents {
		return badSetting("events_requested", "more than %d", maxSSFEvents)
	}
	size := 0
	for _, uri := range *asked {
		if err := checkText("events_requested", uri, maxSSFURL); err != nil {
			return err
		}
		size += len(uri)
	}
	if size > maxSSFAsked {
		return badSetting("events_requested", "more than %d bytes together", maxSSFAsked)
	}
	s.Requested = append([]string{}, *asked...)
	return nil
}

// delivers returns the events that the stream tells.
func (s *ssfStream) delivers() []string {
	if s.Requested == nil {
		return caepEvents
	}
	all := []string{}
	for _, uri := range caepEvents {
		if slices.Contains(s.Requested, uri) {
			all = append(all, uri)
		}
	}
	return all
}
