package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

// policyType and policyName are under which an app's policy is kept: there is
// one.
const (
	policyType = "policy"
	policyName = "rbac"
)

const (
	// maxPolicy is how many bytes of JSON a policy may have, so that its event
	// stays below events.MaxEvent.
	maxPolicy = events.MaxEvent - 1<<10
	// implicitRole is the role that every session has, if the policy defines it.
	// Stytch's clients take the roles from the JWT, so it stands there, too.
	implicitRole = "stytch_user"
	// anyAction in a permission stands for all actions.
	anyAction = "*"
)

// policies keeps what was read of the policies, by app.
type policies struct {
	mu   sync.Mutex // guards read
	read map[string]readPolicy
}

type readPolicy struct {
	held   *events.Setting // what it was read from; nothing changes in that
	policy *api.Policy
}

// policyOf returns the policy of the app, nil if it has none, or one that cannot
// be read, which permits nothing.
func (n *Node) policyOf(app string) *api.Policy {
	held, ok := n.catalog.Snapshot().Setting(app, policyType, policyName)
	if !ok {
		return nil
	}
	n.policies.mu.Lock()
	defer n.policies.mu.Unlock()
	if r := n.policies.read[app]; r.held == held {
		return r.policy
	}
	p := new(api.Policy)
	if err := json.Unmarshal(held.Value, p); err != nil {
		n.conf.Log.Error("policy cannot be read", "app", app, "error", err)
		p = nil
	}
	if n.policies.read == nil {
		n.policies.read = map[string]readPolicy{}
	}
	n.policies.read[app] = readPolicy{held, p}
	return p
}

// rolesOf returns the roles of a session of the app that was given those.
func (n *Node) rolesOf(app string, given []string) []string {
	roles := append([]string{}, given...)
	if p := n.policyOf(app); p != nil && !slices.Contains(roles, implicitRole) &&
		slices.ContainsFunc(p.Roles, func(r api.PolicyRole) bool { return r.RoleID == implicitRole }) {
		roles = append(roles, implicitRole)
	}
	return roles
}

// permitted says which roles of the session permit what the check asks for, nil
// without one. A check is never passed over: Stytch's clients ask here after they
// have found locally that it fails.
func (n *Node) permitted(ctx context.Context, f *found, check *api.AuthorizationCheck) (*api.Verdict, error) {
	if check == nil {
		return nil, nil
	}
	policy := n.policyOf(f.App)
	if stale := n.settings.fenced(); stale != nil && (policy == nil || n.pastTrust()) {
		return nil, stale
	}
	newest := f.StateSeq
	p, err := n.private(ctx, f)
	if err != nil {
		return nil, err
	}
	if f.StateSeq != newest {
		if err := f.active(); err != nil {
			return nil, err
		}
	}
	v := &api.Verdict{Authorized: true, GrantingRoles: []string{}}
	if policy != nil {
		v.GrantingRoles = granting(policy, n.rolesOf(f.App, p.Roles), check)
	}
	if len(v.GrantingRoles) == 0 {
		return nil, fail(api.NotAuthorized, "no role of the session permits %q on %q", check.Action, check.ResourceID).
			with("resource_id", check.ResourceID).with("action", check.Action)
	}
	return v, nil
}

// granting returns which of the roles permit it, in the policy's order: exactly
// what Stytch's clients find.
func granting(p *api.Policy, roles []string, check *api.AuthorizationCheck) []string {
	all := []string{}
	for _, r := range p.Roles {
		if slices.Contains(roles, r.RoleID) && slices.ContainsFunc(r.Permissions, func(p api.Permission) bool {
			return p.ResourceID == check.ResourceID && (slices.Contains(p.Actions, check.Action) || slices.Contains(p.Actions, anyAction))
		}) {
			all = append(all, r.RoleID)
		}
	}
	return all
}

// permissionsOf returns what the roles permit in the app, without wildcards: JWTs
// that say so live no longer than any other. Settings too old to be trusted say
// nothing.
func (n *Node) permissionsOf(app string, roles []string) (all []signer.Permission) {
	policy := n.policyOf(app)
	if policy == nil || n.pastTrust() {
		return nil
	}
	for _, r := range policy.Roles {
		if !slices.Contains(roles, r.RoleID) {
			continue
		}
		for _, p := range r.Permissions {
			actions := p.Actions
			if slices.Contains(actions, anyAction) {
				for _, of := range policy.Resources {
					if of.ResourceID == p.ResourceID {
						actions = of.Actions
					}
				}
			}
			all = append(all, signer.Permission{Resource: p.ResourceID, Actions: actions})
		}
	}
	return all
}

// policyMark names the policy that JWTs of the profile depend on.
func (n *Node) policyMark(app string, p signer.Profile) string {
	if p != signer.Clerk {
		return ""
	}
	last := n.catalog.Snapshot().Last(&events.Setting{App: app, Type: policyType, Name: policyName})
	return strconv.FormatUint(last, 10) + " " + strconv.FormatBool(n.pastTrust())
}

// checkAuthorization refuses a check that says not what it asks for.
func checkAuthorization(check *api.AuthorizationCheck) error {
	if check == nil {
		return nil
	}
	if err := checkID("authorization_check.resource_id", check.ResourceID); err != nil {
		return err
	}
	return checkID("authorization_check.action", check.Action)
}

// checkID refuses what cannot be an id within a policy.
func checkID(field, id string) error {
	if id == "" {
		return fail(api.InvalidArgument, "%s: required", field).with("field", field)
	}
	return checkText(field, id, maxName)
}

