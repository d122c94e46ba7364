package compat

import "testing"

// TestDPoP lets npm's dpop use a node, in every way it has.
func TestDPoP(t *testing.T) {
	runScript(t, "dpop.mjs", oauthApps(t, shared(t), "dpop", algs...), 40, "dpop")
}
