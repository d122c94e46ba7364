package node

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
	"github.com/revocast/revocast/signer"
)

// attestedFactor is what is recorded of a log-in at a registered issuer unless it
// says otherwise.
var attestedFactor = api.IssuerFactor{Type: "trusted_auth_token", DeliveryMethod: "trusted_token_exchange"}

// attested is what a JWT of a registered issuer proves.
type attested struct {
	issuer api.Issuer
	user   string
	// proven is when the user last proved who they are, as far as the JWT says.
	proven time.Time
	// known is how far this node had come before it looked who was logged out.
	known uint64
	// claims are those copied from it, as custom claims; factor records the log-in.
	claims, factor json.RawMessage
}

// attestSession answers POST /v1/sessions/attest. A JWT of an issuer may be shown
// until it expires, and makes a session each time.
func (n *Node) attestSession(ctx context.Context, c *call) (int, any, error) {
	var req api.Attest
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	if req.ProfileID == "" || req.Token == "" {
		return 0, nil, fail(api.InvalidArgument, "profile_id and token are required")
	}
	if req.SessionToken != "" && req.SessionJWT != "" {
		return 0, nil, fail(api.TooManyArguments, "only one of session_token, session_jwt may be given")
	}
	app, err := n.appOf(c)
	if err != nil {
		return 0, nil, err
	}
	issuer, err := n.issuerNamed(ctx, app.App, req.ProfileID)
	if err != nil {
		return 0, nil, err
	}
	a, err := n.attest(ctx, app.App, issuer, req.Token)
	if err != nil {
		return 0, nil, err
	}
	return n.enter(ctx, c, app, a, &req)
}

// issuerNamed returns the registered issuer. That there is none is not said by a
// node that may be behind.
func (n *Node) issuerNamed(ctx context.Context, app, id string) (api.Issuer, error) {
	var held *events.Setting
	find := func() (ok bool) {
		held, ok = n.catalog.Snapshot().Setting(app, issuerType, id)
		return ok
	}
	if !find() {
		if late := n.settings.certain(ctx, find); late != nil {
			return api.Issuer{}, late
		}
		if held == nil {
			return api.Issuer{}, fail(api.NotFound, "no issuer is registered as %q", id)
		}
	}
	return readIssuer(held)
}

// exchangeAccessToken answers POST /v1/sessions/exchange_access_token.
func (n *Node) exchangeAccessToken(ctx context.Context, c *call) (int, any, error) {
	var req api.ExchangeAccessToken
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	if req.AccessToken == "" {
		return 0, nil, badSetting("access_token", "required")
	}
	app, err := n.appOf(c)
	if err != nil {
		return 0, nil, err
	}
	_, iss, aud, err := signer.PeekForeign(req.AccessToken)
	if err != nil {
		return 0, nil, notAttested(err)
	}
	candidates, err := n.issuersSaying(ctx, app.App, iss, aud)
	if err != nil {
		return 0, nil, err
	}
	refused := error(notAttested(signer.ErrWrongIssuer))
	for _, i := range candidates {
		a, err := n.attest(ctx, app.App, i, req.AccessToken)
		if err == nil {
			return n.enter(ctx, c, app, a, &api.Attest{SessionDurationMinutes: req.SessionDurationMinutes, CustomClaims: req.CustomClaims})
		}
		if isKind(refused, api.AttestationFailed) {
			refused = err // that one of them cannot be asked outweighs that others refuse
		}
	}
	return 0, nil, refused
}

// issuersSaying returns the registered issuers whose JWTs have that iss and aud.
func (n *Node) issuersSaying(ctx context.Context, app, iss, aud string) (all []api.Issuer, err error) {
	find := func() bool {
		if all, err = n.issuersOf(app); err == nil {
			all = slices.DeleteFunc(all, func(i api.Issuer) bool { return i.Issuer != iss || i.Audience != aud })
		}
		return len(all) > 0 || err != nil
	}
	if !find() {
		if late := n.settings.certain(ctx, find); late != nil {
			return nil, late
		}
	}
	return all, err
}

