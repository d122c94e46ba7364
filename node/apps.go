package node

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
	"github.com/revocast/revocast/signer"
)

// Limits of an app's settings.
const (
	minJWTTTL = 30   // seconds
	maxJWTTTL = 3600 // seconds; also of a template
)

// defaultSettings returns the settings of an app that chooses none.
func defaultSettings() events.AppSettings {
	return events.AppSettings{
		JWTProfile: string(signer.Native), JWTAlg: string(signer.DefaultAlg), JWTTTL: 300,
		SessionDuration: 43_200 * 60, AbsoluteMax: maxMinutes * 60, WhenStale: whenStaleRefuse, ClientJWTTTL: defaultClientJWTTTL,
	}
}

// mergeSettings returns s with what the request sets.
func mergeSettings(s events.AppSettings, in *api.AppSettings) (events.AppSettings, error) {
	if in.JWTProfile != nil {
		p, err := signer.ParseProfile(*in.JWTProfile)
		if err != nil || *in.JWTProfile == "" {
			return s, badSetting("jwt_profile", "want one of %v", signer.Profiles())
		}
		if string(p) != s.JWTProfile && rsaByDefault(p) && in.JWTAlg == nil {
			s.JWTAlg = string(signer.RS256)
		}
		s.JWTProfile = string(p)
	}
	if in.JWTAlg != nil {
		alg, err := signer.ParseAlg(*in.JWTAlg)
		if err != nil || *in.JWTAlg == "" {
			return s, badSetting("jwt_alg", "want one of ES256, RS256, EdDSA")
		}
		s.JWTAlg = string(alg)
	}
	if err := mergeNumbers(&s, in); err != nil {
		return s, err
	}
	if err := mergeChoices(&s, in); err != nil {
		return s, err
	}
	if in.Origins != nil {
		if err := checkOrigins(*in.Origins); err != nil {
			return s, err
		}
		s.Origins = slices.Clip(append([]string(nil), *in.Origins...)) // nil when empty, as an app without has it
	}
	for _, flag := range []struct{ in, to *bool }{
		{in.DPoPNonce, &s.DPoPNonce}, {in.ReturnToken, &s.ReturnToken}, {in.ClearSiteData, &s.ClearSiteData},
		{in.StatusList, &s.StatusList},
	} {
		if flag.in != nil {
			*flag.to = *flag.in
		}
	}
	if in.ExpiredEvents != nil {
		s.NoExpired = !*in.ExpiredEvents
	}
	if in.Compat != nil {
		for i, name := range in.Compat {
			if !slices.Contains(facadeNames(), name) || slices.Contains(in.Compat[:i], name) {
				return s, badSetting("compat", "want some of %v, each once", facadeNames())
			}
		}
		s.Compat = in.Compat
	}
	if s.JWTProfile == string(signer.Clerk) && s.JWTAlg != string(signer.RS256) {
		return s, badSetting("jwt_alg", "Clerk's libraries take RS256 and nothing else, so the clerk profile needs it")
	}
	if s.AbsoluteMax < s.SessionDuration {
		return s, badSetting("absolute_lifetime_minutes", "is below session_duration_minutes")
	}
	return s, nil
}

// mergeNumbers sets what is counted. The numbers given stand above the preset.
func mergeNumbers(s *events.AppSettings, in *api.AppSettings) error {
	if in.LifetimePreset != nil {
		p, err := presetOf(*in.LifetimePreset)
		if err != nil {
			return err
		}
		s.SessionDuration, s.AbsoluteMax, s.Idle = p.total, p.total, p.idle
	}
	for _, number := range []struct {
		field    string
		in       *int64
		min, max int64
		unit     int64
		to       *int64
	}{
		{"jwt_ttl_seconds", in.JWTTTLSeconds, minJWTTTL, maxJWTTTL, 1, &s.JWTTTL},
		{"client_jwt_ttl_seconds", in.ClientJWTTTLSeconds, minJWTTTL, maxJWTTTL, 1, &s.ClientJWTTTL},
		{"session_duration_minutes", in.SessionDurationMinutes, 1, maxMinutes, 60, &s.SessionDuration},
		{"absolute_lifetime_minutes", in.AbsoluteLifetimeMinutes, 1, maxMinutes, 60, &s.AbsoluteMax},
		{"idle_timeout_minutes", in.IdleTimeoutMinutes, 0, maxMinutes, 60, &s.Idle},
		{"introspection_max_exp_seconds", in.IntrospectionMaxExpSeconds, 1, maxIntrospectionMax, 1, &s.IntrospectionMax},
		{"max_sessions_per_user", in.MaxSessionsPerUser, 0, maxSessionsPerUser, 1, &s.MaxSessions},
	} {
		if number.in == nil {
			continue
		}
		if *number.in < number.min || *number.in > number.max {
			return badSetting(number.field, "want %d to %d", number.min, number.max)
		}
		*number.to = *number.in * number.unit
	}
	return nil
}

