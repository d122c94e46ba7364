package node

import (
	"context"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/revocast/revocast/node/api"
)

// route is one line of the API. Exactly one of handle and raw is set.
type route struct {
	// pattern is one of http.ServeMux, with its method.
	pattern string
	// scope is what the API key must have; empty: the route is public.
	scope string
	// handle answers through serve.
	handle handler
	// raw answers by itself: the hot path, what is not JSON, and what is read
	// while it is answered. It sees to its scope itself.
	raw http.HandlerFunc
	// cors says which pages of other origins may call it.
	cors cors
	// oauth: handle authenticates its caller by a form, and errors are those of OAuth.
	oauth bool
	// query names the parameters that handle finds in call.query. Others are refused,
	// app excepted: a filter that is misspelled must not list everything, nor may a
	// demand be passed over that belongs into the body.
	query []string
	// open: the query is not looked at. It is read by handle, or by nobody where caches
	// and old clients add to it.
	open bool
}

// routes returns the whole API. api/openapi.yaml says the same; a test compares
// the two.
//
// Two patterns of Go's mux would clash, GET /v1/sessions/jwks/{app} and
// GET /v1/sessions/{sid}/events, so they share one that tells them apart:
// "jwks" is no session id.
func (n *Node) routes() []route {
	native := append(n.verifyRoutes(), []route{
		{pattern: "POST /v1/sessions", scope: api.ScopeCreate, handle: n.createSession},
		{pattern: "POST /v1/sessions/impersonate", scope: api.ScopeImpersonate, handle: n.impersonateUser},
		{pattern: "POST /v1/sessions/authenticate", scope: api.ScopeVerify, handle: n.authenticateSession},
		{pattern: "POST /v1/sessions/rotate", scope: api.ScopeCreate, handle: n.rotateSession},
		{pattern: "POST /v1/sessions/revoke", scope: api.ScopeRevoke, handle: n.revokeSessions},
		{pattern: "POST /v1/sessions/import", scope: api.ScopeAdmin, raw: n.importSessions},
		{pattern: "GET /v1/sessions", scope: api.ScopeRead, handle: n.listSessions, query: []string{"user_id", "status", "limit", "cursor"}},
		{pattern: "GET /v1/sessions/{sid}", scope: api.ScopeRead, handle: n.getSession},
		{pattern: "PATCH /v1/sessions/{sid}", scope: api.ScopeCreate, handle: n.patchSession},
		{pattern: "DELETE /v1/sessions/{sid}", scope: api.ScopeRevoke, handle: n.deleteSession, query: []string{"reason", "wait"}},
		{pattern: "POST /v1/sessions/{sid}/tokens", scope: api.ScopeCreate, handle: n.mintToken},
		{pattern: "POST /v1/sessions/{sid}/organization", scope: api.ScopeCreate, handle: n.switchOrganization},
		{pattern: "DELETE /v1/sessions/{sid}/organization", scope: api.ScopeCreate, handle: n.leaveOrganization},
		{pattern: "GET /v1/sessions/{sid}/{what}", handle: n.sessionPart, cors: corsAny, open: true},
		{pattern: "GET /v1/events", scope: api.ScopeRead, raw: n.events},
		{pattern: "POST /v1/events/ping", handle: n.ping},
		{pattern: "GET /v1/revocations", scope: api.ScopeRead, handle: n.revocations},

		{pattern: "POST /v1/users/erase", scope: api.ScopeAdmin, handle: n.eraseUser},
		{pattern: "GET /v1/receipts/{revision}", handle: n.getReceipt, query: []string{"wait"}},

		{pattern: "GET /v1/store", scope: api.ScopeRead, handle: n.listStored, query: []string{"limit", "cursor"}},
		{pattern: "DELETE /v1/store", scope: api.ScopeRevoke, handle: n.clearStore, query: []string{"reason"}},
		{pattern: "GET /v1/store/{token_sha256}", scope: api.ScopeRead, handle: n.getStored, query: []string{"consistency", "at_least"}},
		{pattern: "PUT /v1/store/{token_sha256}", scope: api.ScopeCreate, handle: n.putStored},
		{pattern: "DELETE /v1/store/{token_sha256}", scope: api.ScopeRevoke, handle: n.deleteStored, query: []string{"reason", "wait"}},
		{pattern: "POST /v1/store/{token_sha256}/touch", scope: api.ScopeCreate, handle: n.touchStored},

		{pattern: "GET /v1/rbac/policy", scope: api.ScopeVerify, handle: n.getPolicy},
		{pattern: "PUT /v1/rbac/policy", scope: api.ScopeAdmin, handle: n.putPolicy},
		{pattern: "POST /v1/impersonation/tokens", scope: api.ScopeImpersonate, handle: n.impersonationToken},
		{pattern: "POST /v1/impersonation/authenticate", scope: api.ScopeCreate, handle: n.authenticateImpersonation},
		{pattern: "POST /v1/sessions/attest", scope: api.ScopeCreate, handle: n.attestSession},
		{pattern: "POST /v1/sessions/exchange_access_token", scope: api.ScopeCreate, handle: n.exchangeAccessToken},
		{pattern: "POST /v1/sessions/migrate", scope: api.ScopeVerify, handle: n.migrateSession},

		{pattern: "POST /v1/client/refresh", handle: n.clientRefresh, cors: corsApp},
		{pattern: "POST /v1/client/logout", handle: n.clientLogout, cors: corsApp},
		{pattern: "GET /v1/client/events", raw: n.clientEvents, cors: corsApp},

		{pattern: "POST /v1/apps", scope: api.ScopeCluster, handle: n.postApp},
		{pattern: "GET /v1/apps", scope: api.ScopeCluster, handle: n.listApps},
		{pattern: "GET /v1/apps/{app}", scope: api.ScopeAdmin, handle: n.getApp},
		{pattern: "PATCH /v1/apps/{app}", scope: api.ScopeAdmin, handle: n.patchApp},
		{pattern: "DELETE /v1/apps/{app}", scope: api.ScopeCluster, handle: n.deleteApp},
		{pattern: "POST /v1/apps/{app}/suspend", scope: api.ScopeCluster, handle: n.suspendApp},
		{pattern: "POST /v1/apps/{app}/resume", scope: api.ScopeCluster, handle: n.resumeApp},

		{pattern: "POST /v1/apps/{app}/api-keys", scope: api.ScopeAdmin, handle: n.postAPIKey},
		{pattern: "GET /v1/apps/{app}/api-keys", scope: api.ScopeAdmin, handle: n.listAPIKeys},
		{pattern: "DELETE /v1/apps/{app}/api-keys/{key}", scope: api.ScopeAdmin, handle: n.revokeAPIKey, query: []string{"wait"}},
		{pattern: "POST /v1/admin-keys", scope: api.ScopeCluster, handle: n.postAPIKey},
		{pattern: "GET /v1/admin-keys", scope: api.ScopeCluster, handle: n.listAPIKeys},
		{pattern: "DELETE /v1/admin-keys/{key}", scope: api.ScopeCluster, handle: n.revokeAPIKey, query: []string{"wait"}},

		{pattern: "GET /v1/cluster-keys", scope: api.ScopeCluster, handle: n.listClusterKeys},
		{pattern: "POST /v1/cluster-keys/rotate", scope: api.ScopeCluster, handle: n.rotateClusterKeys},

		{pattern: "GET /v1/apps/{app}/keys", scope: api.ScopeAdmin, handle: n.listSigningKeys},
		{pattern: "POST /v1/apps/{app}/keys/rotate", scope: api.ScopeAdmin, handle: n.rotateSigningKeys, query: []string{"wait"}},

		{pattern: "GET /v1/apps/{app}/templates", scope: api.ScopeAdmin, handle: n.listTemplates},
		{pattern: "GET /v1/apps/{app}/templates/{name}", scope: api.ScopeAdmin, handle: n.getTemplate},
		{pattern: "PUT /v1/apps/{app}/templates/{name}", scope: api.ScopeAdmin, handle: n.putTemplate},
		{pattern: "DELETE /v1/apps/{app}/templates/{name}", scope: api.ScopeAdmin, handle: n.deleteTemplate},

		{pattern: "GET /v1/apps/{app}/issuers", scope: api.ScopeAdmin, handle: n.listIssuers},
		{pattern: "GET /v1/apps/{app}/issuers/{profile_id}", scope: api.ScopeAdmin, handle: n.getIssuer},
		{pattern: "PUT /v1/apps/{app}/issuers/{profile_id}", scope: api.ScopeAdmin, handle: n.putIssuer},
		{pattern: "DELETE /v1/apps/{app}/issuers/{profile_id}", scope: api.ScopeAdmin, handle: n.deleteIssuer},
		{pattern: "GET /v1/apps/{app}/lazy-import", scope: api.ScopeAdmin, handle: n.getLazyImport},
		{pattern: "PUT /v1/apps/{app}/lazy-import", scope: api.ScopeAdmin, handle: n.putLazyImport},
		{pattern: "DELETE /v1/apps/{app}/lazy-import", scope: api.ScopeAdmin, handle: n.deleteLazyImport},

		{pattern: "GET /v1/apps/{app}/logout-clients", scope: api.ScopeAdmin, handle: n.listLogoutClients},
		{pattern: "GET /v1/apps/{app}/logout-clients/{client_id}", scope: api.ScopeAdmin, handle: n.getLogoutClient},
		{pattern: "PUT /v1/apps/{app}/logout-clients/{client_id}", scope: api.ScopeAdmin, handle: n.putLogoutClient},
		{pattern: "DELETE /v1/apps/{app}/logout-clients/{client_id}", scope: api.ScopeAdmin, handle: n.deleteLogoutClient},

		{pattern: "GET /v1/webhooks", scope: api.ScopeAdmin, handle: n.listWebhooks},
		{pattern: "POST /v1/webhooks", scope: api.ScopeAdmin, handle: n.postWebhook},
		{pattern: "GET /v1/webhooks/{id}", scope: api.ScopeAdmin, handle: n.getWebhook},
		{pattern: "PATCH /v1/webhooks/{id}", scope: api.ScopeAdmin, handle: n.patchWebhook},
		{pattern: "DELETE /v1/webhooks/{id}", scope: api.ScopeAdmin, handle: n.deleteWebhook},
		{pattern: "POST /v1/webhooks/{id}/rotate-secret", scope: api.ScopeAdmin, handle: n.rotateSecret},
		{pattern: "GET /v1/webhooks/{id}/dead-letters", scope: api.ScopeAdmin, handle: n.listDeadLetters},
		{pattern: "POST /v1/webhooks/{id}/replay", scope: api.ScopeAdmin, handle: n.replayWebhook},
		{pattern: "POST /v1/webhooks/{id}/test", scope: api.ScopeAdmin, handle: n.testWebhook},

		{pattern: "GET /v1/apps/{app}/jwks", handle: n.jwks, cors: corsAny, open: true},
		{pattern: "GET /v1/apps/{app}/status/{region}/{block}", handle: n.statusList, cors: corsAny, open: true},
		{pattern: "GET /.well-known/jwks.json", handle: n.soleJWKS, cors: corsAny, open: true},
		{pattern: "GET /v1/apps/{app}/.well-known/openid-configuration", handle: n.discovery, cors: corsAny, open: true},
		{pattern: "GET /.well-known/openid-configuration/v1/apps/{app}", handle: n.discovery, cors: corsAny, open: true},
		{pattern: "GET /.well-known/oauth-authorization-server/v1/apps/{app}", handle: n.discovery, cors: corsAny, open: true},
		{pattern: "GET /.well-known/openid-configuration", handle: n.soleDiscovery, cors: corsAny, open: true},
		{pattern: "GET /.well-known/oauth-authorization-server", handle: n.soleDiscovery, cors: corsAny, open: true},

		n.oauth("POST /oauth2/introspect", api.ScopeVerify, n.introspect),
		n.oauth("POST /oauth2/revoke", api.ScopeRevoke, n.oauthRevoke),

		{pattern: "POST /v1/ssf/keys/rotate", scope: api.ScopeCluster, handle: n.rotateSSFKeys},

		{pattern: "GET /v1/nodes", scope: api.ScopeCluster, handle: n.listNodes},

		{pattern: "GET /healthz", handle: n.healthz, open: true},
		{pattern: "GET /readyz", handle: n.readyz, open: true},
		{pattern: "GET /openapi.yaml", raw: n.openapi},
		{pattern: "GET /docs/errors", raw: n.errorDocs},
		{pattern: "GET /browser/{file}", raw: n.moduleFile, cors: corsAny},
	}...)
	native = append(native, n.ssfRoutes()...)
	native = append(native, n.demoRoutes()...)
	return append(native, n.facadeRoutes(native)...)
}

