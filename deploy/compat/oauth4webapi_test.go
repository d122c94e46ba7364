package compat

import "testing"

// TestOAuth4WebAPI lets npm's oauth4webapi use a node, in every way it has.
func TestOAuth4WebAPI(t *testing.T) {
	runScript(t, "oauth4webapi.mjs", oauthApps(t, shared(t), "oauth4webapi", algs...), 60, "oauth4webapi", "dpop")
}