// mergeChoices sets what is one of a few words.
func mergeChoices(s *events.AppSettings, in *api.AppSettings) error {
	for _, choice := range []struct {
		field string
		in    *string
		of    []string
		to    *string
	}{
		{"when_stale", in.WhenStale, []string{whenStaleRefuse, whenStaleServe, whenStaleReauth}, &s.WhenStale},
		{"session_limit_policy", in.SessionLimitPolicy, []string{limitEvict, limitReject}, &s.SessionLimit},
		{"token_reuse", in.TokenReuse, []string{reuseRefuse, reuseRevoke}, &s.TokenReuse},
	} {
		if choice.in == nil {
			continue
		}
		if !slices.Contains(choice.of, *choice.in) {
			return badSetting(choice.field, "want one of %s", strings.Join(choice.of, ", "))
		}
		*choice.to = *choice.in
	}
	return nil
}

// rsaByDefault: the vendor's own JWTs are signed with RSA.
func rsaByDefault(p signer.Profile) bool { return p == signer.Streambird || p == signer.Clerk }

// clerkSigned refuses settings under which a JWT that Clerk's libraries are to
// read would be signed with anything but RS256. A key of another algorithm signs
// on for an hour after the app has changed to RS256.
func (n *Node) clerkSigned(app string, s *events.AppSettings) error {
	where := ""
	if s.JWTProfile == string(signer.Clerk) {
		where = "the clerk profile"
	}
	for _, held := range n.catalog.Snapshot().SettingsOf(app, templateType) {
		if t, err := readTemplate(held); err == nil && t.JWTProfile == string(signer.Clerk) {
			where = "template " + t.Name
		}
	}
	if where == "" {
		return nil
	}
	return n.signsRSA(app, s.JWTAlg, where)
}

// signsRSA refuses what needs RS256 while the app signs with something else.
func (n *Node) signsRSA(app, alg, where string) error {
	if alg != string(signer.RS256) {
		return badSetting("jwt_alg", "%s needs RS256: Clerk's libraries take nothing else", where)
	}
	now := n.conf.Clock.Wall()
	key, err := n.ring(app).Active(signer.RS256, now)
	if err != nil || key.Alg == signer.RS256 {
		return err
	}
	from := "an hour after jwt_alg is set to RS256, which has to be done first"
	for _, k := range n.ring(app).Keys() {
		if k.Alg == signer.RS256 && k.ActiveAt.After(now) && !k.Compromised {
			from = "from " + k.ActiveAt.UTC().Format(time.RFC3339) + " on"
		}
	}
	return badSetting("jwt_profile", "%s needs RS256, and the app signs with that only %s", where, from)
}

func badSetting(field, format string, args ...any) *failure {
	return fail(api.InvalidArgument, field+": "+format, args...).with("field", field)
}

// showApp returns the app as the API has it.
func (n *Node) showApp(e *events.App) api.App {
	s := e.Settings
	minutes := func(seconds int64) *int64 { return new(seconds / 60) }
	return api.App{
		AppID: e.App, State: e.State, CreatedAt: fromMS(e.CreatedAt), ChangedAt: fromMS(e.ChangedAt),
		AppSettings: api.AppSettings{
			JWTProfile: &s.JWTProfile, JWTAlg: &s.JWTAlg, JWTTTLSeconds: &s.JWTTTL,
			SessionDurationMinutes: minutes(s.SessionDuration), AbsoluteLifetimeMinutes: minutes(s.AbsoluteMax),
			IdleTimeoutMinutes: minutes(s.Idle), WhenStale: &s.WhenStale, ReturnToken: &s.ReturnToken,
			MaxSessionsPerUser: &s.MaxSessions, SessionLimitPolicy: new(cmp.Or(s.SessionLimit, limitEvict)),
			TokenReuse: new(cmp.Or(s.TokenReuse, reuseRefuse)), Compat: compatOf(&s),
			Origins: new(append([]string{}, s.Origins...)), ClientJWTTTLSeconds: new(clientJWTTTL(&s)), ClearSiteData: &s.ClearSiteData,
			ExpiredEvents: new(!s.NoExpired), StatusList: &s.StatusList,
			DPoPNonce: &s.DPoPNonce, IntrospectionMaxExpSeconds: new(cmp.Or(s.IntrospectionMax, defaultIntrospectionMax)),
		},
		ImportRegion: s.ImportRegion,
		Issuer:       n.issuerOf(e.App, signer.Profile(s.JWTProfile)),
	}
}