// verifyMethods are those of a verify below its route; HEAD goes with GET. Some
// proxies ask with method and path of the original request, and any other answer
// than a verdict would refuse that.
var verifyMethods = []string{
	http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

// verifyRoutes are those that a [VerifyServer] serves too.
func (n *Node) verifyRoutes() []route {
	all := []route{{pattern: "GET /v1/verify", raw: n.verify}, {pattern: "POST /v1/verify", raw: n.verify}}
	for _, method := range verifyMethods {
		all = append(all, route{pattern: method + " /v1/verify/", raw: n.verify},
			route{pattern: method + " " + extAuthzPrefix + "{app}/", raw: n.extAuthz})
	}
	return all
}

// Handler returns the node's API. It may serve before Run is called: what needs
// a lease then answers 503.
func (n *Node) Handler() http.Handler { return n.handler(n.routes()) }

// handler serves the routes.
func (n *Node) handler(routes []route) http.Handler {
	known, mux := http.NewServeMux(), http.NewServeMux()
	for _, rt := range routes {
		h := http.Handler(rt.raw)
		if rt.raw == nil {
			h = n.serve(rt)
		}
		known.Handle(rt.pattern, h)
		mux.Handle(rt.pattern, h)
		if rt.cors != corsNone {
			ask := n.preflight(rt)
			known.Handle(ask.pattern, n.serve(ask))
			mux.Handle(ask.pattern, n.serve(ask))
		}
	}
	missing := n.serve(route{pattern: "unknown", open: true, handle: func(_ context.Context, c *call) (int, any, error) {
		return 0, nil, missed(known, c)
	}})
	tooLong := n.serve(route{pattern: "unknown", open: true, handle: longHeader})
	notVerify := n.serve(route{pattern: "unknown", open: true, handle: func(_ context.Context, c *call) (int, any, error) {
		return 0, nil, notAllowed(c, "GET, HEAD, POST")
	}})
	mux.Handle("/", missing)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case isVerify(r):
			// Proxies put the path of the original request behind the prefix:
			// it must not be cleaned. And this is the hot path.
			n.verify(w, r)
		case r.URL.Path == "/v1/verify":
			// The mux would redirect to what lies below it.
			notVerify.ServeHTTP(w, r)
		case isExtAuthz(r):
			n.extAuthz(w, r)
		case len(r.Header.Get("Authorization")) > maxCredentials || len(r.Header.Get("Cookie")) > maxCredentials:
			tooLong.ServeHTTP(w, r)
		case r.URL.Path != clean(r.URL.Path), strings.HasPrefix(r.URL.Path, extAuthzPrefix):
			// The mux would redirect, and clients repeat a POST as a GET.
			missing.ServeHTTP(w, r)
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

func isVerify(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.URL.Path, "/v1/verify")
	switch {
	case !ok || rest != "" && rest[0] != '/':
		return false
	case rest == "":
		return r.Method == http.MethodGet || r.Method == http.MethodPost || r.Method == http.MethodHead
	}
	return r.Method == http.MethodHead || slices.Contains(verifyMethods, r.Method)
}

func isExtAuthz(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.URL.Path, extAuthzPrefix)
	return ok && strings.Contains(rest, "/") && (r.Method == http.MethodHead || slices.Contains(verifyMethods, r.Method))
}