// getPolicy answers GET /v1/rbac/policy. Whoever may authenticate sessions may
// read it: it says what their roles mean.
func (n *Node) getPolicy(_ context.Context, c *call) (int, any, error) {
	if _, err := n.appOf(c); err != nil {
		return 0, nil, err
	}
	p := n.policyOf(c.caller.app)
	if stale := n.settings.fenced(); stale != nil && (p == nil || n.pastTrust()) {
		return 0, nil, stale
	}
	if p == nil {
		p = &api.Policy{Roles: []api.PolicyRole{}, Resources: []api.PolicyResource{}, Scopes: []api.PolicyScope{}}
	}
	return http.StatusOK, &api.PolicyAnswer{Policy: *p}, nil
}

// putPolicy answers PUT /v1/rbac/policy.
func (n *Node) putPolicy(ctx context.Context, c *call) (int, any, error) {
	var req api.PutPolicy
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	bare := req.Roles != nil || req.Resources != nil || req.Scopes != nil
	if bare == (req.Policy != nil) {
		return 0, nil, fail(api.InvalidArgument, "want a policy: roles, resources and scopes, either as they are or in policy").with("field", "policy")
	}
	if bare {
		req.Policy = &api.Policy{Roles: req.Roles, Resources: req.Resources, Scopes: req.Scopes}
	}
	if err := checkPolicy(req.Policy); err != nil {
		return 0, nil, err
	}
	value, err := marshal(req.Policy)
	if err != nil {
		return 0, nil, err
	}
	if len(value) > maxPolicy {
		return 0, nil, fail(api.BodyTooLarge, "the policy is over %d bytes", maxPolicy)
	}
	pos, err := n.putSetting(ctx, c, policyType, policyName, value)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.PolicyAnswer{Policy: *req.Policy, Revision: pos.String()}, nil
}

// putSetting writes a setting of the caller's app; a nil value deletes it.
func (n *Node) putSetting(ctx context.Context, c *call, kind, name string, value json.RawMessage) (events.Position, error) {
	snap, err := n.administer()
	if err != nil {
		return events.Position{}, err
	}
	e := &events.Setting{App: c.caller.app, Type: kind, Name: name, Value: value, At: n.wall(), By: c.caller.keyID}
	e.Prev = snap.Last(e)
	return n.configure(ctx, e, nil, 0, e.Prev)
}

// checkPolicy refuses a policy that contradicts itself, and makes empty lists of
// missing ones.
func checkPolicy(p *api.Policy) error {
	p.Roles, p.Resources, p.Scopes = orEmpty(p.Roles), orEmpty(p.Resources), orEmpty(p.Scopes)
	actions := map[string][]string{} // by resource
	for i := range p.Resources {
		r := &p.Resources[i]
		at := fmt.Sprintf("resources[%d]", i)
		if _, twice := actions[r.ResourceID]; twice {
			return badSetting(at+".resource_id", "%q appears twice", r.ResourceID)
		}
		if r.Actions = orEmpty(r.Actions); slices.Contains(r.Actions, anyAction) {
			return badSetting(at+".actions", "%q stands for all actions and cannot be one", anyAction)
		}
		if err := checkNamed(at, "resource_id", r.ResourceID, r.Description, r.Actions); err != nil {
			return err
		}
		actions[r.ResourceID] = r.Actions
	}
	seen := map[string]bool{}
	for i := range p.Roles {
		r := &p.Roles[i]
		if err := checkPermitting(fmt.Sprintf("roles[%d]", i), "role_id", r.RoleID, r.Description, seen, &r.Permissions, actions); err != nil {
			return err
		}
	}
	clear(seen)
	for i := range p.Scopes {
		s := &p.Scopes[i]
		if err := checkPermitting(fmt.Sprintf("scopes[%d]", i), "scope", s.Scope, s.Description, seen, &s.Permissions, actions); err != nil {
			return err
		}
	}
	return nil
}

// checkNamed refuses bad text in a part of a policy, and actions that appear
// twice.
func checkNamed(at, idField, id, description string, actions []string) error {
	if err := checkID(at+"."+idField, id); err != nil {
		return err
	}
	if err := checkText(at+".description", description, 4*maxName); err != nil {
		return err
	}
	for i, a := range actions {
		if err := checkID(fmt.Sprintf("%s.actions[%d]", at, i), a); err != nil {
			return err
		}
		if slices.Contains(actions[:i], a) {
			return badSetting(at+".actions", "%q appears twice", a)
		}
	}
	return nil
}

// checkPermitting checks a role or a scope: what it permits must be there.
func checkPermitting(at, idField, id, description string, seen map[string]bool, permissions *[]api.Permission, actions map[string][]string) error {
	if err := checkNamed(at, idField, id, description, nil); err != nil {
		return err
	}
	if seen[id] {
		return badSetting(at+"."+idField, "%q appears twice", id)
	}
	seen[id] = true
	*permissions = orEmpty(*permissions)
	for i, p := range *permissions {
		at := fmt.Sprintf("%s.permissions[%d]", at, i)
		known, ok := actions[p.ResourceID]
		if !ok {
			return badSetting(at+".resource_id", "%q is none of the resources", p.ResourceID)
		}
		if len(p.Actions) == 0 {
			return badSetting(at+".actions", "a permission without any permits nothing")
		}
		if err := checkNamed(at, "resource_id", p.ResourceID, "", p.Actions); err != nil {
			return err
		}
		for _, a := range p.Actions {
			if a != anyAction && !slices.Contains(known, a) {
				return badSetting(at+".actions", "%q is none of the actions of %q", a, p.ResourceID)
			}
		}
	}
	return nil
}

// orEmpty returns a list that is written as [] and not as null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
