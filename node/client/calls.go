package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/revocast/revocast/node/api"
)

const (
	// maxAnswer is more than any answer has: a page of 500 sessions of 8 KiB, or the
	// revocations of some minutes.
	maxAnswer = 64 << 20
	// waitAll is how much longer a revoke may take that waits for all nodes: twice as
	// long as it takes for the leases of silent ones to end.
	waitAll = 30 * time.Second
	tries   = 3 // of a request that can be repeated
	// nonceDetail is the error detail that holds the header DPoP-Nonce of the answer.
	nonceDetail = "dpop_nonce"
)

var (
	errNoNode = errors.New("what answered is no node of Revocast")
	errNoSID  = &api.Error{
		StatusCode: http.StatusNotFound, ErrorType: api.SessionNotFound, ErrorMessage: "this is not the id of a session",
		ErrorDetails: map[string]any{"reason": "unknown"},
	}
)

// answeredBy returns the error of a call, or that no node has answered it: whatever
// answers 200 to everything must not pass for one that has logged somebody out.
func answeredBy(m *api.Meta, err error) error {
	if err == nil && m.RequestID == "" {
		return errNoNode
	}
	return err
}

// Create makes a session. It is sent under an Idempotency-Key of its own, so one
// whose answer was lost is not made twice, as long as the nodes of Base are of one
// region.
func (c *Client) Create(ctx context.Context, in *api.CreateSession) (*api.SessionAnswer, error) {
	return c.CreateOnce(ctx, rand.Text(), in)
}

// CreateOnce is Create under that Idempotency-Key: as long as the session lives, a
// repeat by whichever process is answered with the same session.
func (c *Client) CreateOnce(ctx context.Context, key string, in *api.CreateSession) (*api.SessionAnswer, error) {
	out := &api.SessionAnswer{}
	err := c.call(ctx, request{method: http.MethodPost, path: "/v1/sessions", body: in, idempotency: key}, out)
	if err := answeredBy(&out.Meta, err); err != nil {
		return nil, fmt.Errorf("create session: %w", err)
	}
	return out, nil
}

// Authenticate asks the API about a token or JWT, with all that it can be asked.
// Unlike Verify it holds the answer against nothing.
func (c *Client) Authenticate(ctx context.Context, in *api.Authenticate) (*api.SessionAnswer, error) {
	out := &api.SessionAnswer{}
	r := request{method: http.MethodPost, path: "/v1/sessions/authenticate", body: in}
	r.once = in.DPoP != nil // it counts once
	if err := answeredBy(&out.Meta, c.call(ctx, r, out)); err != nil {
		return nil, fmt.Errorf("authenticate session: %w", err)
	}
	return out, nil
}

// Get returns a session by its id, also one that has ended and is still known.
func (c *Client) Get(ctx context.Context, id string) (*api.Session, error) {
	if _, ok := parseSID(id); !ok { // it may be a token, which has no place in a URL
		return nil, fmt.Errorf("get session: %w", errNoSID)
	}
	out := &api.SessionInfo{}
	err := c.call(ctx, request{method: http.MethodGet, path: "/v1/sessions/" + id}, out)
	if err := answeredBy(&out.Meta, err); err != nil {
		return nil, fmt.Errorf("get session: %w", err)
	}
	return &out.Session, nil
}

// ListOptions narrow a list. The zero value is the first page of the sessions that
// are active.
type ListOptions struct {
	// Status is active (default), revoked, expired or all.
	Status string
	// Limit is how many a page has at most, 1 to 500; 0: the API's default.
	Limit int
	// Cursor is NextCursor of the page before.
	Cursor string
}

// List returns a page of the sessions of a user.
func (c *Client) List(ctx context.Context, user string, o ListOptions) (*api.SessionList, error) {
	query := url.Values{"user_id": {user}}
	for name, value := range map[string]string{"status": o.Status, "cursor": o.Cursor} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if o.Limit != 0 {
		query.Set("limit", strconv.Itoa(o.Limit))
	}
	out := &api.SessionList{}
	err := c.call(ctx, request{method: http.MethodGet, path: "/v1/sessions?" + query.Encode()}, out)
	if err := answeredBy(&out.Meta, err); err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	return out, nil
}

