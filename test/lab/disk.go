package lab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// diskSize is in bytes. An image takes only the room of what was written to it.
const diskSize = 4 << 30

// Requests of ioctl(2), from linux/fs.h and fs/ext4/ext4.h of the kernel.
const (
	fiFreeze   = 0xc0045877
	fiThaw     = 0xc0045878
	shutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN
	noLogFlush = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH: not even the journal reaches the disk
)

func (h *Host) disk() string  { return filepath.Join(h.dir, "disk") }
func (h *Host) image() string { return filepath.Join(h.dir, "disk.img") }

// attach mounts the host's disk, and its root, unless they are. A host without a disk gets a new one.
func (h *Host) attach() error {
	mounted, err := mountsBelow(h.dir)
	if err != nil || len(mounted) > 0 {
		return err
	}
	for _, dir := range []string{h.disk(), h.root()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	_, err = os.Stat(h.image())
	blank := err != nil
	if blank {
		if err := format(h.image()); err != nil {
			return err
		}
	}
	// With auto_da_alloc ext4 syncs a file that is renamed over another: it would forgive what other file systems do not.
	if _, err := run("mount", "-t", "ext4", "-o", "loop,noauto_da_alloc", h.image(), h.disk()); err != nil {
		return err
	}
	upper, work, data := filepath.Join(h.disk(), "upper"), filepath.Join(h.disk(), "work"), filepath.Join(h.disk(), "var")
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", h.lab.root, upper, work)
	if err := unix.Mount(h.Name, h.root(), "overlay", 0, options); err != nil {
		return fmt.Errorf("mount the root of %s: %w", h.Name, err)
	}
	// Data directories of real hosts are on no overlay.
	if blank {
		if _, err := run("cp", "-a", filepath.Join(h.lab.root, "var"), data); err != nil {
			return err
		}
	}
	if err := unix.Mount(data, filepath.Join(h.root(), "var"), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /var of %s: %w", h.Name, err)
	}
	if blank {
		return h.personalize()
	}
	return nil
}

// AddDisk gives the running host one more disk, with an empty ext4 file system that is mounted at a path. It stays there
// when the host boots anew, until it is turned off.
func (h *Host) AddDisk(at string) {
	h.lab.t.Helper()
	image, mount := h.image()+strings.ReplaceAll(at, "/", "-"), filepath.Join(h.root(), at)
	err := os.MkdirAll(mount, 0o755)
	if err == nil {
		err = format(image)
	}
	if err == nil {
		_, err = run("mount", "-t", "ext4", "-o", "loop", image, mount) // what is mounted below the root, the host sees too
	}
	if err != nil {
		h.lab.t.Fatal(err)
	}
}

// format makes the image of a disk.
func format(image string) error {
	_, err := run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", image, fmt.Sprint(diskSize>>10))
	return err
}

// detach unmounts the host's root and disk, and waits until its loop device is free: as long as it is not, the image
// must not be mounted again.
func (h *Host) detach() error {
	mounted, err := mountsBelow(h.dir)
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounted) {
		if err := unmount(m); err != nil {
			return err
		}
	}
	return until("the disk of "+h.Name+" to be free", func() bool { return len(loopDevices(h.dir)) == 0 })
}

