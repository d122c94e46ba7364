package node

import (
	"cmp"
	"context"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/revocast/revocast/node/api"
)

// The OAuth endpoints have their own manners: forms instead of JSON, client
// authentication in three ways, and error bodies of RFC 6749 section 5.2.

// clientParams are the parameters of a form by which its sender authenticates.
const (
	paramClientID     = "client_id"
	paramClientSecret = "client_secret"
)

// tokenForm is the body of an introspection or a revocation: the credential it
// is about and who asks. token_type_hint is not kept, as a token says by its own
// form what it is; parameters that are not known are passed over, as OAuth
// demands.
type tokenForm struct {
	token            string
	clientID, secret string
}

// readForm reads the body as a form. Nothing of it is believed if a parameter
// stands in it twice (RFC 6749 section 3.2): two readers may take different ones.
func (c *call) readForm() (f tokenForm, err error) {
	b, err := c.bodyOf()
	if err != nil {
		return f, err
	}
	if media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type")); err != nil || media != "application/x-www-form-urlencoded" {
		return f, fail(api.MediaType, "Content-Type %q: want application/x-www-form-urlencoded", c.r.Header.Get("Content-Type"))
	}
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return f, fail(api.InvalidArgument, "the query cannot be read").because(err)
	}
	for _, secret := range []string{"token", "access_token", paramClientSecret} {
		if query.Has(secret) {
			return f, fail(api.InvalidArgument, "%s never stands in a URL, which is logged: send it in the body", secret)
		}
	}
	form, err := url.ParseQuery(string(b))
	if err != nil {
		return f, fail(api.InvalidArgument, "the body is not a form").because(err)
	}
	for name, values := range form {
		if len(values) > 1 {
			return f, fail(api.InvalidArgument, "parameter %q appears twice", name)
		}
	}
	f = tokenForm{token: form.Get("token"), clientID: form.Get(paramClientID), secret: form.Get(paramClientSecret)}
	if f.token == "" {
		return f, fail(api.InvalidArgument, "the parameter token is required")
	}
	return f, nil
}

// authorizeForm returns who shows the API key, in one of the ways of RFC 6749
// section 2.3.1 or as Bearer. The client id is the id of the app.
func (n *Node) authorizeForm(c *call, f *tokenForm, scope string) (caller, error) {
	user, secret := f.clientID, f.secret
	if len(c.r.Header.Values("Authorization")) > 0 {
		if f.secret != "" {
			return caller{}, fail(api.InvalidArgument, "the client authenticates in two ways, by header and by form")
		}
		var err error
		if user, secret, err = credentials(c.r); err != nil {
			return caller{}, err
		}
		if _, _, basic := c.r.BasicAuth(); basic {
			user, secret = unescapeBasic(user), unescapeBasic(secret)
		}
		if user != "" && f.clientID != "" && f.clientID != user {
			return caller{}, fail(api.InvalidArgument, "client_id is not the client of the Authorization header")
		}
		user = cmp.Or(user, f.clientID)
	}
	if secret == "" {
		return caller{}, unauthorized("an API key is needed: Basic with the app and the key, client_id and client_secret, or Bearer")
	}
	return n.authorizeAs(c.r, user, secret, scope)
}

// unescapeBasic undoes that OAuth clients escape both halves of Basic as in a
// form. Neither an app's id nor an API key has a character that this changes.
func unescapeBasic(s string) string {
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	return s
}

// oauthError is the error body of RFC 6749 section 5.2.
type oauthError struct {
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// The error codes of OAuth, by error type. What is not here is invalid_request
// when the caller did wrong, else server_error.
var oauthCodes = map[string]string{
	api.Unauthorized: "invalid_client",
	api.AppNotFound:  "invalid_client",
	api.Forbidden:    "insufficient_scope",
	api.AppSuspended: "access_denied",
	api.HomeReauth:   "temporarily_unavailable",
}

// oauthFailed returns how a failure is answered at an OAuth endpoint, where it
// is about the client and never about the token.
func oauthFailed(c *call, err error) (status int, body any) {
	f := classify(err)
	status = statusOf[f.kind]
	code := oauthCodes[f.kind]
	switch {
	case f.kind == api.HomeReauth:
		// Its 401 would say that the client is not known.
		status = http.StatusServiceUnavailable
	case code == "invalid_client":
		status = http.StatusUnauthorized
	case code != "":
	case status == http.StatusServiceUnavailable:
		code = "temporarily_unavailable"
	case status >= http.StatusInternalServerError:
		code = "server_error"
	default:
		code = "invalid_request"
	}
	switch status {
	case http.StatusServiceUnavailable:
		c.h.Set("Retry-After", strconv.Itoa(1))
	case http.StatusUnauthorized:
		c.h.Set("WWW-Authenticate", `Basic realm="revocast", charset="UTF-8"`)
		if scheme, _, _ := strings.Cut(c.r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
			c.h.Add("WWW-Authenticate", `Bearer error="invalid_token"`)
		}
	}
	return status, &oauthError{Code: code, Description: describable(f.message)}
}

// describable returns the text without the characters that error_description
// may not have (RFC 6749 section 5.2).
func describable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"' || r == '\\':
			return '\''
		case r < ' ' || r > '~':
			return -1
		}
		return r
	}, text)
}

// oauthClient is a handler of a form, whose client was authenticated.
type oauthClient func(ctx context.Context, c *call, token string) (status int, body any, err error)

// oauth makes a route of such a handler. Its client is authenticated after the
// form was read, where its credentials may stand.
func (n *Node) oauth(pattern, scope string, handle oauthClient) route {
	return route{pattern: pattern, scope: scope, oauth: true, open: true, handle: func(ctx context.Context, c *call) (int, any, error) {
		f, err := c.readForm()
		if err != nil {
			return 0, nil, err
		}
		if c.caller, err = n.authorizeForm(c, &f, scope); err != nil {
			return 0, nil, err
		}
		return handle(ctx, c, f.token)
	}}
}

// oauthRevoke answers POST /oauth2/revoke (RFC 7009): 200 without a body for a
// token that is revoked now and durably, and for one that is not known or is
// another app's, of which nothing is done. A JWT revokes its session.
func (n *Node) oauthRevoke(ctx context.Context, c *call, token string) (int, any, error) {
	cr, bad := textual(token)
	if bad {
		return 0, nil, fail(api.InvalidArgument, "the token is over %d bytes", maxCredentials)
	}
	req := &api.Revoke{SessionToken: cr.text, Reason: "oauth2_revoke"}
	if cr.isJWT = cr.isJWT && !n.isForeign(cr.text, c.caller.app); cr.isJWT {
		req.SessionToken, req.SessionJWT = "", cr.text
	}
	r, err := n.newRevocation(c, req)
	if err != nil {
		return 0, nil, err
	}
	// 202 says that it stands in this region's log and takes away from here on,
	// which is all that RFC 7009 section 2.2 promises.
	_, _, err = n.revokeOne(ctx, r, func(ctx context.Context) (found, error) {
		return n.findCredential(ctx, r.app.App, req.SessionToken, req.SessionJWT, jwtEver, consistency{sure: true})
	})
	return http.StatusOK, nil, err
}
