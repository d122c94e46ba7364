package node

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// cors says pages of which other origins may call a route and read its answers.
// Preflights (the CORS protocol of the Fetch standard) are answered for such
// routes alone.
type cors int

const (
	corsNone cors = iota
	corsAny       // of any, without credentials: what is public
	corsApp       // of those that an app lists, with credentials
)

const (
	// maxOrigins bounds the origins of an app, maxOrigin the bytes of each.
	maxOrigins = 64
	maxOrigin  = 255
	// preflightAge is how long a browser may keep the answer to a preflight, in
	// seconds; no browser does for longer than 2 h.
	preflightAge = "600"
	// clientHeaders are those that a page may set on the routes for browsers.
	clientHeaders = "Authorization, Content-Type, DPoP, " + backgroundHeader
	// exposedHeaders are those that it may read beside the harmless ones.
	exposedHeaders = "DPoP-Nonce, Retry-After, WWW-Authenticate, X-Request-Id, " + warningHeader
)

// webOrigin is an origin as browsers write it (RFC 6454 section 6.2): in lower
// case, without a path. So "null" is none, nor is a pattern.
var webOrigin = regexp.MustCompile(`^https?://([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?$`)

// checkOrigins refuses origins that no browser would send, or that anybody on
// the way could speak for.
func checkOrigins(all []string) error {
	if len(all) > maxOrigins {
		return badSetting("origins", "more than %d", maxOrigins)
	}
	for i, o := range all {
		u, err := url.Parse(o)
		switch {
		case len(o) > maxOrigin || err != nil || !webOrigin.MatchString(o):
			return badSetting("origins", "%q: want scheme, host and port alone, in lower case, such as https://app.example.com", o)
		case u.Scheme == "http" && !loopback(u.Hostname()):
			return badSetting("origins", "%q: want https, unless the host is localhost", o)
		case u.Port() == defaultPort[u.Scheme]:
			return badSetting("origins", "%q: browsers leave the port %s out", o, u.Port())
		case slices.Contains(all[:i], o):
			return badSetting("origins", "%q stands there twice", o)
		}
	}
	return nil
}

var defaultPort = map[string]string{"http": "80", "https": "443"}

func loopback(host string) bool {
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || host == "127.0.0.1" || host == "::1"
}

// originOf returns the origin of a URL as browsers write it, empty if it has none.
func originOf(base string) string {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" {
		return ""
	}
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	return scheme + "://" + strings.TrimSuffix(host, ":"+defaultPort[scheme])
}

// sender is what a browser says of the page that a request comes from. Pages
// cannot set either header (they are forbidden header names of the Fetch
// standard), so it is true of whoever bears a cookie.
type sender struct {
	origin string // Origin, which every browser sends with a POST
	site   string // Sec-Fetch-Site
	twice  bool   // one of them stands there twice, or is empty
}

func senderOf(r *http.Request) (s sender) {
	for name, to := range map[string]*string{"Origin": &s.origin, "Sec-Fetch-Site": &s.site} {
		if all := r.Header[name]; len(all) > 0 {
			*to = all[0]
			s.twice = s.twice || len(all) > 1 || all[0] == ""
		}
	}
	return s
}

// refused says why the sender may not call a route for browsers, nil if it may;
// listed reports whether an origin is one of those that may. ambient: the browser
// adds the credential by itself, whoever made the page.
//
// net/http has CrossOriginProtection for the same purpose. It takes a request
// with neither header, and one whose Host is that of its Origin; a proxy may
// write any Host, and which origins may is for the session's app to say.
func (s sender) refused(ambient bool, listed func(origin string) bool) error {
	switch {
	case s.twice:
		return originRefused("Origin or Sec-Fetch-Site is ambiguous")
	case s.origin != "" && listed(s.origin):
		return nil
	case s.origin != "":
		return originRefused("the origin is not one of the app's")
	case s.site == "same-origin":
		return nil
	case s.site != "":
		return originRefused("the request comes from another site and does not say which")
	case ambient:
		return originRefused("without Origin and Sec-Fetch-Site no cookie counts: show the token as Bearer")
	}
	return nil // no browser
}

