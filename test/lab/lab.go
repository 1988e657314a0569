// Package lab is a network of several Debian hosts on one machine, each with its own systemd, network namespace,
// addresses, hostname and disk, to try on them what only real hosts do: boot, lose power, lose the network, fill up.
//
// A host is a systemd-nspawn container. Its root is an overlay of one Debian that is made once (see root.go) and of an
// ext4 file system of its own in a loop device, and /var is a plain directory of the latter. All hosts are plugged into one bridge, in a namespace apart, so that
// labs do not see each other, and the machine's own network does not see them:
//
//	n1  10.77.0.11  fd77::11
//	n2  10.77.0.12  fd77::12  ...
//
// Everything that a lab makes on the machine carries its id: cgroups, namespaces, mounts below its directory. What a
// lab leaves behind that was killed is found by that id, and removed when the next lab comes up.
package lab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/test/release"
)

// Lab is a number of hosts that run. Its methods are faults of the network; they end the test when the lab itself fails.
type Lab struct {
	Hosts []*Host // n1, n2, ...

	t      T
	memory bool     // the lab is kept in memory, its disks too
	id     string   // "etcdadm-" and 6 hex digits
	dir    string   // what the lab keeps: <dir>/n1/{disk.img,disk,root,console.log}
	lock   *os.File // held while this process lives
	root   string   // the Debian below the hosts' own disks
	mounts []Mount
	links  map[*Host]*link // those that are slow
}

// T is what a lab needs of the test that it is for. A testing.TB is one.
type T interface {
	Name() string
	Helper()
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Mount shows a directory of the machine to every host, to read only.
type Mount struct{ From, To string }

// Up brings up n hosts, and takes them down at the end of the test. Where the lab cannot run the test is skipped, or
// fails when LAB=required is set.
func Up(t T, n int, mounts ...Mount) *Lab {
	t.Helper()
	return bringUp(&Lab{t: t, mounts: mounts}, n)
}

// UpInMemory is Up with disks that take memory instead of room: they are quickly brought back to what they were.
func UpInMemory(t T, n int, mounts ...Mount) *Lab {
	t.Helper()
	return bringUp(&Lab{t: t, mounts: mounts, memory: true}, n)
}

func bringUp(l *Lab, n int) *Lab {
	t := l.t
	t.Helper()
	if err := Requires(); err != nil {
		if os.Getenv("LAB") == "required" {
			t.Fatalf("the lab cannot run here: %v", err)
		}
		t.Skipf("the lab cannot run here: %v", err)
	}
	l.links = map[*Host]*link{}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Errorf("the lab %s does not go down: %v", l.id, err)
		}
	})
	if err := l.up(n); err != nil {
		t.Fatalf("the lab does not come up: %v", err)
	}
	return l
}

func (l *Lab) up(n int) error {
	var err error
	if l.root, err = debian(); err != nil {
		return err
	}
	if err := l.claim(); err != nil {
		return err
	}
	for i := range n {
		l.Hosts = append(l.Hosts, newHost(l, i+1))
	}
	if err := l.plugIn(); err != nil {
		return err
	}
	return each(l.Hosts, (*Host).start)
}

// claim sweeps what dead labs left, and makes the directory and the id of this one.
func (l *Lab) claim() error {
	base, err := base()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return err
	}
	// A directory without a lock is a dead lab, or one that is just being made: not while this is held.
	all, err := lock(filepath.Join(base, ".lock"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer all.Close()
	if err := sweep(base); err != nil {
		return err
	}

	id := make([]byte, 3)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	l.id = prefix + hex.EncodeToString(id)
	l.dir = filepath.Join(base, l.id)
	if l.lock, err = lock(l.dir+".lock", unix.LOCK_EX); err != nil {
		return err
	}
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		return err
	}
	// A running host keeps a copy of each mount that was there before it, and would hold the disks of its neighbours:
	// below a shared mount, what is unmounted here is unmounted there.
	kind, flags, options := "", uintptr(unix.MS_BIND), ""
	if l.memory {
		kind, flags, options = "tmpfs", 0, "mode=755"
	}
	if err := unix.Mount(l.dir, l.dir, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s: %w", l.dir, err)
	}
	return unix.Mount("", l.dir, "", unix.MS_SHARED, "")
}

// Down ends the hosts and removes every trace of the lab; if the test has failed, it keeps what they know first. A
// second call finds nothing to do.
func (l *Lab) Down() error {
	if l.lock == nil {
		return nil
	}
	if l.t.Failed() {
		l.keepEvidence()
	}
	err := each(l.Hosts, (*Host).kill)
	for _, h := range l.Hosts {
		err = errors.Join(err, l.fast(h))
	}
	err = errors.Join(err, remove(l.id, l.dir))
	err = errors.Join(err, l.lock.Close())
	l.lock = nil
	return err
}

// base is the directory of all labs of this user.
func base() (string, error) {
	cache, err := release.CacheDir()
	return filepath.Join(cache, "lab", "up"), err
}

// lock opens a file and takes its lock, which the kernel frees when this process ends.
func lock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// each does the same to all hosts at once.
func each(hosts []*Host, do func(*Host) error) error {
	errs := make([]error, len(hosts))
	var all sync.WaitGroup
	for i, h := range hosts {
		all.Go(func() { errs[i] = do(h) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// until waits for a state that has to come, for three minutes at most: on a machine with much else to do, seconds are long.
func until(what string, holds func() bool) error {
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); {
		if holds() {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("waited for %s in vain", what)
}
