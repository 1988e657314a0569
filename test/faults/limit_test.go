package faults

import (
	"strconv"
	"strings"
	"testing"

	"etcdadm/pkg/errs"
)

// Only so few files may be open. Where that is too few, the limit is what is told. etcd inherits it, but not for longer than
// until the command is run again with a better one.
func TestFewOpenFiles(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{8, 10, 11, 12, 13, 16, 24} {
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "test")
			n.install("")
			c := n.command("init")
			c.Args = append([]string{"sh", "-c", `ulimit -n "$0"; exec "$@"`, strconv.Itoa(limit), c.Path}, c.Args[1:]...)
			c.Path = "/bin/sh"
			if r := n.finish(c); r.Status != 0 {
				want := failure{errs.Precondition, `too many open files`, `ulimit -n`}
				if strings.Contains(r.Stderr, "etcd does not stay up") || strings.Contains(r.Stderr, "etcd runs: still") {
					want = failure{errs.Failed, `the limit of open files is reached|between two starts`, `ulimit -n`}
				}
				want.tells(t, r)
			} else if limit < 10 {
				t.Errorf("%d open files are enough\n%s", limit, r)
			}
			n.converges("init")
			n.voters("test")
		})
	}
}
