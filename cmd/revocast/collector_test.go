package main

import "testing"

func TestCollectorPace(t *testing.T) {
	const mib = 1 << 20
	tests := map[string]struct{ live, sessions, least, most int }{
		"nothing yet":               {0, 0, 100, 100},
		"few sessions":              {40 * mib, 10 * mib, 100, 100},
		"no sessions, much else":    {1000 * mib, 0, 100, 100},
		"a million sessions":        {500 * mib, 450 * mib, 20, 30},
		"ten million sessions":      {4600 * mib, 4500 * mib, 12, 20},
		"more than was seen in use": {100 * mib, 4500 * mib, 100, 100},
	}
	for name, test := range tests {
		if got := collectorPace(test.live, test.sessions); got < test.least || got > test.most {
			t.Errorf("%s: %d %%", name, got)
		}
	}
}
