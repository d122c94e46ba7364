package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/revocast/revocast/node/api"
)

type appCmd struct {
	Create  appCreate  `cmd:"" help:"Create an app; prints its first API key, once."`
	List    appList    `cmd:"" help:"List all apps."`
	Get     appGet     `cmd:"" help:"Show an app."`
	Set     appSet     `cmd:"" help:"Change settings of an app."`
	Suspend appSuspend `cmd:"" help:"Refuse all calls and sessions of an app until it is resumed."`
	Resume  appResume  `cmd:"" help:"End a suspension."`
	Delete  appDelete  `cmd:"" help:"Delete an app and revoke its sessions, for good."`

	LazyImport appLazyImport `cmd:"" help:"Have the system that the app's sessions come from asked about tokens that nobody here knows."`
}

// appSettings are an app's settings as flags; what is not given keeps its
// default or stays as it is.
type appSettings struct {
	JWTProfile       *string        `env:"-" name:"jwt-profile" placeholder:"NAME" help:"Shape of its JWTs: native, stytch, streambird or clerk."`
	JWTAlg           *string        `env:"-" name:"jwt-alg" placeholder:"ALG" help:"What signs them: ES256, RS256 or EdDSA."`
	JWTTTL           *time.Duration `env:"-" name:"jwt-ttl" placeholder:"TIME" help:"Their life, 30s to 1h."`
	SessionDuration  *time.Duration `env:"-" placeholder:"TIME" help:"Life of a session unless asked otherwise."`
	AbsoluteLifetime *time.Duration `env:"-" placeholder:"TIME" help:"Longest life of a session however often it is extended."`
	IdleTimeout      *time.Duration `env:"-" placeholder:"TIME" help:"Ends sessions that are not used; 0s: none."`
	LifetimePreset   *string        `env:"-" placeholder:"LEVEL" help:"Sets the three above to what NIST SP 800-63B allows: aal1, aal2 or aal3."`
	MaxSessions      *int64         `env:"-" placeholder:"N" help:"Sessions that a user may have at a time; 0: any number."`
	SessionLimit     *string        `env:"-" placeholder:"WHAT" help:"What becomes of one more: evict_oldest or reject."`
	TokenReuse       *string        `env:"-" placeholder:"WHAT" help:"What a replaced token that is shown does: refuse, or revoke its session."`
	WhenStale        *string        `env:"-" placeholder:"WHAT" help:"What a node does that may be behind: refuse, serve or reauth."`
	ReturnToken      *bool          `env:"-" negatable:"" help:"Hand the token back to who shows only a JWT."`
	Origins          *[]string      `env:"-" name:"origins" placeholder:"URL,…" sep:"," help:"Origins whose pages may call /v1/client, such as https://app.example.com; replaces those it had. \"none\": no page may."`
	ClientJWTTTL     *time.Duration `env:"-" name:"client-jwt-ttl" placeholder:"TIME" help:"Life of JWTs for browsers, 30s to 1h; never longer than the others."`
	ClearSiteData    *bool          `env:"-" negatable:"" help:"A log-out in a browser wipes what the origin stored there."`
	IntrospectionMax *time.Duration `env:"-" name:"introspection-max-exp" placeholder:"TIME" help:"How far ahead the exp of an introspection lies at most, 1s to 1h."`
	DPoPNonce        *bool          `env:"-" name:"dpop-nonce" negatable:"" help:"Demand a nonce in the proofs of bound sessions."`
	ExpiredEvents    *bool          `env:"-" negatable:"" help:"Write an event for subscribers when a session runs out."`
	StatusList       *bool          `env:"-" negatable:"" help:"JWTs name their place in a Token Status List."`
	Compat           *string        `env:"-" placeholder:"NAMES" help:"Vendors whose API it answers as well: streambird, clerk, both with a comma, or none."`
}

