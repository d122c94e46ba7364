package node

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
)

// Limits of an organization and of roles.
const (
	maxOrganization = 256 // bytes
	maxSlug         = 128 // bytes
	maxRoles        = 64
	maxRole         = 128 // bytes
)

func newOrganization(id, slugField, slug string) (events.Organization, error) {
	if id == "" {
		return events.Organization{}, badSetting("organization_id", "is empty; null leaves the organization")
	}
	if err := checkText("organization_id", id, maxOrganization); err != nil {
		return events.Organization{}, err
	}
	return events.Organization{ID: id, Slug: slug}, checkText(slugField, slug, maxSlug)
}

func checkRoles(roles []string) error {
	if len(roles) > maxRoles {
		return badSetting("roles", "more than %d", maxRoles)
	}
	for i, role := range roles {
		if role == "" || slices.Contains(roles[:i], role) {
			return badSetting("roles", "%q: is empty or there twice", role)
		}
		if err := checkText("roles", role, maxRole); err != nil {
			return err
		}
	}
	return nil
}

// switchOrganization answers POST /v1/sessions/{sid}/organization: from now on
// the session acts for another organization, or with null for none. The roles it
// had elsewhere go, unless the request gives it new ones.
func (n *Node) switchOrganization(ctx context.Context, c *call) (int, any, error) {
	var req api.SwitchOrganization
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	var org events.Organization
	switch raw := bytes.TrimSpace(req.OrganizationID); {
	case len(raw) == 0:
		return 0, nil, badSetting("organization_id", "required; null leaves the organization")
	case !given(raw):
		if req.Slug != "" {
			return 0, nil, badSetting("slug", "only with organization_id")
		}
	default:
		var id string
		if err := json.Unmarshal(raw, &id); err != nil {
			return 0, nil, badSetting("organization_id", "want a string or null").because(err)
		}
		var err error
		if org, err = newOrganization(id, "slug", req.Slug); err != nil {
			return 0, nil, err
		}
	}
	if err := checkRoles(req.Roles); err != nil {
		return 0, nil, err
	}
	return n.actFor(ctx, c, org, req.Roles)
}

// leaveOrganization answers DELETE /v1/sessions/{sid}/organization.
func (n *Node) leaveOrganization(ctx context.Context, c *call) (int, any, error) {
	if err := c.nothing(); err != nil {
		return 0, nil, err
	}
	return n.actFor(ctx, c, events.Organization{}, nil)
}

// actFor writes that the session of the path acts for the organization, in the
// roles.
func (n *Node) actFor(ctx context.Context, c *call, org events.Organization, roles []string) (int, any, error) {
	return n.changeOne(ctx, c, func(d *draft) (string, error) {
		if d.private.Organization == org && slices.Equal(d.private.Roles, roles) {
			return "", nil
		}
		d.private.Organization, d.private.Roles = org, roles
		return events.ReasonChanged, nil
	})
}
