package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

// contextKey is that of the session in a request's context.
type contextKey struct{}

// FromContext returns the session of the request that ctx belongs to.
func FromContext(ctx context.Context) (*Session, bool) {
	s, ok := ctx.Value(contextKey{}).(*Session)
	return s, ok
}

// NewContext returns a context with the session, for tests of handlers.
func NewContext(ctx context.Context, s *Session) context.Context {
	return context.WithValue(ctx, contextKey{}, s)
}

// Require lets in only requests of a good session, which the handler finds with
// [FromContext]. The credential is what the header Authorization says after Bearer
// (or DPoP, with a proof), or else the first of Cookies that is there. Others are
// answered 401 with WWW-Authenticate, 403 for an app that is suspended, or 503 with
// Retry-After when nothing can be said of the session. A CORS preflight carries no
// credential: what answers those belongs around Require.
func (c *Client) Require(next http.Handler) http.Handler {
	return c.guard(next, nil, false)
}

// RequireLogin is Require for what needs more than a good session: that its user
// logged in recently, or well. It asks the API, once for each request. What falls
// short is 401 insufficient_user_authentication, as RFC 9470 has it.
func (c *Client) RequireLogin(need api.Require, next http.Handler) http.Handler {
	return c.guard(next, &need, false)
}

// Optional lets everybody in. Only who has a good session is found with
// [FromContext]; what is shown and is not good counts as nothing, but when nothing
// can be said of it, the answer is 503: nobody is shown the page of a stranger
// because a node is away.
func (c *Client) Optional(next http.Handler) http.Handler {
	return c.guard(next, nil, true)
}

func (c *Client) guard(next http.Handler, need *api.Require, optional bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := c.verifyRequest(r, need)
		switch {
		case err == nil:
			if c.JWTHeader != "" && s.Detail != nil && s.JWT != "" {
				w.Header().Set(c.JWTHeader, s.JWT)
				w.Header().Set("Cache-Control", "no-store")
			}
			r = r.WithContext(NewContext(r.Context(), s))
		case optional && statusOf(err) != http.StatusServiceUnavailable:
		default:
			c.refuse(w, r, err, need)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// VerifyRequest says whose session the request is of, as Require does.
func (c *Client) VerifyRequest(r *http.Request) (*Session, error) { return c.verifyRequest(r, nil) }

func (c *Client) verifyRequest(r *http.Request, need *api.Require) (*Session, error) {
	if err := c.prepare(); err != nil {
		return nil, err
	}
	credential, dpop, err := c.shown(r)
	if err != nil {
		return nil, err
	}
	o := Options{Require: need}
	if dpop {
		proofs := r.Header.Values("DPoP")
		if len(proofs) != 1 {
			return nil, refuse(ErrProof, errors.New("want one header DPoP"))
		}
		o.Proof = &api.DPoPProof{Proof: proofs[0], Method: r.Method, URL: c.origin(r) + pathOf(r)}
	}
	return c.VerifyWith(r.Context(), credential, o)
}

// shown returns the credential of the request. Two headers Authorization, or two
// cookies of one name, are none: which one counts would be a matter of taste.
func (c *Client) shown(r *http.Request) (credential string, dpop bool, err error) {
	switch headers := r.Header.Values("Authorization"); {
	case len(headers) > 1:
		return "", false, refuse(ErrInvalid, errors.New("more than one header Authorization"))
	case len(headers) == 1:
		scheme, rest, _ := strings.Cut(headers[0], " ")
		switch rest = strings.Trim(rest, " "); {
		case strings.EqualFold(scheme, "Bearer"):
			return rest, false, nil
		case strings.EqualFold(scheme, "DPoP"):
			return rest, true, nil
		}
	}
	for _, name := range c.setup.cookies {
		switch all := r.CookiesNamed(name); len(all) {
		case 0:
		case 1:
			return all[0].Value, false, nil
		default:
			return "", false, refuse(ErrInvalid, errors.New("more than one cookie of the name"))
		}
	}
	return "", false, nil
}

// pathOf returns the path that the client asked for: of r.URL a mux may have taken a
// prefix.
func pathOf(r *http.Request) string {
	if u, err := url.ParseRequestURI(r.RequestURI); err == nil {
		return u.EscapedPath()
	}
	return r.URL.EscapedPath() // no server has read the request
}

func (c *Client) origin(r *http.Request) string {
	switch {
	case c.Origin != "":
		return strings.TrimRight(c.Origin, "/")
	case r.TLS != nil:
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// refuse answers who is not let in.
func (c *Client) refuse(w http.ResponseWriter, r *http.Request, err error, need *api.Require) {
	status := statusOf(err)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	switch status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", challenge(err, need))
		if e, ok := errors.AsType[*api.Error](err); ok {
			if nonce, ok := e.ErrorDetails[nonceDetail].(string); ok {
				h.Set("DPoP-Nonce", nonce)
			}
		}
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "1")
	}
	if c.Refused != nil {
		c.Refused(w, r, status, err)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": errorCode(err)}) // the client may have gone
}

// errorCode is how a refusal is called in an answer.
func errorCode(err error) string {
	for _, one := range [...]struct {
		reason refusal
		code   string
	}{
		{ErrMissing, "no_credential"}, {ErrInvalid, "session_not_found"}, {ErrExpired, "session_expired"},
		{ErrRevoked, "session_revoked"}, {ErrSuspended, "app_suspended"}, {ErrProof, "invalid_dpop_proof"},
		{ErrStepUp, "insufficient_user_authentication"},
	} {
		if errors.Is(err, one.reason) {
			return one.code
		}
	}
	return "temporarily_unavailable"
}

// challenge is the header WWW-Authenticate: RFC 6750 section 3, RFC 9449 section
// 7.1, RFC 9470 section 3.
func challenge(err error, need *api.Require) string {
	switch e, _ := errors.AsType[*api.Error](err); {
	case errors.Is(err, ErrMissing):
		return "Bearer"
	case errors.Is(err, ErrStepUp) && need != nil:
		text := `Bearer error="insufficient_user_authentication"`
		if need.AAL != "" {
			text += fmt.Sprintf(", acr_values=%q", need.AAL)
		}
		if need.MaxAgeSeconds != nil {
			text += fmt.Sprintf(", max_age=%d", *need.MaxAgeSeconds)
		}
		return text
	case errors.Is(err, ErrProof):
		code := api.ProofInvalid
		if e != nil {
			code = e.ErrorType
		}
		return fmt.Sprintf(`DPoP error=%q, algs=%q`, code, strings.Join(signer.ProofAlgs(), " "))
	}
	return `Bearer error="invalid_token"`
}
