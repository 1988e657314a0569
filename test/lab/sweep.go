package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// prefix begins the name of everything that a lab makes.
const prefix = "etcdadm-"

// sweep removes the labs whose process died. The kernel has freed their locks.
func sweep(base string) error {
	found, err := os.ReadDir(base)
	if err != nil {
		return err
	}
	for _, f := range found {
		if !f.IsDir() {
			continue
		}
		dir := filepath.Join(base, f.Name())
		held, err := lock(dir+".lock", unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(remove(filepath.Base(dir), dir), held.Close()); err != nil {
			return fmt.Errorf("sweep the lab %s: %w", filepath.Base(dir), err)
		}
	}
	return nil
}

// remove takes away whatever there is of a lab: it needs to know nothing but its id and its directory.
func remove(id, dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		thaw(m) // a process that waits for a frozen disk cannot be killed
	}
	if err := killGroup(id); err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if err := unmount(m); err != nil {
			return err
		}
	}
	if err := until("the loop devices of "+id+" to be free", func() bool { return len(loopDevices(dir)) == 0 }); err != nil {
		return err
	}
	spaces, err := filepath.Glob("/run/netns/" + id + "*")
	if err != nil {
		return err
	}
	for _, s := range spaces {
		if _, err := run("ip", "netns", "delete", filepath.Base(s)); err != nil {
			return err
		}
	}
	// Where systemd-nspawn hands mounts to a running container. It stays behind when the container is killed.
	handed, err := filepath.Glob("/run/systemd/nspawn/propagate/" + id + "-*")
	if err != nil {
		return err
	}
	for _, d := range handed {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	err = os.RemoveAll(dir)
	// Of a lab that goes down by itself while it is looked at, the file may be gone.
	if gone := os.Remove(dir + ".lock"); !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

// mountsBelow lists the mount points at and below a directory, in the order in which they were mounted.
func mountsBelow(dir string) ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var found []string
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 4 {
			if at := unescape.Replace(f[4]); at == dir || strings.HasPrefix(at, dir+"/") {
				found = append(found, at)
			}
		}
	}
	return found, nil
}

// unmount waits for the last user of a mount that is on its way out.
func unmount(at string) error {
	// systemd-nspawn that was killed leaves the lock of its root directory. Another directory may get the same numbers, and
	// so a lab seem to leave a lock or not by chance.
	var root unix.Stat_t
	if unix.Stat(at, &root) == nil {
		_ = os.Remove(fmt.Sprintf("/run/systemd/nspawn/locks/inode-%d:%d", root.Dev, root.Ino))
	}
	var err error
	_ = until(at, func() bool { err = unix.Unmount(at, unix.UMOUNT_NOFOLLOW); return !errors.Is(err, unix.EBUSY) })
	// A mount that is to be seen in two places goes from both at once.
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	return nil
}

// loopDevices lists the loop devices whose image is below a directory.
func loopDevices(dir string) []string {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	var found []string
	for _, f := range files {
		if image, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(image), dir+"/") {
			found = append(found, strings.Split(f, "/")[3])
		}
	}
	return found
}