// attest checks a JWT of the issuer.
func (n *Node) attest(ctx context.Context, app string, i api.Issuer, token string) (*attested, error) {
	if stale := n.settings.fenced(); stale != nil && n.pastTrust() {
		return nil, stale // the app may have taken its trust back since
	}
	kid, _, _, err := signer.PeekForeign(token)
	if err != nil {
		return nil, notAttested(err)
	}
	keys, err := n.keysOf(ctx, i, kid)
	if errors.Is(err, errKeys) {
		return nil, fail(api.IssuerUnreachable, "the keys of issuer %q could not be fetched just now", i.ProfileID).because(err)
	} else if err != nil {
		return nil, err
	}
	e := signer.ForeignExpect{
		Issuer: i.Issuer, Audience: i.Audience, Now: time.UnixMilli(n.judged()), Leeway: signer.MaxLeeway,
		MaxAge: time.Duration(i.MaxAgeSeconds) * time.Second,
	}
	for _, alg := range i.Algs {
		e.Algs = append(e.Algs, signer.Alg(alg))
	}
	f, err := keys.Verify(token, e)
	if err != nil {
		return nil, notAttested(err)
	}
	a, err := attestedBy(i, f, e.Now)
	if err != nil {
		return nil, err
	}
	a.known = n.known()
	return a, n.mayBe(app, i, a.user, f.IssuedAt)
}

// mayBe refuses a user id that begins with the prefix of another issuer of the app,
// whose users alone have such: who may choose a name at the one must not become
// somebody at the other. And it refuses a JWT of before its user, or all of the app,
// was logged out everywhere, which would else last only until that is shown again.
func (n *Node) mayBe(app string, i api.Issuer, user string, issued time.Time) error {
	all, err := n.issuersOf(app)
	if err != nil {
		return err
	}
	for _, other := range all {
		if len(other.UserIDPrefix) > len(i.UserIDPrefix) && strings.HasPrefix(user, other.UserIDPrefix) {
			return attestationFailed("bad_user_id")
		}
	}
	at := n.sessions().GroupRevokedAt(n.home.number, app, user)
	if at > 0 && !issued.Add(time.Second).After(date(at)) {
		return attestationFailed("logged_out")
	}
	return nil
}

func (n *Node) keysOf(ctx context.Context, i api.Issuer, kid string) (*signer.ForeignKeys, error) {
	if i.JWKS != nil {
		return signer.ParseForeignKeys(i.JWKS)
	}
	return n.keysFrom(ctx, i.JWKSURI, kid)
}

// notAttested says in a word why the JWT proves nothing. The word is one of a
// bounded set and quotes nothing.
func notAttested(err error) *failure {
	reason := "malformed"
	if r, ok := errors.AsType[signer.Reason](err); ok {
		reason = string(r)
	}
	return attestationFailed(reason).because(err)
}

func attestationFailed(reason string) *failure {
	return fail(api.AttestationFailed, "the token of the issuer is not accepted").with("reason", reason)
}

// attestedBy reads what an authentic JWT says of the user.
func attestedBy(i api.Issuer, f signer.Foreign, now time.Time) (*attested, error) {
	claim := i.UserIDClaim
	if claim == "" {
		claim = "sub"
	}
	user, _ := f.Text(claim)
	if verified, _ := f.Raw("email_verified"); claim == "email" && string(verified) != "true" {
		// Whoever may type in an address is not its owner.
		return nil, attestationFailed("email_not_verified")
	}
	if user == "" {
		return nil, attestationFailed("no_user_id")
	}
	a := &attested{issuer: i, user: i.UserIDPrefix + user, proven: f.IssuedAt}
	if checkUser(a.user) != nil {
		return nil, attestationFailed("bad_user_id")
	}
	if at, ok := f.Date("auth_time"); ok && at.Before(a.proven) {
		a.proven = at
	}
	if a.proven.After(now) {
		a.proven = now.UTC()
	}
	copied := map[string]json.RawMessage{}
	for from, to := range i.Claims {
		if v, ok := f.Raw(from); ok {
			copied[to] = v
		}
	}
	var err error
	if a.claims, err = marshal(copied); err != nil {
		return nil, err
	}
	if json.Unmarshal(a.claims, new(map[string]any)) != nil {
		return nil, attestationFailed("bad_claims") // a number beyond what readers know
	}
	a.factor, err = factorOf(i, f, a.proven)
	return a, err
}

// factorOf returns the authentication factor that records the log-in.
func factorOf(i api.Issuer, f signer.Foreign, proven time.Time) (json.RawMessage, error) {
	kind := attestedFactor
	if i.Factor != nil {
		kind = *i.Factor
	}
	id, _ := f.Text("jti")
	if checkText("jti", id, maxName) != nil {
		id = ""
	}
	at := proven.Format(time.RFC3339)
	return marshal(map[string]any{
		"type": kind.Type, "delivery_method": kind.DeliveryMethod,
		"last_authenticated_at": at, "created_at": at, "updated_at": at,
		"trusted_auth_token_factor": map[string]string{"token_id": id, "profile_id": i.ProfileID},
	})
}