func (s *appSettings) settings() (api.AppSettings, error) {
	out := api.AppSettings{
		JWTProfile: s.JWTProfile, JWTAlg: s.JWTAlg, WhenStale: s.WhenStale, ReturnToken: s.ReturnToken, DPoPNonce: s.DPoPNonce,
		LifetimePreset: s.LifetimePreset, MaxSessionsPerUser: s.MaxSessions, SessionLimitPolicy: s.SessionLimit, TokenReuse: s.TokenReuse,
	}
	if s.Compat != nil {
		out.Compat = []string{}
		if *s.Compat != "none" {
			out.Compat = strings.Split(*s.Compat, ",")
		}
	}
	if s.Origins != nil {
		out.Origins = s.Origins
		if slices.Equal(*s.Origins, []string{"none"}) {
			out.Origins = &[]string{}
		}
	}
	out.ClearSiteData, out.ExpiredEvents, out.StatusList = s.ClearSiteData, s.ExpiredEvents, s.StatusList
	for _, f := range []struct {
		flag string
		from *time.Duration
		to   **int64
	}{
		{"jwt-ttl", s.JWTTTL, &out.JWTTTLSeconds}, {"client-jwt-ttl", s.ClientJWTTTL, &out.ClientJWTTTLSeconds},
		{"introspection-max-exp", s.IntrospectionMax, &out.IntrospectionMaxExpSeconds},
	} {
		if f.from == nil {
			continue
		}
		if *f.from%time.Second != 0 {
			return out, &usageError{fmt.Errorf("--%s %v: want whole seconds", f.flag, *f.from)}
		}
		*f.to = new(int64(*f.from / time.Second))
	}
	for _, f := range []struct {
		flag string
		from *time.Duration
		to   **int64
	}{
		{"session-duration", s.SessionDuration, &out.SessionDurationMinutes},
		{"absolute-lifetime", s.AbsoluteLifetime, &out.AbsoluteLifetimeMinutes},
		{"idle-timeout", s.IdleTimeout, &out.IdleTimeoutMinutes},
	} {
		if f.from == nil {
			continue
		}
		m, err := minutes(f.flag, *f.from)
		if err != nil {
			return out, err
		}
		*f.to = &m
	}
	return out, nil
}

type appCreate struct {
	remote
	appSettings
	App string `arg:"" help:"Its id: [a-z0-9][a-z0-9_-]{0,63}."`
}

// Run implements the command.
func (a *appCreate) Run(e *env) error {
	settings, err := a.settings()
	if err != nil {
		return err
	}
	return appCall(e, &a.remote, http.MethodPost, "/v1/apps", &api.CreateApp{AppID: a.App, AppSettings: settings})
}

type appGet struct {
	remote
	App string `arg:"" help:"The app's id."`
}

// Run implements the command.
func (a *appGet) Run(e *env) error {
	return appCall(e, &a.remote, http.MethodGet, appPath(a.App), nil)
}

type appSet struct {
	remote
	appSettings
	App string `arg:"" help:"The app's id."`
}

// Run implements the command.
func (a *appSet) Run(e *env) error {
	settings, err := a.settings()
	if err != nil {
		return err
	}
	return appCall(e, &a.remote, http.MethodPatch, appPath(a.App), &settings)
}

type appSuspend struct {
	remote
	App string `arg:"" help:"The app's id."`
}

// Run implements the command.
func (a *appSuspend) Run(e *env) error {
	return appCall(e, &a.remote, http.MethodPost, appPath(a.App)+"/suspend", nil)
}

type appResume struct {
	remote
	App string `arg:"" help:"The app's id."`
}

// Run implements the command.
func (a *appResume) Run(e *env) error {
	return appCall(e, &a.remote, http.MethodPost, appPath(a.App)+"/resume", nil)
}

type appDelete struct {
	remote
	App string `arg:"" help:"The app's id."`
	Yes bool   `env:"-" help:"Really: it cannot be undone."`
}

// Run implements the command.
func (a *appDelete) Run(e *env) error {
	if !a.Yes {
		return &usageError{fmt.Errorf("deleting app %s cannot be undone: add --yes", a.App)}
	}
	return appCall(e, &a.remote, http.MethodDelete, appPath(a.App), nil)
}

func appPath(app string) string { return "/v1/apps/" + url.PathEscape(app) }

