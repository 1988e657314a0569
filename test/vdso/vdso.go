// Package vdso makes the wall clock of a process wrong. There is no namespace for that clock; but programs read it through
// the vDSO, code that the kernel maps into each of them, and that code can be replaced. Other clocks stay as they are, and
// so do times that the kernel writes, like those of files.
package vdso

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// place is where the vDSO of a process lies.
func place(pid int) (from, to int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(line, "[vdso]\n") {
			_, err := fmt.Sscanf(line, "%x-%x", &from, &to)
			return from, to, err
		}
	}
	return 0, 0, fmt.Errorf("process %d has no vDSO", pid)
}

// Jump sets the wall clock of a running process wrong by that much. The process is stopped for the moment.
func Jump(pid int, wrong time.Duration) error {
	from, to, err := place(pid)
	if err != nil {
		return err
	}
	for range 1000 {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			return err
		}
		there, err := stoppedAt(pid, from, to)
		if err == nil && !there {
			err = Skew(pid, wrong)
		}
		if cerr := unix.Kill(pid, unix.SIGCONT); err == nil {
			err = cerr
		}
		if err != nil || !there {
			return err
		}
		time.Sleep(time.Millisecond) // a thread was about to read the clock; it has now
	}
	return fmt.Errorf("process %d does nothing but read the clock", pid)
}

// stoppedAt waits until no thread of a process runs, and tells whether one would go on between two addresses.
func stoppedAt(pid int, from, to int64) (bool, error) {
	for range 60_000 {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil || len(threads) == 0 {
			return false, fmt.Errorf("process %d has ended", pid)
		}
		running, there := false, false
		for _, t := range threads {
			at, err := os.ReadFile(t + "/syscall")
			f := strings.Fields(string(at))
			if err != nil || len(f) < 2 { // "running"; what waits in a system call stops when it comes back from there
				running = true
				continue
			}
			var pc int64
			_, _ = fmt.Sscanf(f[len(f)-1], "0x%x", &pc)
			there = there || from <= pc && pc < to
		}
		if !running {
			return there, nil
		}
		time.Sleep(time.Millisecond)
	}
	return false, fmt.Errorf("process %d does not stop", pid)
}