// createApp writes the app and returns the position of that, once it has a key
// to sign with. The key comes first: a crash in between leaves a key without an
// app, which a repeat uses, and never an app that cannot mint.
//
// The id of a deleted app is never used again: JWTs and sessions of it may
// still be about, and CONFIG does not believe it anyway.
func (n *Node) createApp(ctx context.Context, id string, settings events.AppSettings, by string) (events.Position, error) {
	if !events.ValidName(id) {
		return events.Position{}, badSetting("app_id", "%q: want [a-z0-9][a-z0-9_-]{0,63}", id)
	}
	snap, err := n.administer()
	if err != nil {
		return events.Position{}, err
	}
	if held, ok := snap.App(id); ok && held.State == events.AppDeleted {
		return events.Position{}, fail(api.AlreadyExists, "app %s was deleted; its id is not used again", id).because(events.ErrConflict)
	} else if ok {
		return events.Position{}, fail(api.AlreadyExists, "app %s exists", id).because(events.ErrConflict)
	}
	now := n.conf.Clock.Wall()
	if k, err := n.ring(id).Active(signer.Alg(settings.JWTAlg), now); err != nil || string(k.Alg) != settings.JWTAlg {
		if err := n.firstKey(ctx, snap, id, settings.JWTAlg, by); err != nil {
			return events.Position{}, fmt.Errorf("make signing key: %w", err)
		}
	}
	app := &events.App{
		App: id, State: events.AppActive, CreatedAt: now.UnixMilli(), ChangedAt: now.UnixMilli(), By: by, Settings: settings,
	}
	app.Prev = snap.Last(app)
	return n.configure(ctx, app, nil, 0, app.Prev)
}

// changeApp writes the app as edit leaves it, and returns the position up to
// which that can be read. An edit that changes nothing writes nothing.
func (n *Node) changeApp(ctx context.Context, id, by string, edit func(*events.App) error) (*events.App, events.Position, error) {
	snap, err := n.administer()
	if err != nil {
		return nil, events.Position{}, err
	}
	held, ok := snap.App(id)
	if !ok || held.State == events.AppDeleted {
		return nil, events.Position{}, appNotFound(id)
	}
	next := *held
	if err := edit(&next); err != nil {
		return nil, events.Position{}, err
	}
	if reflect.DeepEqual(&next, held) {
		return held, n.settings.position(), nil
	}
	if next.Settings.JWTAlg != held.Settings.JWTAlg {
		if err := n.changeAlg(ctx, snap, id, held.Settings.JWTAlg, next.Settings.JWTAlg, by); err != nil {
			return nil, events.Position{}, fmt.Errorf("change algorithm: %w", err)
		}
	}
	next.ChangedAt, next.By, next.Prev = n.wall(), by, snap.Last(&next)
	if held.Settings.WhenStale == whenStaleServe && next.Settings.WhenStale != whenStaleServe {
		next.ServedUntil = next.ChangedAt
	}
	pos, err := n.configure(ctx, &next, nil, 0, next.Prev)
	return &next, pos, err
}

func (n *Node) postApp(ctx context.Context, c *call) (int, any, error) {
	var in api.CreateApp
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	base := defaultSettings()
	if in.JWTProfile != nil {
		switch signer.Profile(*in.JWTProfile) {
		case signer.Stytch, signer.Streambird:
			base.ReturnToken = true
		case signer.Clerk:
			base.JWTTTL = 60
		}
	}
	settings, err := mergeSettings(base, &in.AppSettings)
	if err != nil {
		return 0, nil, err
	}
	if _, err := n.createApp(ctx, in.AppID, settings, c.caller.keyID); err != nil {
		return 0, nil, err
	}
	secret := newSecret()
	hash := hashSecret(secret)
	pos, err := n.addAPIKey(ctx, &events.APIKey{
		ID: keyIDOf(hash), App: in.AppID, Name: "first", Hash: hash, Scopes: appScopes(), CreatedAt: n.wall(), By: c.caller.keyID,
	})
	if err != nil {
		return 0, nil, fmt.Errorf("create api key: %w", err)
	}
	app, ok := n.app(in.AppID)
	if !ok {
		return 0, nil, appNotFound(in.AppID)
	}
	return http.StatusCreated, &api.AppAnswer{App: n.showApp(app), APIKey: secret, Revision: pos.String()}, nil
}