// enter makes a session of what was attested, or adds it to the one that was
// shown. What was attested before the user was logged out everywhere makes none:
// whoever kept the JWT would be in again.
func (n *Node) enter(ctx context.Context, c *call, app *events.App, a *attested, req *api.Attest) (int, any, error) {
	if err := checkMinutes("session_duration_minutes", req.SessionDurationMinutes); err != nil {
		return 0, nil, err
	}
	if given(req.CustomClaims) {
		if err := checkClaims(req.CustomClaims); err != nil {
			return 0, nil, err
		}
	}
	if req.SessionToken != "" || req.SessionJWT != "" {
		return n.addAttested(ctx, c, app, a, req)
	}
	claims, err := patchClaims(a.claims, orObject(req.CustomClaims))
	if err != nil {
		return 0, nil, err
	}
	d, err := n.newDraft(&api.CreateSession{
		UserID: a.user, SessionDurationMinutes: req.SessionDurationMinutes, AbsoluteLifetimeMinutes: a.issuer.MaxSessionMinutes,
		Factors: []json.RawMessage{a.factor}, CustomClaims: claims,
	}, &app.Settings)
	if err != nil {
		return 0, nil, err
	}
	// Of a log-out everywhere that mayBe could not see yet, the fold makes sure.
	d.state.App, d.state.By, d.state.AuthSeq = app.App, c.caller.keyID, a.known
	if err := n.mayBegin(app, n.home.number, d.state.CreatedAt); err != nil {
		return 0, nil, err
	}
	f, err := n.createNew(ctx, d, true)
	if err != nil {
		return 0, nil, err
	}
	return n.loggedIn(ctx, c, f)
}

func orObject(raw json.RawMessage) json.RawMessage {
	if !given(raw) {
		return json.RawMessage("{}")
	}
	return raw
}

// addAttested adds what was attested to the session that was shown, which must be
// of the same user.
func (n *Node) addAttested(ctx context.Context, c *call, app *events.App, a *attested, req *api.Attest) (int, any, error) {
	look := func() (found, error) {
		f, err := n.findCredential(ctx, app.App, req.SessionToken, req.SessionJWT, jwtPast, consistency{})
		if err == nil && f.verdict == projection.Active && f.User != a.user {
			return f, attestationFailed("user_mismatch")
		}
		return f, err
	}
	f, err := n.change(ctx, c, look, func(_ found, d *draft) (string, error) {
		if n.home.above(touchBudget) {
			return "", tooFull()
		}
		if req.SessionDurationMinutes > 0 {
			d.state.ExpiresAt = max(d.state.ExpiresAt, extended(req.SessionDurationMinutes, n.wall(), d.state.AbsoluteAt))
		}
		claims, err := mergePatch(object(d.private.CustomClaims), a.claims)
		if err != nil {
			return "", err
		}
		if d.private.CustomClaims, err = patchClaims(claims, orObject(req.CustomClaims)); err != nil {
			return "", err
		}
		was := level(&d.private)
		if d.private.Factors, err = replaceFactor(d.private.Factors, a); err != nil {
			return "", err
		}
		return events.ReasonChanged, restateLevel(&d.private, "", was, true)
	})
	if err != nil {
		return 0, nil, err
	}
	token := events.Token(req.SessionToken)
	if token == "" && app.Settings.ReturnToken {
		p, err := n.private(ctx, &f)
		if err != nil {
			return 0, nil, err
		}
		token = p.Token
	}
	out, err := n.answered(ctx, c, f, token)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.LoginAnswer{SessionAnswer: *out, UserID: f.User}, nil
}

// replaceFactor adds the factor, in place of one that the same issuer attested
// before: a session that is attested each day must not grow.
func replaceFactor(factors json.RawMessage, a *attested) (json.RawMessage, error) {
	var all, kept []json.RawMessage
	if len(factors) > 0 {
		if err := json.Unmarshal(factors, &all); err != nil {
			return nil, err
		}
	}
	for _, raw := range all {
		var f struct {
			Trusted struct {
				ProfileID string `json:"profile_id"`
			} `json:"trusted_auth_token_factor"`
		}
		if json.Unmarshal(raw, &f) != nil || f.Trusted.ProfileID != a.issuer.ProfileID {
			kept = append(kept, raw)
		}
	}
	return checkFactors("authentication_factors", append(kept, a.factor))
}

// migrateSession answers POST /v1/sessions/migrate: the session of a token that
// another system made and that is known here.
func (n *Node) migrateSession(ctx context.Context, c *call) (int, any, error) {
	var req api.Migrate
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	if req.SessionToken == "" {
		return 0, nil, badSetting("session_token", "required")
	}
	auth := api.Authenticate{
		SessionToken: req.SessionToken, SessionDurationMinutes: req.SessionDurationMinutes, CustomClaims: req.CustomClaims,
	}
	out, err := n.authenticate(ctx, c, &auth)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.LoginAnswer{SessionAnswer: *out, UserID: out.Session.UserID}, nil
}
