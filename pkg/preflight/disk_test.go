package preflight

import (
	"testing"
	"time"
)

// A disk is measured until more of it would not change the verdict, and a slow sync here and there does not take much longer
// than none.
func TestADiskIsMeasuredUntilItIsJudged(t *testing.T) {
	every := func(n int) func(int) bool { return func(i int) bool { return n > 0 && i%n == n-1 } }
	first := func(n int) func(int) bool { return func(i int) bool { return i < n } }
	for _, c := range []struct {
		name     string
		slow     func(i int) bool
		from, to int // syncs that it takes
	}{
		{"a fast one", every(0), 400, 500},
		{"one that is slow once", first(1), 600, 700},
		{"one that is slow five times", first(5), 1200, 1400},
		{"one of which one sync in a hundred is slow", every(100), syncCount, syncCount},
		{"one of which one sync in fifty is slow", every(50), 1050, 1050},
		{"one that is always slow", every(1), 21, 21},
	} {
		j, n := judge{began: time.Now().Add(time.Hour)}, 1 // whatever time this machine takes to count
		for ; j.more(map[bool]time.Duration{true: 2 * syncWarned}[c.slow(n-1)]); n++ {
		}
		if n < c.from || n > c.to {
			t.Errorf("%s: measured %d times, want %d to %d", c.name, n, c.from, c.to)
		}
	}
	if j := (judge{began: time.Now().Add(-2 * syncFirst)}); j.more(0) {
		t.Error("a disk that is not fast, and has not been too slow either, is measured for longer than settled")
	}
}
