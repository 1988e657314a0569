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

// On a busy machine a member may be back before the guard learns that it was away: two were at once all the same.
func TestGuardLearnsLateOfAnEnd(t *testing.T) {
	a, b := &Node{Name: "a"}, &Node{Name: "b"}
	g := &guard{down: []span{{a, 10, 1 << 62, 3}, {b, 40, 1 << 62, 3}}}
	g.down[1].endsAt(30)
	if err := g.verdict(); err == nil {
		t.Error("a member that restarted while another one was away is not found")
	}
	g.down[0].endsAt(20)
	if err := g.verdict(); err != nil {
		t.Errorf("one after the other: %v", err)
	}
}
