package nodetest

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
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
		SessionID string `json:"session_id"`
	} `json:"session"`
	Token    string `json:"session_token"`
	JWT      string `json:"session_jwt"`
	Revision string `json:"revision"`
	Revoked  int    `json:"revoked"`
	Receipt  struct {
		Status   string `json:"status"`
		Revision string `json:"revision"`
	} `json:"receipt"`
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
	case r.status == http.StatusServiceUnavailable:
		o.Outcome, o.Reason = Fenced, r.body.ErrorType
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
	if strings.Contains(o.Receipt, "pending") {
		o.Outcome = Unknown // on its way to its home
	}
}
