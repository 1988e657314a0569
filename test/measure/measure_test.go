package measure

import (
	"testing"
	"time"
)

func TestMediansDecide(t *testing.T) {
	ms := func(n ...int) (d []time.Duration) {
		for _, i := range n {
			d = append(d, time.Duration(i)*time.Millisecond)
		}
		return d
	}
	if m := Median(ms(9, 1, 2, 4)); m != 3*time.Millisecond {
		t.Errorf("median %s, want 3ms", m)
	}
	for _, c := range []struct {
		row    Row
		missed bool
	}{
		{Against("a", ms(115, 1, 900), ms(100, 2, 800), 1.15), false},
		{Against("a", ms(116, 1, 900), ms(100, 2, 800), 1.15), true},
		{Within("a", ms(150), 150*time.Millisecond), false},
		{Within("a", ms(151), 150*time.Millisecond), true},
		{Within("a", ms(151), 0), false},
		{Against("a", ms(151), ms(1), 0), false},
	} {
		if c.row.Missed != c.missed {
			t.Errorf("%+v: missed should be %t", c.row, c.missed)
		}
	}
}
