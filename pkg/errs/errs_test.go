package errs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"etcdadm/pkg/errs"
)

func TestStatusOf(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want errs.Status
	}{
		"none":                         {nil, errs.OK},
		"any":                          {fs.ErrNotExist, errs.Failed},
		"given":                        {errs.New(errs.Usage, "x"), errs.Usage},
		"wrapped by others":            {fmt.Errorf("start: %w", errs.New(errs.Locked, "x")), errs.Locked},
		"the outermost":                {errs.New(errs.Failed, "outer: %w", errs.New(errs.Verification, "inner")), errs.Failed},
		"a signal":                     {fmt.Errorf("wait: %w", context.Canceled), errs.Interrupted},
		"a deadline":                   {fmt.Errorf("wait: %w", context.DeadlineExceeded), errs.Timeout},
		"given in spite of a deadline": {errs.New(errs.Precondition, "x: %w", context.DeadlineExceeded), errs.Precondition},
		"one of several":               {errors.Join(fs.ErrNotExist, errs.New(errs.Usage, "x")), errs.Usage},
	} {
		if got := errs.StatusOf(c.err); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// The numbers are an API: scripts test for them.
func TestStatusesKeepTheirNumbers(t *testing.T) {
	for want, s := range map[int]errs.Status{
		0: errs.OK, 1: errs.Failed, 2: errs.Usage, 3: errs.Precondition, 4: errs.Locked,
		5: errs.Timeout, 6: errs.Verification, 10: errs.Attention, 130: errs.Interrupted,
	} {
		if int(s) != want {
			t.Errorf("%d became %d", want, s)
		}
		if retryable := want == 4 || want == 5 || want == 130; s.Retryable() != retryable {
			t.Errorf("Retryable of %d is %v", want, s.Retryable())
		}
	}
}

func TestHintsOf(t *testing.T) {
	inner := errs.New(errs.Failed, "inner").Hint("look at %s", "the journal").Hint("shared")
	for name, c := range map[string]struct {
		err  error
		want []string
	}{
		"none":              {nil, nil},
		"any":               {fs.ErrNotExist, nil},
		"in order":          {inner, []string{"look at the journal", "shared"}},
		"wrapped by others": {fmt.Errorf("x: %w", fmt.Errorf("y: %w", inner)), []string{"look at the journal", "shared"}},
		"outermost first":   {errs.New(errs.Failed, "outer: %w", inner).Hint("first").Hint("shared"), []string{"first", "shared", "look at the journal"}},
		"of all causes":     {errs.New(errs.Failed, "%w, %w", errs.New(errs.Failed, "a").Hint("a"), errs.New(errs.Failed, "b").Hint("b")), []string{"a", "b"}},
		"of joined errors":  {errors.Join(fs.ErrNotExist, errs.New(errs.Failed, "a").Hint("a"), errs.New(errs.Failed, "b").Hint("b")), []string{"a", "b"}},
	} {
		if got := errs.HintsOf(c.err); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// What the kernel says of the machine has a status and a hint of its own, whoever meets it.
func TestFaultsOfTheMachine(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status errs.Status
		hint   string
	}{
		"full":                   {&fs.PathError{Op: "write", Path: "/etc/etcd/etcd.env", Err: syscall.ENOSPC}, errs.Precondition, "df -h /etc/etcd; df -i /etc/etcd"},
		"full, of no known file": {fmt.Errorf("write: %w", syscall.ENOSPC), errs.Precondition, "df -h; df -i"},
		"over its quota":         {&fs.PathError{Op: "write", Path: "/srv/backup.db", Err: syscall.EDQUOT}, errs.Precondition, "df -h /srv"},
		"read-only":              {&os.LinkError{Op: "rename", Old: "/etc/a", New: "/etc/etcd/b", Err: syscall.EROFS}, errs.Precondition, "findmnt -T /etc/etcd"},
		"failing":                {fmt.Errorf("x: %w", &fs.PathError{Op: "sync", Path: "/a", Err: syscall.EIO}), errs.Failed, "dmesg"},
		"short of files":         {&fs.PathError{Op: "open", Path: "/a", Err: syscall.EMFILE}, errs.Precondition, "ulimit -n"},
	} {
		hints := errs.HintsOf(c.err)
		if got := errs.StatusOf(c.err); got != c.status || !errs.OfMachine(c.err) {
			t.Errorf("%s: status %d, want %d", name, got, c.status)
		}
		if len(hints) != 1 || !strings.Contains(hints[0], c.hint) {
			t.Errorf("%s: hints %q, want %q", name, hints, c.hint)
		}
	}
	own := errs.New(errs.Failed, "x: %w", syscall.ENOSPC).Hint("mine")
	if got := errs.HintsOf(own); errs.StatusOf(own) != errs.Failed || !slices.Equal(got, []string{"mine"}) {
		t.Errorf("status %d and hints %q in place of those that were given", errs.StatusOf(own), got)
	}
	if errs.OfMachine(&fs.PathError{Op: "open", Path: "/a", Err: syscall.ENOENT}) {
		t.Error("a file that is absent is taken for a fault")
	}
}

func TestCausesAreFound(t *testing.T) {
	for name, err := range map[string]error{
		"one":     errs.New(errs.Failed, "read: %w", fs.ErrNotExist),
		"several": errs.New(errs.Failed, "%w and %w", fs.ErrClosed, fs.ErrNotExist),
		"deep":    errs.New(errs.Failed, "x: %w", errs.New(errs.Failed, "y: %w", fs.ErrNotExist)),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the cause is lost", name)
		}
	}
	if got := errs.New(errs.Failed, "read %s: %w", "f", fs.ErrNotExist).Error(); got != "read f: file does not exist" {
		t.Errorf("%q", got)
	}
}