func originRefused(why string) *failure { return fail(api.OriginNotAllowed, "%s", why) }

// mayCall reports whether pages of the origin may call the routes for browsers on
// behalf of the app: those that it lists, and this service's own.
func (n *Node) mayCall(app *events.App, origin string) bool {
	return origin == n.origin || app.State != events.AppDeleted && slices.Contains(app.Settings.Origins, origin)
}

// anyMayCall is mayCall of the app that a request names, or of any: as long as
// the session is not known, or in a preflight, which never shows one.
func (n *Node) anyMayCall(pin string) func(origin string) bool {
	return func(origin string) bool {
		if pin != "" {
			app, ok := n.app(pin)
			return origin == n.origin || ok && n.mayCall(app, origin)
		}
		if origin == n.origin {
			return true
		}
		for app := range n.catalog.Snapshot().Apps() {
			if n.mayCall(app, origin) {
				return true
			}
		}
		return false
	}
}

// letRead lets pages of the origin read the answer, and send the cookie.
func (c *call) letRead(origin string) {
	c.h.Set("Access-Control-Allow-Origin", origin)
	c.h.Set("Access-Control-Allow-Credentials", "true")
	c.h.Set("Access-Control-Expose-Headers", exposedHeaders)
}

// hide takes letRead back.
func (c *call) hide() {
	for _, name := range []string{"Origin", "Credentials"} {
		c.h.Del("Access-Control-Allow-" + name)
	}
	c.h.Del("Access-Control-Expose-Headers")
}

// preflight is the route that answers preflights of rt.
func (n *Node) preflight(rt route) route {
	method, path, _ := strings.Cut(rt.pattern, " ")
	return route{pattern: "OPTIONS " + path, open: true, handle: func(_ context.Context, c *call) (int, any, error) {
		if rt.cors == corsAny {
			return preflightAny(c)
		}
		c.h.Set("Vary", "Origin")
		pin, err := pinOf(c.r)
		if err != nil {
			return 0, nil, err
		}
		from := senderOf(c.r)
		if err := from.refused(true, n.anyMayCall(pin)); err != nil {
			return 0, nil, err
		}
		if from.origin != "" {
			c.letRead(from.origin)
			c.h.Del("Access-Control-Expose-Headers") // of the answer proper
		}
		c.h.Set("Access-Control-Allow-Methods", method)
		c.h.Set("Access-Control-Allow-Headers", clientHeaders)
		c.h.Set("Access-Control-Max-Age", preflightAge)
		return http.StatusNoContent, nil, nil
	}}
}

// preflightAny answers preflights of what is public.
func preflightAny(c *call) (int, any, error) {
	if sid := c.r.PathValue("sid"); sid != "" && sid != "jwks" { // see sessionPart
		c.h.Set("Allow", "GET, HEAD")
		return 0, nil, fail(api.MethodNotAllowed, "OPTIONS is not allowed here, but GET, HEAD")
	}
	c.h.Set("Access-Control-Allow-Origin", "*")
	c.h.Set("Access-Control-Allow-Methods", "GET, HEAD")
	c.h.Set("Access-Control-Allow-Headers", "*")
	c.h.Set("Access-Control-Max-Age", preflightAge)
	return http.StatusNoContent, nil, nil
}

// pinOf returns the app that the query of a route for browsers names, empty when
// it names none.
func pinOf(r *http.Request) (string, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", fail(api.InvalidArgument, "the query cannot be read").because(err)
	}
	switch all := q["app"]; {
	case len(all) == 0:
		return "", nil
	case len(all) == 1 && all[0] != "":
		return all[0], nil
	}
	return "", fail(api.InvalidArgument, "app: want one app, once").with("field", "app")
}
