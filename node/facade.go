package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/node/compat"
	"github.com/revocast/revocast/node/compat/clerk"
	"github.com/revocast/revocast/node/compat/streambird"
	"github.com/revocast/revocast/signer"
)

// facades are the other vendors' APIs that apps may have answered.
var facades = []compat.Facade{streambird.Facade(), clerk.Facade()}

// facadeNames lists what the setting compat may name.
func facadeNames() (names []string) {
	for _, f := range facades {
		names = append(names, f.Name)
	}
	return names
}

// compatOf returns the facades that the app has.
func compatOf(s *events.AppSettings) []string {
	switch {
	case s.Compat != nil:
		return s.Compat
	case slices.Contains(facadeNames(), s.JWTProfile):
		return []string{s.JWTProfile}
	}
	return []string{}
}

func hasFacade(app string, s *events.AppSettings, name string) error {
	if slices.Contains(compatOf(s), name) {
		return nil
	}
	return fail(api.FacadeOff, "app %s has not the API of %s; to have it, add %q to its setting compat: PATCH /v1/apps/%s", app, name, name, app).
		with("facade", name)
}

// facadeRoutes returns the routes of the facades, which ask the native ones.
func (n *Node) facadeRoutes(native []route) (all []route) {
	table := map[string]route{}
	for _, rt := range native {
		table[rt.pattern] = rt
	}
	for _, f := range facades {
		for _, rt := range f.Routes {
			all = append(all, route{pattern: rt.Pattern, scope: rt.Scope, open: true, handle: func(ctx context.Context, c *call) (int, any, error) {
				if rt.Scope != "" {
					if err := hasFacade(c.caller.app, &c.caller.settings, f.Name); err != nil {
						return 0, nil, err
					}
				}
				return rt.Handle(&facadeCall{ctx: ctx, c: c, name: f.Name, native: table})
			}})
		}
	}
	return all
}

// refusedAs returns the error as clients read it at the path.
func refusedAs(path string, e *api.Error) any {
	for _, f := range facades {
		if strings.HasPrefix(path, f.Prefix) {
			return f.Refuse(e)
		}
	}
	return e
}

// facadeCall is a call to a facade. It implements [compat.Call].
type facadeCall struct {
	ctx    context.Context
	c      *call
	name   string
	native map[string]route
}

func (f *facadeCall) Path(name string) string { return f.c.r.PathValue(name) }

func (f *facadeCall) Header(name, value string) { f.c.h.Add(name, value) }

func (f *facadeCall) Now() time.Time { return time.UnixMilli(f.c.n.judged()) }

func (f *facadeCall) NotFound(err error) bool {
	return err != nil && classify(err).kind == api.SessionNotFound
}

func (f *facadeCall) Query(names ...string) (url.Values, error) {
	q, err := readQuery(f.c.r.URL.RawQuery, names...)
	delete(q, "app") // read by authorize
	return q, err
}

func (f *facadeCall) Decode(v any) error {
	b, err := f.c.read()
	// Clerk's client for Go says null where it has nothing to say.
	if b = bytes.TrimSpace(b); err != nil || len(b) == 0 || string(b) == "null" {
		return err
	}
	return decodeBody(b, v, tolerable)
}

// demands are parts of the names of members that may ask for a check. A member
// of such a name that a facade does not know is refused: passed over, a denial
// would become an allow.
var demands = []string{
	"auth", "require", "must", "only", "perm", "role", "scope", "polic", "mfa", "factor", "aal", "acr", "amr", "max_age", "verif", "step",
	"org", "aud", "origin", "bind", "dpop", "cnf", "nonce", "actor", "check", "allow", "deny", "strict", "revo", "consisten", "stale",
	"fresh", "user", "session", "token", "jwt", "claim", "expire", "ttl", "duration",
}

// tolerable reports whether a member that is not known may be passed over.
func tolerable(name string, known map[string]bodyMember) bool {
	if !notMisspelt(name, known) {
		return false
	}
	name = strings.ToLower(name)
	return !slices.ContainsFunc(demands, func(part string) bool { return strings.Contains(name, part) })
}

// Native serves a native route for the caller of the facade, whose API key must
// have the scope of that as well. The answer shares the request id and headers.
func (f *facadeCall) Native(pattern string, in compat.In) (int, any, error) {
	rt, ok := f.native[pattern]
	if !ok || rt.handle == nil {
		panic("facade " + f.name + " asks for " + pattern)
	}
	outer := f.c.r
	method, path, _ := strings.Cut(pattern, " ")
	r := (&http.Request{
		Method: method, Pattern: pattern, URL: &url.URL{Path: path, RawQuery: in.Query.Encode()},
		Header: outer.Header.Clone(), Host: outer.Host, RemoteAddr: outer.RemoteAddr, TLS: outer.TLS,
	}).WithContext(f.ctx)
	for name, value := range in.Path {
		r.SetPathValue(name, value)
	}
	inner := &call{n: f.c.n, r: r, h: f.c.h, id: f.c.id}
	r.Header.Del("Content-Type")
	var err error
	if in.Body != nil {
		if inner.body, err = json.Marshal(in.Body); err != nil {
			return 0, nil, fmt.Errorf("ask %s: %w", pattern, err)
		}
	}
	if rt.scope != "" {
		r.Header.Set(appHeader, f.c.caller.app)
		if inner.caller, err = f.c.n.authorize(r, rt.scope); err != nil {
			return 0, nil, err
		}
	}
	if inner.query, err = readQuery(r.URL.RawQuery, rt.query...); err != nil {
		return 0, nil, err
	}
	return rt.handle(f.ctx, inner)
}

// PublicApp needs no lease, as no answer with public keys does.
func (f *facadeCall) PublicApp(named, key string) (string, error) {
	n := f.c.n
	f.c.h.Set("Access-Control-Allow-Origin", "*")
	asked, err := namedApp(f.c.r)
	if err != nil {
		return "", err
	}
	if named == "" {
		if named, err = f.appOfKey(key); err != nil {
			return "", err
		}
	}
	switch {
	case named == "":
		named = asked
	case asked != "" && asked != named:
		return "", appNotFound(asked)
	}
	if named == "" {
		if named, err = n.soleApp(f.c, "/v1/apps/{app}/jwks"); err != nil {
			return "", err
		}
	}
	app, err := n.publicApp(f.c, named)
	if err != nil {
		return "", err
	}
	return named, hasFacade(named, &app.Settings, f.name)
}

// appOfKey returns the app of the API key, or of that in the header; empty: there
// is none, or it is a cluster admin key.
func (f *facadeCall) appOfKey(key string) (string, error) {
	if key == "" {
		if len(f.c.r.Header.Values("Authorization")) == 0 {
			return "", nil
		}
		var err error
		if _, key, err = credentials(f.c.r); err != nil {
			return "", err
		}
	}
	held, err := f.c.n.apiKey(f.ctx, key)
	if err != nil {
		return "", err
	}
	return held.App, nil
}

// vendorFactors returns the factors of a session as JWTs of the profile have
// them.
func vendorFactors(p signer.Profile, native json.RawMessage, began time.Time) (json.RawMessage, error) {
	if p != signer.Streambird || len(native) == 0 {
		return native, nil
	}
	var all []json.RawMessage
	if err := json.Unmarshal(native, &all); err != nil {
		return nil, fmt.Errorf("read factors: %w", err)
	}
	all, err := streambird.Factors(all, began)
	if err != nil {
		return nil, err
	}
	return marshal(all)
}
