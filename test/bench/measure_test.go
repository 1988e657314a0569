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
