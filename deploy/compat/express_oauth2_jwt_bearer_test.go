package compat

import "testing"

// TestExpressOAuth2JWTBearer lets npm's express-oauth2-jwt-bearer use a node, in every way it has.
func TestExpressOAuth2JWTBearer(t *testing.T) {
	runScript(t, "express-oauth2-jwt-bearer.mjs", oauthApps(t, shared(t), "express-oauth2-jwt-bearer", algs...), 40, "express-oauth2-jwt-bearer", "dpop")
}
