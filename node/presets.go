package node

import (
	"github.com/revocast/revocast/node/api"
)

// lifetimes are how long sessions last, in seconds; idle 0: however seldom they
// are used.
type lifetimes struct {
	total, idle int64
}

// presets are the longest times that NIST SP 800-63B-4 allows at each level
// before the user must log in again (sections 2.1.3, 2.2.3 and 2.3.3).
var presets = map[string]lifetimes{
	aal1: {total: 30 * 24 * 3600},
	aal2: {total: 24 * 3600, idle: 3600},
	aal3: {total: 12 * 3600, idle: 15 * 60},
}

const presetField = "lifetime_preset"

func presetOf(name string) (lifetimes, error) {
	p, ok := presets[name]
	if !ok {
		return p, fail(api.InvalidArgument, "%s: want aal1, aal2 or aal3", presetField).with("field", presetField)
	}
	return p, nil
}
