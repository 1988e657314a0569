package main

import (
	"encoding/json"
	"testing"
	"time"
)

func TestOwnTimeIsAllButWaitingForEtcd(t *testing.T) {
	var r result
	document := `{"changed":true,"steps":[{"phase":"install","seconds":0.1},{"phase":"membership","seconds":0.2},{"phase":"health","seconds":0.5}]}`
	if err := json.Unmarshal([]byte(document), &r); err != nil {
		t.Fatal(err)
	}
	r.wall = time.Second
	if got := r.own().Round(time.Millisecond); got != 300*time.Millisecond || !r.Changed {
		t.Errorf("own time %s, changed %t", got, r.Changed)
	}
}

func TestMediansDecide(t *testing.T) {
	ms := func(n ...int) (d []time.Duration) {
		for _, i := range n {
			d = append(d, time.Duration(i)*time.Millisecond)
		}
		return d
	}
	if m := median(ms(9, 1, 2, 4)); m != 3*time.Millisecond {
		t.Errorf("median %s, want 3ms", m)
	}
	for _, c := range []struct {
		row    row
		missed bool
	}{
		{against("a", ms(115, 1, 900), ms(100, 2, 800), 1.15), false},
		{against("a", ms(116, 1, 900), ms(100, 2, 800), 1.15), true},
		{within("a", ms(150), 150*time.Millisecond), false},
		{within("a", ms(151), 150*time.Millisecond), true},
		{within("a", ms(151), 0), false},
	} {
		if c.row.missed != c.missed {
			t.Errorf("%+v: missed should be %t", c.row, c.missed)
		}
	}
}
