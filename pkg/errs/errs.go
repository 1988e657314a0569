// Package errs gives an error what a caller of etcdadm acts on: an exit status, and hints that say what to do next.
package errs

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Status is an exit status of etcdadm. The numbers are an API: scripts test for them.
type Status int

// The exit statuses. Only OK means that the work is done.
const (
	OK           Status = 0   // done, or nothing to do
	Failed       Status = 1   // failed
	Usage        Status = 2   // usage or configuration is wrong
	Precondition Status = 3   // preflight, or data or quorum would be lost
	Locked       Status = 4   // another etcdadm holds the lock of this node or cluster
	Timeout      Status = 5   // timed out; safe to run again
	Verification Status = 6   // digest, signature, certificate chain or snapshot hash is wrong
	Attention    Status = 10  // check commands only: something needs attention
	Interrupted  Status = 130 // interrupted by a signal
)

// Retryable tells whether the same command may succeed later without any correction.
func (s Status) Retryable() bool { return s == Locked || s == Timeout || s == Interrupted }

// Error is one failure as a person reads it: a reason in one line, and hints that can be copied and pasted.
type Error struct {
	Status Status
	Hints  []string
	err    error
}

// New returns an error with an exit status. The format may wrap causes with %w.
func New(s Status, format string, args ...any) *Error {
	return &Error{Status: s, err: fmt.Errorf(format, args...)}
}

// Hint adds what the user can do. It returns e, so that it can stand behind New.
func (e *Error) Hint(format string, args ...any) *Error {
	e.Hints = append(e.Hints, fmt.Sprintf(format, args...))
	return e
}

func (e *Error) Error() string { return e.err.Error() }

// Unwrap leads to what the format of New wrapped, for errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.err }

// StatusOf returns the exit status of an error: the outermost one that was given, the one of a context that ended, or of a
// fault of the machine.
func StatusOf(err error) Status {
	var e *Error
	switch {
	case err == nil:
		return OK
	case errors.As(err, &e):
		return e.Status
	case errors.Is(err, context.Canceled):
		return Interrupted
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	}
	if f, _, ok := faultOf(err); ok {
		return f.status
	}
	return Failed
}

// HintsOf returns the hints of every error that err wraps, outermost first, each once. Where there are none, a fault of the
// machine has its own.
func HintsOf(err error) []string {
	var hints []string
	var walk func(error)
	walk = func(err error) {
		if e, ok := err.(*Error); ok { //nolint:errorlint // every level is looked at
			for _, h := range e.Hints {
				if !slices.Contains(hints, h) {
					hints = append(hints, h)
				}
			}
		}
		switch u := err.(type) { //nolint:errorlint // likewise
		case interface{ Unwrap() error }:
			walk(u.Unwrap())
		case interface{ Unwrap() []error }:
			for _, e := range u.Unwrap() {
				walk(e)
			}
		}
	}
	walk(err)
	if f, path, ok := faultOf(err); ok && len(hints) == 0 {
		hints = []string{f.about(path)}
	}
	return hints
}
