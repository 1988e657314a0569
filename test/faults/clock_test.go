package faults

import (
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"etcdadm/pkg/errs"
	"etcdadm/test/process"
	"etcdadm/test/syscalls"
	"etcdadm/test/vdso"
)

const day = 24 * time.Hour

// jumps runs a command whose wall clock is set wrong when it makes the first call that the mark is in the path of.
func jumps(n *node, mark string, by time.Duration, args ...string) process.Result {
	n.t.Helper()
	var jumped error
	done := false
	w := syscalls.Watch{Exe: filepath.Base(etcdadm(n.t)), Ask: func(c syscalls.Call) syscalls.Answer {
		if !done && !slices.Contains(c.Args, "supervise") && strings.Contains(c.Path, mark) {
			done = true
			jumped = vdso.Jump(c.PID, by)
		}
		return syscalls.Continue
	}}
	r, err := process.FinishBy(n.command(args...), w.Run)
	n.ok(err)
	n.ok(jumped)
	if !done {
		n.t.Fatalf("nothing was done to %s\n%s", mark, r)
	}
	return r
}

// The clock jumps while a first member is made. Nobody waits for ever; where certificates were dated by a clock that is wrong,
// this run or the next one says so.
func TestClockJumps(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("only there it is known how to set the clock of one process")
	}
	t.Parallel()
	const set = "timedatectl set-ntp true"
	wrong := failure{errs.Precondition, `; the clock here says \d{4}-`, set}
	for _, c := range []struct {
		by           time.Duration
		jumped, next failure
	}{
		{2 * day, wrong, failure{errs.Precondition, `the clock says \S+, and the CA in \S+ begins at`, set}},
		{-2 * day, failure{}, failure{}},
		{-4000 * day, wrong, failure{errs.Verification, `the CA in \S+ expired at \S+; the clock says`, "if the clock is right"}},
	} {
		t.Run(c.by.String(), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "test")
			n.install("")
			r := jumps(n, "/config.yaml", c.by, "init")
			if c.jumped.status == errs.OK {
				if r.Status != 0 {
					t.Fatal(r)
				}
				n.converges("init")
				return
			}
			c.jumped.tells(t, r)
			c.next.tells(t, n.run("init")) // by the right clock
		})
	}
}
