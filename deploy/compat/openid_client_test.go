package compat

import "testing"

// TestOpenIDClient lets npm's openid-client use a node, in every way it has.
func TestOpenIDClient(t *testing.T) {
	runScript(t, "openid-client.mjs", oauthApps(t, shared(t), "openid-client", algs...), 50, "openid-client", "dpop")
}
