package compat

import "testing"

// TestExpressJWT lets npm's express-jwt use a node, in every way it has.
func TestExpressJWT(t *testing.T) {
	runScript(t, "express-jwt.mjs", oauthApps(t, shared(t), "express-jwt", algs...), 25, "express-jwt", "jwks-rsa", "dpop")
}