// clean is what http.ServeMux would redirect p to.
func clean(p string) string {
	c := path.Clean("/" + p)
	if c != "/" && strings.HasSuffix(p, "/") {
		c += "/"
	}
	return c
}

// refusal takes what the mux answers when it has no route: only its status and
// Allow are wanted, the body is ours.
type refusal struct {
	header http.Header
	status int
}

func (r *refusal) Header() http.Header         { return r.header }
func (r *refusal) WriteHeader(status int)      { r.status = status }
func (r *refusal) Write(b []byte) (int, error) { return len(b), nil }

// missed says why no route of known takes the request: another method would
// have been right, or none.
func missed(known *http.ServeMux, c *call) error {
	var refused refusal
	if h, pattern := known.Handler(c.r); pattern == "" && c.r.URL.Path == clean(c.r.URL.Path) {
		refused.header = http.Header{}
		h.ServeHTTP(&refused, c.r)
	}
	if refused.status != http.StatusMethodNotAllowed {
		return noRoute(c)
	}
	return notAllowed(c, refused.header.Get("Allow"))
}

func notAllowed(c *call, allow string) error {
	c.h.Set("Allow", allow)
	return fail(api.MethodNotAllowed, "%s is not allowed here, but %s", c.r.Method, allow)
}

func unknownRoute(_ context.Context, c *call) (int, any, error) { return 0, nil, noRoute(c) }

func noRoute(c *call) error {
	return fail(api.NotFound, "no such route; %s/openapi.yaml has them all", c.n.issuer)
}

func longHeader(context.Context, *call) (int, any, error) {
	return 0, nil, fail(api.HeaderTooLarge, "a header that bears credentials is over %d bytes", maxCredentials)
}

// sessionPart answers GET /v1/sessions/{sid}/{what}: the history of a session,
// or with sid "jwks" the public keys of the app {what}.
func (n *Node) sessionPart(ctx context.Context, c *call) (int, any, error) {
	sid, what := c.r.PathValue("sid"), c.r.PathValue("what")
	switch {
	case sid == "jwks":
		c.r.SetPathValue("app", what)
		return n.stytchJWKS(ctx, c)
	case what == "events":
		var err error
		if c.caller, err = n.authorize(c.r, api.ScopeRead); err != nil {
			return 0, nil, err
		}
		if c.query, err = readQuery(c.r.URL.RawQuery); err != nil {
			return 0, nil, err
		}
		return n.sessionEvents(ctx, c)
	}
	return 0, nil, noRoute(c)
}