// personalize writes what tells a host from the others.
func (h *Host) personalize() error {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for _, other := range h.lab.Hosts {
		fmt.Fprintf(&hosts, "%s %s\n%s %[2]s\n", other.IPv4, other.Name, other.IPv6)
	}
	for name, text := range map[string]string{
		"etc/hostname":   h.Name + "\n",
		"etc/machine-id": hex.EncodeToString(id) + "\n",
		"etc/hosts":      hosts.String(),
	} {
		if err := os.WriteFile(filepath.Join(h.root(), name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return h.onDisk(func(fd int) error { return unix.Syncfs(fd) })
}

// onDisk does something to the file system of the host's disk.
func (h *Host) onDisk(do func(fd int) error) error {
	f, err := os.Open(h.disk())
	if err != nil {
		return err
	}
	defer f.Close()
	return do(int(f.Fd()))
}

// cutDisk takes the power from the disk. Its contents are what had reached it.
func (h *Host) cutDisk() error {
	return h.onDisk(func(fd int) error { return unix.IoctlSetPointerInt(fd, shutdown, noLogFlush) })
}

// LoseDisk turns the host off and takes its disk away. Start gives it a new one.
func (h *Host) LoseDisk() {
	h.lab.t.Helper()
	if err := errors.Join(h.kill(), h.detach(), os.Remove(h.image())); err != nil {
		h.lab.t.Fatal(err)
	}
}

// Keep turns the host off, and keeps a copy of its disk for Rewind.
func (h *Host) Keep() {
	h.lab.t.Helper()
	if err := errors.Join(h.kill(), h.detach(), copyImage(h.image(), h.kept())); err != nil {
		h.lab.t.Fatal(err)
	}
}

// rewind turns the host off, and makes its disk what it was when it was kept.
func (h *Host) rewind() error {
	return errors.Join(h.kill(), h.detach(), copyImage(h.kept(), h.image()))
}

func (h *Host) kept() string { return h.image() + ".kept" }

func copyImage(from, to string) error {
	_, err := run("cp", "--sparse=always", from, to)
	return err
}

// DiskFull takes all free space of the disk.
func (h *Host) DiskFull() {
	h.lab.t.Helper()
	h.DiskLeaves(0)
}

// DiskLeaves takes all free space of the disk but that many bytes.
func (h *Host) DiskLeaves(bytes int64) {
	h.lab.t.Helper()
	f, err := os.OpenFile(h.ballast(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		h.lab.t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for err == nil {
		var free unix.Statfs_t
		if err = unix.Fstatfs(int(f.Fd()), &free); err != nil {
			break
		}
		var at int64
		if at, err = f.Seek(0, 2); err != nil {
			break
		}
		// Space that is set aside is quick, but leaves crumbs: those are written full.
		switch room := int64(free.Bavail)*free.Bsize - bytes; {
		case bytes > 0 && room <= 0:
			return
		case room > 1<<20 && unix.Fallocate(int(f.Fd()), 0, at, room-1<<20) == nil:
		default: // also where the host has taken some of it meanwhile
			_, err = f.Write(block)
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		h.lab.t.Fatalf("fill the disk of %s: %v", h.Name, err)
	}
}

// DiskFree gives back what DiskFull or DiskLeaves took.
func (h *Host) DiskFree() {
	h.lab.t.Helper()
	if err := os.Remove(h.ballast()); err != nil {
		h.lab.t.Fatal(err)
	}
}

// ballast lies on the disk, and outside of what the host sees of it.
func (h *Host) ballast() string { return filepath.Join(h.disk(), "ballast") }

// SlowDisk lets the host's disk stall for the given time, again and again, with some milliseconds in between, as a disk
// in a busy network does. Reads are served, writes wait. Each stall syncs what was written before. A time of 0 ends that.
func (h *Host) SlowDisk(stall time.Duration) {
	h.lab.t.Helper()
	h.setFast()
	if stall == 0 {
		return
	}
	f, err := os.Open(h.disk())
	if err != nil {
		h.lab.t.Fatal(err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0); err != nil { // here: the disk is slow when this returns
		_ = f.Close()
		h.lab.t.Fatalf("freeze the disk of %s: %v", h.Name, err)
	}
	fast, done := make(chan struct{}), make(chan struct{})
	h.slow = fast
	h.thawed = done
	go func() {
		defer close(done)
		defer f.Close()
		for slow := true; slow; {
			select {
			case <-fast:
				slow = false
			case <-time.After(stall):
			}
			_ = unix.IoctlSetInt(int(f.Fd()), fiThaw, 0) // those who wait come before the next freeze
			if slow {
				_ = unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0)
			}
		}
	}()
}

// setFast ends SlowDisk.
func (h *Host) setFast() {
	if h.slow != nil {
		close(h.slow)
		<-h.thawed
		h.slow, h.thawed = nil, nil
	}
}

// thaw lets a file system take writes again, if something froze it.
func thaw(at string) {
	fd, err := unix.Open(at, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_ = unix.IoctlSetInt(fd, fiThaw, 0)
}
