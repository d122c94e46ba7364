package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

// templateType is the type of setting that a template is.
const templateType = "template"

// maxTemplateClaims is the most bytes that the claims of a template may have,
// as those of a session.
const maxTemplateClaims = 4 << 10

// template returns the app's template of the name.
func (n *Node) template(app, name string) (api.Template, bool) {
	held, ok := n.catalog.Snapshot().Setting(app, templateType, name)
	if !ok {
		return api.Template{}, false
	}
	t, err := readTemplate(held)
	if err != nil {
		n.conf.Log.Error("template cannot be read", "app", app, "template", name, "error", err)
		return api.Template{}, false
	}
	return t, true
}

func readTemplate(held *events.Setting) (t api.Template, err error) {
	if err := json.Unmarshal(held.Value, &t); err != nil {
		return api.Template{}, fmt.Errorf("read template: %w", err)
	}
	t.Name = held.Name
	return t, nil
}

// checkTemplate refuses what could not be minted.
func checkTemplate(t *api.Template) error {
	if !events.ValidName(t.Name) {
		return badSetting("name", "%q: want [a-z0-9][a-z0-9_-]{0,63}", t.Name)
	}
	if _, err := signer.ParseProfile(t.JWTProfile); err != nil {
		return badSetting("jwt_profile", "want one of %v", signer.Profiles())
	}
	if t.TTLSeconds != 0 && (t.TTLSeconds < minJWTTTL || t.TTLSeconds > maxJWTTTL) {
		return badSetting("ttl_seconds", "want %d to %d, or none for the app's", minJWTTTL, maxJWTTTL)
	}
	if err := checkText("audience", t.Audience, maxName); err != nil {
		return err
	}
	if len(t.Claims) == 0 || bytes.Equal(t.Claims, []byte("null")) {
		t.Claims = nil
		return nil
	}
	var tight bytes.Buffer
	if err := json.Compact(&tight, t.Claims); err != nil {
		return badSetting("claims", "not JSON")
	}
	t.Claims = tight.Bytes()
	if len(t.Claims) > maxTemplateClaims {
		return fail(api.ClaimsTooLarge, "claims: over %d bytes", maxTemplateClaims).with("field", "claims")
	}
	err := signer.CheckCustom(t.Claims)
	if reserved, ok := errors.AsType[*signer.ReservedClaimError](err); ok {
		return badSetting("claims", "%q is reserved", reserved.Name)
	}
	if err != nil {
		return badSetting("claims", "want an object of claims").because(err)
	}
	return nil
}

func (n *Node) putTemplate(ctx context.Context, c *call) (int, any, error) {
	name := c.r.PathValue("name")
	in := api.Template{Name: name}
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	if in.Name != name {
		return 0, nil, badSetting("name", "is not the one in the path")
	}
	if err := checkTemplate(&in); err != nil {
		return 0, nil, err
	}
	if in.JWTProfile == string(signer.Clerk) {
		if err := n.signsRSA(c.caller.app, c.caller.settings.JWTAlg, "the clerk profile"); err != nil {
			return 0, nil, err
		}
	}
	value, err := json.Marshal(in)
	if err != nil {
		return 0, nil, fmt.Errorf("write template: %w", err)
	}
	pos, err := n.setTemplate(ctx, c, name, value)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.TemplateAnswer{Template: in, Revision: pos.String()}, nil
}

// setTemplate writes the template; a nil value deletes it.
func (n *Node) setTemplate(ctx context.Context, c *call, name string, value json.RawMessage) (events.Position, error) {
	snap, err := n.administer()
	if err != nil {
		return events.Position{}, err
	}
	if _, ok := snap.Setting(c.caller.app, templateType, name); !ok && value == nil {
		return events.Position{}, noTemplate(name)
	}
	e := &events.Setting{App: c.caller.app, Type: templateType, Name: name, Value: value, At: n.wall(), By: c.caller.keyID}
	e.Prev = snap.Last(e)
	return n.configure(ctx, e, nil, 0, e.Prev)
}

func noTemplate(name string) *failure { return fail(api.NotFound, "no template %q", name) }

func (n *Node) getTemplate(_ context.Context, c *call) (int, any, error) {
	if stale := n.configStale(); stale != nil {
		return 0, nil, stale
	}
	name := c.r.PathValue("name")
	t, ok := n.template(c.caller.app, name)
	if !ok {
		return 0, nil, noTemplate(name)
	}
	return http.StatusOK, &api.TemplateAnswer{Template: t}, nil
}

func (n *Node) deleteTemplate(ctx context.Context, c *call) (int, any, error) {
	if err := c.nothing(); err != nil {
		return 0, nil, err
	}
	name := c.r.PathValue("name")
	t, _ := n.template(c.caller.app, name)
	pos, err := n.setTemplate(ctx, c, name, nil)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.TemplateAnswer{Template: t, Revision: pos.String()}, nil
}

func (n *Node) listTemplates(_ context.Context, c *call) (int, any, error) {
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	list := api.TemplateList{Templates: []api.Template{}}
	for _, held := range snap.SettingsOf(c.caller.app, templateType) {
		t, err := readTemplate(held)
		if err != nil {
			return 0, nil, err
		}
		list.Templates = append(list.Templates, t)
	}
	return http.StatusOK, &list, nil
}
