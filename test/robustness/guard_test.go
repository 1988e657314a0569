package robustness

import "testing"

func TestGuardKnowsWhatAClusterCanSpare(t *testing.T) {
	a, b, c := &Node{Name: "a"}, &Node{Name: "b"}, &Node{Name: "c"}
	for name, test := range map[string]struct {
		down []span
		ok   bool
	}{
		"nobody":                  {nil, true},
		"one after the other":     {[]span{{a, 1, 2, 3}, {b, 2, 3, 3}, {c, 5, 6, 3}}, true},
		"two at once":             {[]span{{a, 1, 3, 3}, {b, 2, 4, 3}}, false},
		"two of five":             {[]span{{a, 1, 3, 5}, {b, 2, 4, 5}}, true},
		"three of five":           {[]span{{a, 1, 9, 5}, {b, 2, 4, 5}, {c, 3, 4, 5}}, false},
		"the only one":            {[]span{{a, 1, 2, 1}}, true},
		"one of two":              {[]span{{a, 1, 2, 2}}, true},
		"one that never returned": {[]span{{a, 1, 1 << 62, 3}, {b, 7, 8, 3}}, false},
	} {
		if err := (&guard{down: test.down}).verdict(); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