// Revoke ends sessions, by what the body names. With Wait "all" it returns once no
// node answers "good" any more, and the answer's Receipt is complete; or, when a
// region is out of reach, with one whose Status says that some may. That other
// clients refuse the session a few milliseconds later is theirs to see; this one
// does at once when the session is named by its id.
func (c *Client) Revoke(ctx context.Context, in *api.Revoke) (*api.RevokeAnswer, error) {
	out := &api.RevokeAnswer{}
	r := request{method: http.MethodPost, path: "/v1/sessions/revoke", body: in}
	if in.Wait == "all" {
		r.extra = waitAll
	}
	if err := answeredBy(&out.Meta, c.call(ctx, r, out)); err != nil {
		return nil, fmt.Errorf("revoke session: %w", err)
	}
	if id, ok := parseSID(in.SessionID); ok {
		c.book.revoke(id)
	}
	return out, nil
}

// request is one to the API. Each but one with a proof of possession may be sent
// again, since doing it twice is the same as once.
type request struct {
	method, path string
	body         any
	idempotency  string
	extra        time.Duration // how much longer than usual it may take
	once         bool          // it is not to be sent again
	public       bool          // it needs no API key
}

// public asks for what everybody may read.
func (c *Client) public(ctx context.Context, path string, out any) error {
	return c.call(ctx, request{method: http.MethodGet, path: path, public: true}, out)
}

// call sends a request to one node after the other until one answers what is final:
// anything but that it cannot. The error of such an answer is an *api.Error.
func (c *Client) call(ctx context.Context, r request, out any) error {
	if err := c.prepare(); err != nil {
		return err
	}
	if c.APIKey == "" && !r.public {
		return errNoKey
	}
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	for try := 1; ; try++ {
		at := c.base.Load()
		once, cancel := context.WithTimeout(ctx, c.setup.timeout+r.extra)
		status, err := c.send(once, c.setup.bases[int(at)%len(c.setup.bases)], &r, body, out)
		late := errors.Is(once.Err(), context.DeadlineExceeded)
		cancel()
		if err == nil || final(status) || ctx.Err() != nil {
			return err
		}
		c.base.CompareAndSwap(at, at+1)
		asked := try >= len(c.setup.bases) // every node
		if try == tries || r.once || late && asked {
			return err
		}
		if asked {
			pause(ctx, time.Duration(try)*(50*time.Millisecond+mathrand.N(100*time.Millisecond)))
		}
	}
}

// final reports whether another node, or the same a moment later, would say the same.
func final(status int) bool {
	return status != 0 && status < http.StatusInternalServerError && status != http.StatusTooManyRequests
}

// send asks one node.
func (c *Client) send(ctx context.Context, base string, r *request, body []byte, out any) (status int, err error) {
	h, err := c.build(ctx, base, r, body)
	if err != nil {
		return 0, err
	}
	answer, err := c.setup.api.Do(h)
	if err != nil {
		return 0, unreached(r, err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return 0, unreached(r, err)
	}
	if answer.StatusCode >= 200 && answer.StatusCode < 300 {
		if err := json.Unmarshal(data, out); err != nil {
			return 0, fmt.Errorf("read answer of %s: %w", r.path, err)
		}
		return answer.StatusCode, nil
	}
	refused := &api.Error{}
	if json.Unmarshal(data, refused) != nil || refused.ErrorType == "" {
		return answer.StatusCode, fmt.Errorf("%s answered %d", base, answer.StatusCode)
	}
	if nonce := answer.Header.Get("DPoP-Nonce"); nonce != "" { // what the next proof must hold
		if refused.ErrorDetails == nil {
			refused.ErrorDetails = map[string]any{}
		}
		refused.ErrorDetails[nonceDetail] = nonce
	}
	return answer.StatusCode, refused
}

func (c *Client) build(ctx context.Context, base string, r *request, body []byte) (*http.Request, error) {
	h, err := http.NewRequestWithContext(ctx, r.method, base+r.path, bytes.NewReader(body))
	if err != nil {
		return nil, unreached(r, err)
	}
	if !r.public {
		h.Header.Set("Authorization", c.setup.authorization)
		// A key of another app is refused, and never heard of that app's revocations.
		h.Header.Set("X-Revocast-App", c.App)
	}
	if body != nil {
		h.Header.Set("Content-Type", "application/json")
	}
	if r.idempotency != "" {
		h.Header.Set("Idempotency-Key", r.idempotency)
	}
	return h, nil
}

// unreached drops the URL from an error of net/http: it may name a user.
func unreached(r *request, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	path, _, _ := bytes.Cut([]byte(r.path), []byte{'?'})
	return fmt.Errorf("ask %s: %w", path, err)
}
