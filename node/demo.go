package node

import (
	"context"
	"net/http"

	"github.com/revocast/revocast/node/api"
)

// byDemo is who makes and revokes sessions on behalf of the demo.
const byDemo = "demo"

// demoPolicy is the Content-Security-Policy of the demo, which loads nothing but
// what this node serves.
const demoPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"

// demoLogin is the body of POST /demo/login.
type demoLogin struct {
	UserID string `json:"user_id"`
}

// demoRevoke is the body of POST /demo/revoke.
type demoRevoke struct {
	// Everywhere: all sessions of the user, not only the one of the cookie.
	Everywhere bool `json:"everywhere"`
}

// demoRoutes are those of the demo, of a node in development mode alone: whoever
// reaches them is logged in as anybody.
func (n *Node) demoRoutes() []route {
	if n.conf.Demo == "" {
		return nil
	}
	return []route{
		{pattern: "GET /demo/{$}", raw: n.demoFile},
		{pattern: "GET /demo/{file}", raw: n.demoFile},
		{pattern: "POST /demo/login", handle: n.demoLogin},
		{pattern: "POST /demo/revoke", handle: n.demoRevoke},
	}
}

// demoFile answers with a page of the demo. Under another name of this machine it
// would have another origin than the node, which is not one that the app lists.
func (n *Node) demoFile(w http.ResponseWriter, r *http.Request) {
	if "http://"+r.Host != n.origin {
		http.Redirect(w, r, n.origin+"/demo/", http.StatusSeeOther)
		return
	}
	name := r.PathValue("file")
	if name == "" {
		name = "index.html"
	}
	w.Header().Set("Content-Security-Policy", demoPolicy)
	n.embedded(w, r, "demo/"+name, "no-cache")
}

// demoCaller has the call come from the demo's own page, which a browser says.
func (n *Node) demoCaller(c *call) error {
	if from := senderOf(c.r); from.twice || from.origin != n.origin {
		return originRefused("the demo takes requests from its own page alone")
	}
	c.caller = caller{app: n.conf.Demo, keyID: byDemo}
	return nil
}

// demoLogin answers POST /demo/login as the backend of an application would: it
// takes anybody's word for who they are, and sets the cookie.
func (n *Node) demoLogin(ctx context.Context, c *call) (int, any, error) {
	if err := n.demoCaller(c); err != nil {
		return 0, nil, err
	}
	var req demoLogin
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	status, body, err := n.newSession(ctx, c, &api.CreateSession{UserID: req.UserID, SetCookie: true})
	if err != nil {
		return 0, nil, err
	}
	c.h.Set("Set-Cookie", body.(*api.SessionAnswer).SetCookie) // newSession answers with nothing else
	return status, &api.Accepted{}, nil
}

// demoRevoke answers POST /demo/revoke as the back office of an application would:
// it takes away the session that the cookie shows, or all of its user.
func (n *Node) demoRevoke(ctx context.Context, c *call) (int, any, error) {
	if err := n.demoCaller(c); err != nil {
		return 0, nil, err
	}
	var req demoRevoke
	if err := c.decode(&req); err != nil {
		return 0, nil, err
	}
	cl, err := n.newClient(c)
	if err != nil {
		return 0, nil, err
	}
	if cl.text == "" {
		return 0, nil, noSession(reasonMissing)
	}
	f, err := n.clientSession(ctx, cl)
	if err != nil {
		return 0, nil, err
	}
	r, err := n.newRevocation(c, &api.Revoke{Reason: byDemo})
	if err != nil {
		return 0, nil, err
	}
	if req.Everywhere {
		return n.revokeGroup(ctx, r, f.User)
	}
	return n.revokeOne(ctx, r, func(context.Context) (found, error) { return f, nil })
}