// appCall makes a call that answers with an app, and shows it.
func appCall(e *env, r *remote, method, path string, in any) error {
	c, err := r.connect(e)
	if err != nil {
		return err
	}
	var out api.AppAnswer
	raw, err := c.asAdmin().call(e, method, path, in, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) {
		a := &out.App
		row(w, "app", a.AppID)
		row(w, "state", a.State)
		row(w, "created", stamp(a.CreatedAt))
		row(w, "changed", stamp(a.ChangedAt))
		row(w, "issuer", a.Issuer)
		row(w, "jwt", fmt.Sprintf("%s, %s, %s", text(a.JWTProfile), text(a.JWTAlg), seconds(a.JWTTTLSeconds, 1)))
		row(w, "session duration", seconds(a.SessionDurationMinutes, 60))
		row(w, "absolute lifetime", seconds(a.AbsoluteLifetimeMinutes, 60))
		row(w, "idle timeout", seconds(a.IdleTimeoutMinutes, 60))
		if a.MaxSessionsPerUser != nil && *a.MaxSessionsPerUser > 0 {
			row(w, "sessions per user", fmt.Sprintf("%d, %s", *a.MaxSessionsPerUser, text(a.SessionLimitPolicy)))
		}
		row(w, "token reuse", text(a.TokenReuse))
		row(w, "when stale", text(a.WhenStale))
		row(w, "return token", onOff(a.ReturnToken))
		if a.Origins != nil && len(*a.Origins) > 0 {
			row(w, "origins", strings.Join(*a.Origins, ", "))
			row(w, "jwt in browsers", seconds(a.ClientJWTTTLSeconds, 1))
			row(w, "clear site data", onOff(a.ClearSiteData))
		}
		row(w, "introspection", "exp at most "+seconds(a.IntrospectionMaxExpSeconds, 1)+" ahead")
		row(w, "dpop nonce", onOff(a.DPoPNonce))
		row(w, "expired events", onOff(a.ExpiredEvents))
		row(w, "status list", onOff(a.StatusList))
		if len(a.Compat) > 0 {
			row(w, "compat", strings.Join(a.Compat, ", "))
		}
		if out.APIKey != "" {
			row(w, "API key", out.APIKey)
		}
	})
}

func text(s *string) string {
	if s == nil {
		return "-"
	}
	return cmp.Or(*s, "-")
}

func onOff(b *bool) string {
	if b != nil && *b {
		return "on"
	}
	return "off"
}

// seconds is a duration of n units of so many seconds.
func seconds(n *int64, unit int64) string {
	if n == nil || *n == 0 {
		return "none"
	}
	return (time.Duration(*n*unit) * time.Second).String()
}

type appList struct{ remote }

// Run implements the command.
func (a *appList) Run(e *env) error {
	c, err := a.connect(e)
	if err != nil {
		return err
	}
	var out api.AppList
	raw, err := c.asAdmin().call(e, http.MethodGet, "/v1/apps", nil, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) {
		row(w, "APP", "STATE", "PROFILE", "ALG", "CREATED")
		for _, a := range out.Apps {
			row(w, a.AppID, a.State, text(a.JWTProfile), text(a.JWTAlg), stamp(a.CreatedAt))
		}
	})
}

type keyCmd struct {
	List   keyList   `cmd:"" help:"List an app's signing keys."`
	Rotate keyRotate `cmd:"" help:"Make a new signing key, or remove a compromised one at once."`
}

type keyList struct {
	remote
	inApp
}

// Run implements the command.
func (k *keyList) Run(e *env) error {
	return keyCall(e, &k.remote, k.App, http.MethodGet, "/keys", nil)
}

type keyRotate struct {
	remote
	inApp
	Alg         string `env:"-" placeholder:"ALG" help:"Algorithm of the new key: ES256, RS256 or EdDSA (default: the app's)."`
	Compromised string `env:"-" filled:"" placeholder:"KID" help:"Remove this key at once: JWTs signed with it are refused."`
}

// Run implements the command.
func (k *keyRotate) Run(e *env) error {
	return keyCall(e, &k.remote, k.App, http.MethodPost, "/keys/rotate", &api.RotateKeys{Alg: k.Alg, Compromised: k.Compromised})
}

