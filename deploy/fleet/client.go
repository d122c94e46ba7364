package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/nodetest"
)

// reply is a node's answer.
type reply struct {
	node   string
	err    error // no answer
	status int
	reason string // X-Session-Reason
	body   answer
	life   int
	gone   bool // the node's life ended before the answer was there
}

// answer is what is read of all bodies.
type answer struct {
	Session   api.Session `json:"session"`
	Token     string      `json:"session_token"`
	JWT       string      `json:"session_jwt"`
	Revision  string      `json:"revision"`
	Revoked   int         `json:"revoked"`
	Total     int         `json:"total"`
	Receipt   api.Receipt `json:"receipt"`
	ErrorType string      `json:"error_type"`
	Details   struct {
		Reason string `json:"reason"`
	} `json:"error_details"`
}

// fields is a JSON object.
type fields map[string]any

func newClient(conns int) *client {
	return &client{Transport: &http.Transport{
		MaxIdleConnsPerHost: conns, DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
	}}
}

// client keeps its connections to nodes open.
type client = http.Client

// request is one request to a node.
type request struct {
	credential, method, path string
	body                     fields // nil: none
	once                     string // Idempotency-Key, if not empty
	patience                 time.Duration
}

// send sends the request to the node, once.
func send(ctx context.Context, c *client, n *Node, q request) (r reply) {
	r.life = n.Life()
	defer func() { r.gone = n.Life() != r.life }()
	ctx, cancel := context.WithTimeout(ctx, q.patience)
	defer cancel()
	var content io.Reader
	if q.body != nil {
		raw, err := json.Marshal(q.body)
		if err != nil {
			return reply{err: err}
		}
		content = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, n.URL+q.path, content)
	if err != nil {
		r.err = err
		return r
	}
	req.Header.Set("Authorization", "Bearer "+q.credential)
	if q.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if q.once != "" {
		req.Header.Set("Idempotency-Key", q.once)
	}
	resp, err := c.Do(req)
	if err != nil {
		r.err = err
		return r
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		r.err = err
		return r
	}
	r.status, r.reason = resp.StatusCode, resp.Header.Get("X-Session-Reason")
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &r.body); err != nil {
			r.err = fmt.Errorf("read answer: %w", err)
		}
	}
	return r
}

// judged reads the answer to a use of a session.
func (r *reply) judged(o *nodetest.Op) {
	o.Life, o.Revision = r.life, r.body.Revision
	switch {
	case r.err != nil:
		o.Outcome, o.Note = nodetest.Unknown, r.err.Error()
	case r.gone:
		o.Outcome = nodetest.Unknown
	case r.status >= 200 && r.status < 300:
		o.Outcome = nodetest.Valid
	case r.status == http.StatusServiceUnavailable:
		o.Outcome, o.Reason = nodetest.Fenced, r.body.ErrorType+r.reason
	case r.status == http.StatusUnauthorized && r.reason != "":
		o.Outcome, o.Reason = nodetest.Invalid, r.reason
	case r.status == http.StatusNotFound && r.body.ErrorType == api.SessionNotFound:
		o.Outcome, o.Reason = nodetest.Invalid, r.body.Details.Reason
	default:
		o.Outcome, o.Reason, o.Note = nodetest.Unknown, r.body.ErrorType, http.StatusText(r.status)
	}
}

// written reads the answer to a write.
func (r *reply) written(o *nodetest.Op) {
	o.Life = r.life
	if r.err != nil {
		o.Note = r.err.Error()
	}
	if r.err != nil || r.gone || r.status < 200 || r.status > 299 {
		o.Outcome, o.Reason = nodetest.Unknown, r.body.ErrorType
		return
	}
	o.Outcome, o.Revision, o.Receipt = nodetest.OK, r.body.Revision, r.body.Receipt.Status
	if r.body.Receipt.Revision != "" {
		o.Revision = r.body.Receipt.Revision
	}
	o.Already = o.Op == nodetest.OpRevoke && r.body.Revoked == 0
	if strings.Contains(o.Receipt, "pending") {
		o.Outcome = nodetest.Unknown // on its way to its home
	}
}

// State returns what the node says of itself at /readyz.
func (n *Node) State(ctx context.Context) (*api.Ready, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/readyz", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its state: %w", n.Name, err)
	}
	defer resp.Body.Close()
	state := new(api.Ready)
	if err := json.NewDecoder(resp.Body).Decode(state); err != nil {
		return nil, fmt.Errorf("ask %s for its state: %w", n.Name, err)
	}
	return state, nil
}

// Fenced returns why the node is fenced from the stream, empty when it is not.
func (n *Node) Fenced(ctx context.Context, stream string) (string, error) {
	state, err := n.State(ctx)
	if err != nil {
		return "", err
	}
	for _, s := range state.Streams {
		if s.Stream == stream && s.Fresh {
			return "", nil
		} else if s.Stream == stream {
			return s.Fenced, nil
		}
	}
	return "unknown", nil
}
