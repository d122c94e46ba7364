package nodetest

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
)

// reply is a node's answer.
type reply struct {
	status int
	reason string // of a verify
	body   answer
	life   int
	gone   bool // the node's life ended before the answer was there
}

// answer is what the driver reads of all bodies.
type answer struct {
	Session struct {
		SessionID string         `json:"session_id"`
		Metadata  map[string]any `json:"metadata"`
	} `json:"session"`
	Token    string `json:"session_token"`
	JWT      string `json:"session_jwt"`
	Revision string `json:"revision"`
	Revoked  int    `json:"revoked"`
	Receipt  struct {
		Status   string   `json:"status"`
		Revision string   `json:"revision"`
		Pending  []string `json:"pending"`
	} `json:"receipt"`
	Status    string `json:"status"` // of a receipt that was asked for again
	ErrorType string `json:"error_type"`
	Details   struct {
		Reason string `json:"reason"`
	} `json:"error_details"`
}

// fields is a JSON object.
type fields map[string]any

// ask sends a request to the node, waiting first while it is paused. A node
// without a life answers nothing.
func (m *Member) ask(ctx context.Context, credential, method, path string, body fields) reply {
	m.running(ctx)
	l := m.current()
	if l == nil {
		return reply{gone: true}
	}
	var content bytes.Buffer
	if body != nil {
		// A map of strings, numbers and such maps can always be marshalled.
		_ = json.NewEncoder(&content).Encode(body)
	}
	r := httptest.NewRequestWithContext(ctx, method, path, &content)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Authorization", "Bearer "+credential)
	w := httptest.NewRecorder()
	l.handler.ServeHTTP(w, r)
	m.running(ctx)
	out := reply{status: w.Code, reason: w.Header().Get("X-Session-Reason"), life: l.number, gone: m.current() != l}
	_ = json.Unmarshal(w.Body.Bytes(), &out.body) // 204 has none
	return out
}

// judged reads the answer to a use of a session.
func (r *reply) judged(o *Op) {
	o.Life, o.Revision = r.life, r.body.Revision
	switch {
	case r.gone:
		o.Outcome = Unknown
	case r.status >= 200 && r.status < 300:
		o.Outcome = Valid
		for mark := range r.body.Session.Metadata {
			o.Marks = append(o.Marks, mark)
		}
		slices.Sort(o.Marks)
	case r.status == http.StatusServiceUnavailable:
		o.Outcome, o.Reason, o.Note = Fenced, r.body.ErrorType, r.reason
		if o.Reason == "" && r.reason != "behind" { // a verify, which has no body
			o.Reason = Stale
		}
	case r.status == http.StatusUnauthorized && r.reason != "":
		o.Outcome, o.Reason = Invalid, r.reason
	case r.status == http.StatusNotFound && r.body.ErrorType == "session_not_found":
		o.Outcome, o.Reason = Invalid, r.body.Details.Reason
	default:
		o.Outcome, o.Reason = Unknown, r.body.ErrorType
	}
}

// written reads the answer to a write.
func (r *reply) written(o *Op) {
	o.Life = r.life
	if r.gone || r.status < 200 || r.status > 299 {
		o.Outcome, o.Reason = Unknown, r.body.ErrorType
		return
	}
	o.Outcome, o.Revision, o.Receipt = OK, r.body.Revision, r.body.Receipt.Status
	if r.body.Receipt.Revision != "" {
		o.Revision = r.body.Receipt.Revision
	}
	o.Already = o.Op == OpRevoke && r.body.Revoked == 0
	o.Pending = r.body.Receipt.Pending
	if o.Op == OpRevoke && o.Via == "jwt" && o.Receipt == "" {
		o.Outcome = Unknown // to the node's clock the JWT is of the future, and so of no session
	}
}