func keyCall(e *env, r *remote, app, method, path string, in any) error {
	c, err := r.connect(e)
	if err != nil {
		return err
	}
	if app, err = c.appOr(app); err != nil {
		return err
	}
	var out api.SigningKeyList
	raw, err := c.asAdmin().call(e, method, appPath(app)+path, in, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) {
		row(w, "KID", "ALG", "STATE", "CREATED", "ACTIVE", "RETIRED")
		for _, k := range out.Keys {
			row(w, k.KID, k.Alg, k.State, stamp(k.CreatedAt), stamp(k.ActiveAt), stampOr(k.RetiredAt, "-"))
		}
		if out.Receipt != nil {
			receipt(w, out.Receipt)
		}
	})
}

type templateCmd struct {
	Put    templatePut    `cmd:"" help:"Make or replace a template."`
	List   templateList   `cmd:"" help:"List an app's templates."`
	Delete templateDelete `cmd:"" help:"Delete a template."`
}

type templatePut struct {
	remote
	inApp
	Name     string        `arg:"" help:"Its name: [a-z0-9][a-z0-9_-]{0,63}."`
	Profile  string        `env:"-" placeholder:"NAME" help:"Shape of the JWTs: native, stytch, streambird or clerk (default: the app's)."`
	TTL      time.Duration `env:"-" name:"ttl" placeholder:"TIME" help:"Their life (default: the app's)."`
	Audience string        `env:"-" placeholder:"TEXT" help:"Their aud (default: the app)."`
	Claims   string        `env:"-" placeholder:"JSON" help:"Claims added to the session's: a JSON object."`
}

// Run implements the command.
func (t *templatePut) Run(e *env) error {
	c, err := t.connect(e)
	if err != nil {
		return err
	}
	if t.App, err = c.appOr(t.App); err != nil {
		return err
	}
	if t.TTL%time.Second != 0 || t.TTL < 0 {
		return &usageError{fmt.Errorf("--ttl %v: want whole seconds", t.TTL)}
	}
	in := api.Template{Name: t.Name, JWTProfile: t.Profile, TTLSeconds: int64(t.TTL / time.Second), Audience: t.Audience}
	if in.Claims, err = rawJSON("claims", t.Claims); err != nil {
		return err
	}
	var out api.TemplateAnswer
	raw, err := c.asAdmin().call(e, http.MethodPut, templatePath(t.App, t.Name), &in, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) { templates(w, out.Template) })
}

type templateList struct {
	remote
	inApp
}

// Run implements the command.
func (t *templateList) Run(e *env) error {
	c, err := t.connect(e)
	if err != nil {
		return err
	}
	if t.App, err = c.appOr(t.App); err != nil {
		return err
	}
	var out api.TemplateList
	raw, err := c.asAdmin().call(e, http.MethodGet, appPath(t.App)+"/templates", nil, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) { templates(w, out.Templates...) })
}

type templateDelete struct {
	remote
	inApp
	Name string `arg:"" help:"The template's name."`
}

// Run implements the command.
func (t *templateDelete) Run(e *env) error {
	c, err := t.connect(e)
	if err != nil {
		return err
	}
	if t.App, err = c.appOr(t.App); err != nil {
		return err
	}
	var out api.TemplateAnswer
	raw, err := c.asAdmin().call(e, http.MethodDelete, templatePath(t.App, t.Name), nil, &out)
	if err != nil {
		return err
	}
	return c.show(raw, func(w io.Writer) { row(w, "deleted", t.Name) })
}

func templatePath(app, name string) string {
	return appPath(app) + "/templates/" + url.PathEscape(name)
}

func templates(w io.Writer, list ...api.Template) {
	row(w, "NAME", "PROFILE", "TTL", "AUDIENCE", "CLAIMS")
	for _, t := range list {
		ttl := "-"
		if t.TTLSeconds != 0 {
			ttl = strconv.FormatInt(t.TTLSeconds, 10) + "s"
		}
		row(w, t.Name, cmp.Or(t.JWTProfile, "-"), ttl, cmp.Or(t.Audience, "-"), cmp.Or(strings.TrimSpace(string(t.Claims)), "-"))
	}
}
