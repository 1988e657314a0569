package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Every host has a cgroup of its own, <id>/<name>: two containers in one would share their payload's group. With it the
// lab also knows each process that runs in its hosts.

// hierarchies are the cgroup hierarchies in which systemd works, the one to find processes by first. The kernel has
// one of three layouts: v1, hybrid, v2.
func hierarchies() ([]string, error) {
	const top = "/sys/fs/cgroup"
	var fs unix.Statfs_t
	if err := unix.Statfs(top, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{top}, nil
	}
	var found []string
	for _, dir := range []string{top + "/unified", top + "/systemd"} {
		if _, err := os.Stat(dir + "/cgroup.procs"); err == nil {
			found = append(found, dir)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no cgroup hierarchy for systemd is mounted below %s", top)
	}
	return found, nil
}

// unified tells whether a host can have the v2 layout, as a Debian of today does.
func unified(hierarchies []string) bool { return hierarchies[0] != "/sys/fs/cgroup/systemd" }

// processes lists the processes of a cgroup and of those below it.
func processes(group string) []int {
	all, err := hierarchies()
	if err != nil {
		return nil
	}
	var pids []int
	// Groups come and go while we walk: what is gone has no processes.
	_ = filepath.WalkDir(filepath.Join(all[0], group), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // see above
		}
		procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for line := range strings.FieldsSeq(string(procs)) {
			if pid, err := strconv.Atoi(line); err == nil && pid != 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// firstProcess returns the process that is number 1 of the container in a cgroup, 0 when there is none.
func firstProcess(group string) int {
	for _, pid := range processes(group) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for line := range bytes.Lines(status) {
			if ids, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
				if f := bytes.Fields(ids); len(f) > 1 && string(f[len(f)-1]) == "1" {
					return pid
				}
			}
		}
	}
	return 0
}

// killGroup ends the processes of a cgroup, and removes it.
func killGroup(group string) error {
	err := until("the processes of "+group+" to end", func() bool {
		left := processes(group)
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		return len(left) == 0
	})
	if err != nil {
		return err
	}
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, dir := range all {
		err = errors.Join(err, removeGroup(filepath.Join(dir, group)))
	}
	return err
}

// removeGroup removes a cgroup of a hierarchy with those below it, the lowest first.
func removeGroup(dir string) error {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, d := range slices.Backward(dirs) {
		var err error
		// The last process has ended, but the kernel may not have let go of it yet.
		_ = until(d, func() bool { err = unix.Rmdir(d); return !errors.Is(err, unix.EBUSY) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", d, err)
		}
	}
	return nil
}
