// Package preflight holds what must be so before an operation changes anything: of this node, of its network, of the
// cluster that it is about to join.
//
// Each check is a plain converge.Checker. What does not hold is an error with status 3, whose reason names the object
// and its state, and whose hints can be copied and pasted; what is only unwise is a warning. What another package
// knows comes as a function, asked when the check runs. The checks of one phase run all before the verdict.
package preflight

import (
	"errors"
	"net"
	"os"
	"strings"
	"syscall"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
)

// refuse returns the error of a check that does not hold.
func refuse(format string, args ...any) *errs.Error {
	return errs.New(errs.Precondition, format, args...)
}

// dialProblem says in few words why nothing answered.
func dialProblem(err error) string {
	var errno syscall.Errno
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && !dns.IsTimeout:
		return "the name " + dns.Name + " does not resolve"
	case errors.As(err, &errno):
		return errno.Error()
	case os.IsTimeout(err):
		return "no answer within " + constants.DialTimeout.String()
	}
	return err.Error()
}

// quote makes a word that a shell takes as it is.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-:,@%+=", r)
	}
	if s != "" && strings.TrimFunc(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
