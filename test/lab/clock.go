package lab

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/test/vdso"
)

// Skew boots the host anew with a wall clock that is wrong by that much, or right again with 0. Every program that
// runs on the host sees it; times that the kernel writes, like those of files, stay right.
//
// The host runs under ptrace(2), and whenever one of its processes executes a program, the clock of that is made wrong
// before the program begins; see package vdso.
func (h *Host) Skew(wrong time.Duration) {
	h.lab.t.Helper()
	if err := h.kill(); err != nil {
		h.lab.t.Fatal(err)
	}
	h.skew = wrong
	h.Start()
}

// runSkewed runs the program, with every process that comes of it, under another wall clock. It returns when the program
// has ended; processes that it left are looked after until they end.
func (p program) runSkewed(wrong time.Duration) error {
	var stderr strings.Builder
	if p.Err == nil {
		p.Err = &stderr
	}
	end := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // only the thread that started a process can trace it
		defer runtime.UnlockOSThread()
		p.trace(wrong, end)
	}()
	return p.failed(<-end, stderr.String())
}

// exitCode is how a traced program ended, as a shell tells it.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit status %d", int(c)) }
func (c exitCode) ExitCode() int { return int(c) }

// trace starts the program and follows it, and sends how it ended.
func (p program) trace(wrong time.Duration, end chan<- error) {
	pid, done, err := p.startTraced()
	if err != nil {
		end <- err
		return
	}
	const (
		options = unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACECLONE
		ours    = unix.WALL | unix.WNOTHREAD // no child of another thread: those are awaited elsewhere
	)
	var failed error
	known := map[int]bool{}
	for {
		var status unix.WaitStatus
		child, err := unix.Wait4(-1, &status, ours, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return // ECHILD: the last one has ended
		}
		if status.Exited() || status.Signaled() {
			delete(known, child)
			if child == pid {
				done()
				end <- ending(status, failed)
			}
			continue
		}
		deliver := 0
		switch {
		case child == pid && !known[child]: // the program itself, at its first instruction
			failed = unix.PtraceSetOptions(child, options)
			if failed == nil {
				failed = vdso.Skew(child, wrong)
			}
		case status.StopSignal() == unix.SIGTRAP && status.TrapCause() == unix.PTRACE_EVENT_EXEC:
			if err := vdso.Skew(child, wrong); err != nil && failed == nil {
				failed = err
			}
		case status.StopSignal() == unix.SIGTRAP && status.TrapCause() > 0: // a new process, which tells of itself
		case status.StopSignal() == unix.SIGSTOP && !known[child]: // that one
		default:
			deliver = int(status.StopSignal())
		}
		known[child] = true
		_ = unix.PtraceCont(child, deliver) // it may have been killed
	}
}

func ending(status unix.WaitStatus, failed error) error {
	switch {
	case failed != nil:
		return failed
	case status.Signaled():
		return exitCode(128 + int(status.Signal()))
	case status.ExitStatus() != 0:
		return exitCode(status.ExitStatus())
	}
	return nil
}

// startTraced starts the program, stopped at its first instruction. done waits until all of its output has been read.
func (p program) startTraced() (pid int, done func(), err error) {
	path, err := exec.LookPath(p.Args[0])
	if err != nil {
		return 0, nil, err
	}
	var copies sync.WaitGroup
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
	}()
	in, feed, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	theirs = append(theirs, in)
	go func() {
		defer feed.Close()
		if p.In != nil {
			_, _ = io.Copy(feed, p.In)
		}
	}()
	for _, to := range []io.Writer{p.Out, p.Err} {
		read, out, err := os.Pipe()
		if err != nil {
			return 0, nil, err
		}
		theirs = append(theirs, out)
		if to == nil {
			to = io.Discard
		}
		copies.Go(func() {
			defer read.Close()
			_, _ = io.Copy(to, read)
		})
	}
	env := p.Env
	if env == nil {
		env = os.Environ()
	}
	pid, err = syscall.ForkExec(path, p.Args, &syscall.ProcAttr{
		Env:   env,
		Files: []uintptr{theirs[0].Fd(), theirs[1].Fd(), theirs[2].Fd()},
		Sys:   &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
	})
	return pid, copies.Wait, err
}