func (n *Node) listApps(_ context.Context, _ *call) (int, any, error) {
	if stale := n.configStale(); stale != nil {
		return 0, nil, stale
	}
	list := api.AppList{Apps: []api.App{}}
	for _, app := range n.apps() {
		list.Apps = append(list.Apps, n.showApp(app))
	}
	return http.StatusOK, &list, nil
}

func (n *Node) getApp(_ context.Context, c *call) (int, any, error) {
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	app, ok := snap.App(c.caller.app)
	if !ok {
		return 0, nil, appNotFound(c.caller.app)
	}
	return http.StatusOK, &api.AppAnswer{App: n.showApp(app), Revision: n.settings.at(snap.Seq).String()}, nil
}

func (n *Node) patchApp(ctx context.Context, c *call) (int, any, error) {
	var in api.AppSettings
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	return n.answerChange(n.changeApp(ctx, c.caller.app, c.caller.keyID, func(app *events.App) (err error) {
		if app.Settings, err = mergeSettings(app.Settings, &in); err != nil {
			return err
		}
		if in.JWTProfile == nil && in.JWTAlg == nil {
			return nil
		}
		return n.clerkSigned(app.App, &app.Settings)
	}))
}

func (n *Node) answerChange(app *events.App, pos events.Position, err error) (int, any, error) {
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.AppAnswer{App: n.showApp(app), Revision: pos.String()}, nil
}

func (n *Node) suspendApp(ctx context.Context, c *call) (int, any, error) {
	return n.setState(ctx, c, events.AppSuspended)
}

func (n *Node) resumeApp(ctx context.Context, c *call) (int, any, error) {
	return n.setState(ctx, c, events.AppActive)
}

func (n *Node) setState(ctx context.Context, c *call, state string) (int, any, error) {
	if err := c.nothing(); err != nil {
		return 0, nil, err
	}
	return n.answerChange(n.changeApp(ctx, c.r.PathValue("app"), c.caller.keyID, func(app *events.App) error {
		app.State = state
		return nil
	}))
}

// deleteApp deletes the app: from that moment this node refuses all of it. Then
// an "all" says so in the home stream, for who follows only that. When that
// second write fails, a repeat finds sessions that are not revoked and writes it.
func (n *Node) deleteApp(ctx context.Context, c *call) (int, any, error) {
	if err := c.nothing(); err != nil {
		return 0, nil, err
	}
	id, by := c.r.PathValue("app"), c.caller.keyID
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	app, ok := snap.App(id)
	switch {
	case !ok, app.State == events.AppDeleted && !n.hasSessions(id):
		return 0, nil, appNotFound(id)
	case app.State != events.AppDeleted:
		next := *app
		next.State, next.ChangedAt, next.By, next.Prev = events.AppDeleted, n.wall(), by, snap.Last(app)
		if _, err := n.configure(ctx, &next, nil, 0, next.Prev); err != nil {
			return 0, nil, err
		}
		app = &next
	}
	pos, err := n.revokeApp(ctx, id, by, "app_deleted")
	if err != nil {
		return 0, nil, fmt.Errorf("revoke sessions of app %s: %w", id, err)
	}
	revision := events.Revision{n.settings.position(), pos}
	return http.StatusOK, &api.AppAnswer{App: n.showApp(app), Revision: revision.String()}, nil
}

// hasSessions reports whether some session of the app is not revoked.
func (n *Node) hasSessions(app string) bool {
	for _, v := range n.sessions().App(app, n.wall()) {
		if v == projection.Active || v == projection.IdleExpired {
			return true
		}
	}
	return false
}

// revokeApp writes that all sessions of the app are revoked. Somebody else's
// "all" may come between, so it is tried again.
func (n *Node) revokeApp(ctx context.Context, app, by, reason string) (pos events.Position, err error) {
	err = n.home.insist(ctx, func(ctx context.Context) (_ events.Event, err error) {
		last := n.sessions().LastAll(n.home.number, app, "")
		e := &events.RevokeAll{App: app, Reason: reason, By: by, At: n.wall(), Prev: last}
		pos, err = n.home.write(ctx, e, nil, events.UnknownLifetime+events.TTLSlack, events.Expect(last))
		return e, err
	})
	return pos, err
}
