package preflight

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
)

// Systemd is an init system that can keep etcd running on this very machine.
type Systemd struct{ Host *host.Host }

// Check is sd_booted(3).
func (s Systemd) Check(context.Context) (converge.Diff, error) {
	if s.Host.Root() != "/" {
		return nil, refuse("etcd cannot be started under %s: systemd runs on the machine that this becomes", s.Host.Root()).
			Hint("prepare it phase by phase: etcdadm init phase install --root %[1]s; etcdadm init phase configure --root %[1]s", quote(s.Host.Root())).
			Hint("or run etcd as a child process: --init-system process")
	}
	if info, err := s.Host.Lstat("/run/systemd/system"); err != nil || !info.IsDir() {
		return nil, refuse("systemd is not the init system here: /run/systemd/system is absent").
			Hint("run etcd as a child process: --init-system process")
	}
	return nil, nil
}

// ForeignUnit is no etcd.service of somebody else: of a distribution's package, or made by hand. A package would start
// its own etcd, and Debian's deletes /var/lib/etcd when it is purged.
type ForeignUnit struct {
	Host *host.Host
	// Ours tells a unit that etcdadm wrote.
	Ours func(text []byte) bool
}

// Check looks where units lie (systemd.unit(5)), ours in the place of the operator's.
func (f ForeignUnit) Check(context.Context) (converge.Diff, error) {
	if text, err := f.Host.Readlink(constants.UnitFile); err == nil && text == "/dev/null" {
		return nil, refuse("%s is masked", constants.Unit).Hint("systemctl unmask %s", constants.Unit)
	}
	text, err := f.Host.ReadFile(constants.UnitFile)
	switch {
	case err == nil && !f.Ours(text):
		return nil, refuse("the unit %s was not written by etcdadm", f.Host.Path(constants.UnitFile)).
			Hint("if its member is to go on, hand it over: see \"From a unit made by hand\" in docs/migrate.md").
			Hint("if nobody needs it any more: systemctl disable --now %s; mv %[2]s %[2]s.old", constants.Unit, f.Host.Path(constants.UnitFile))
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	for _, dir := range []string{"/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		at := path.Join(dir, constants.Unit)
		if there, err := f.Host.Exists(at); err != nil || !there {
			continue
		}
		return nil, refuse("another etcd is installed on this host: %s belongs to a package", f.Host.Path(at)).
			Hint("remove it: apt-get remove etcd-server, or dnf remove etcd; do not purge it, that deletes /var/lib/etcd")
	}
	return nil, nil
}

// SELinux is an install directory from which a service may run programs.
type SELinux struct {
	Host       *host.Host
	InstallDir string
}

// Check warns of a context that a policy forbids to run, where the policy is enforced.
func (s SELinux) Check(ctx context.Context) (converge.Diff, error) {
	enforcing, err := s.Host.ReadFile("/sys/fs/selinux/enforce")
	if err != nil || strings.TrimSpace(string(enforcing)) != "1" {
		return nil, nil //nolint:nilerr // a kernel without it
	}
	label := make([]byte, 256)
	n, err := unix.Getxattr(s.Host.RealPath(s.InstallDir), "security.selinux", label)
	if err != nil { // a directory that is made later gets what the policy says of its path
		return nil, nil //nolint:nilerr
	}
	// user:role:type:level
	if f := strings.Split(strings.TrimRight(string(label[:n]), "\x00"), ":"); len(f) > 2 && !runnable(f[2]) {
		converge.Warnf(ctx, "SELinux may forbid systemd to run programs in %[1]s, whose type is %[2]s: semanage fcontext -a -t bin_t '%[1]s(/.*)?'; restorecon -R %[1]s", s.InstallDir, f[2])
	}
	return nil, nil
}

// runnable tells whether an SELinux type is one of programs: bin_t, usr_t, lib_t, and the *_exec_t.
func runnable(t string) bool {
	return t == "bin_t" || t == "usr_t" || t == "lib_t" || strings.HasSuffix(t, "_exec_t")
}

// Swap is no swap: etcd that is paged out misses heartbeats.
type Swap struct{ Host *host.Host }

// Check reads /proc/swaps, whose first line is a head.
func (s Swap) Check(ctx context.Context) (converge.Diff, error) {
	table, err := s.Host.ReadFile("/proc/swaps")
	if err != nil {
		return nil, nil //nolint:nilerr // a kernel without swap
	}
	if lines := strings.Split(strings.TrimSpace(string(table)), "\n"); len(lines) > 1 {
		device, _, _ := strings.Cut(lines[1], " ")
		converge.Warnf(ctx, "this host swaps to %s: an etcd that is paged out misses heartbeats; swapoff -a, and remove it from /etc/fstab", strings.Fields(device)[0])
	}
	return nil, nil
}
