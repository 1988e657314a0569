package main

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
)

// A trial is one cluster as its lab sees it: what a test is elsewhere.
type trial struct {
	name    string
	mu      sync.Mutex // faults strike beside what they disturb
	err     error
	cleanup []func()
}

// try calls a function with a trial, and returns what became of it.
func try(name string, do func(*trial) error) error {
	t := &trial{name: name}
	end := make(chan struct{})
	go func() {
		defer close(end)
		// Fatal ends what it is called in, but not this.
		defer func() {
			for _, c := range slices.Backward(t.cleanup) {
				c()
			}
		}()
		if err := do(t); err != nil {
			t.Errorf("%w", err)
		}
	}()
	<-end
	return t.err
}

func (t *trial) Name() string     { return t.name }
func (t *trial) Helper()          {}
func (t *trial) Cleanup(f func()) { t.cleanup = append(t.cleanup, f) }

func (t *trial) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err != nil
}

func (t *trial) Logf(format string, args ...any) { fmt.Printf("     "+format+"\n", args...) }

func (t *trial) Errorf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = errors.Join(t.err, fmt.Errorf(format, args...))
}

func (t *trial) Error(args ...any) { t.Errorf("%s", fmt.Sprint(args...)) }

func (t *trial) Fatal(args ...any) { t.Fatalf("%s", fmt.Sprint(args...)) }

func (t *trial) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	runtime.Goexit()
}

// Skipf is what a lab does that cannot run: whoever asked for one wants to know.
func (t *trial) Skipf(format string, args ...any) { t.Fatalf(format, args...) }
