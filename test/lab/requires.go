package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"etcdadm/test/release"
)

// programs are what the lab is made with, by the Debian package that brings it.
var programs = map[string]string{
	"debootstrap":    "debootstrap",
	"ip":             "iproute2",
	"mkfs.ext4":      "e2fsprogs",
	"mount":          "mount",
	"nft":            "nftables",
	"nsenter":        "util-linux",
	"systemd-nspawn": "systemd-container",
}

// Requires returns why the lab cannot run on this machine, nil when it can. It installs the programs that are missing.
var Requires = sync.OnceValue(func() error {
	if os.Geteuid() != 0 {
		return errors.New("it needs root, to make containers, networks and disks")
	}
	if _, err := hierarchies(); err != nil {
		return err
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return fmt.Errorf("it needs loop devices, for the disks of the hosts: %w", err)
	}
	if err := install(); err != nil {
		return err
	}
	if err := makeRoom(); err != nil {
		return fmt.Errorf("it needs %d instances of inotify (%s): %w", inotify, instances, err)
	}
	if err := tryOverlay(); err != nil {
		return fmt.Errorf("it needs overlay mounts, for the roots of the hosts: %w", err)
	}
	if err := tryNetwork(); err != nil {
		return fmt.Errorf("it needs network namespaces, bridges and nftables: %w", err)
	}
	return nil
})

// The systemd of a host watches files by seven instances of inotify and more while it boots. The kernel allows a user 128
// of them by default, all hosts together, and a systemd that gets none hangs.
const (
	instances = "/proc/sys/fs/inotify/max_user_instances"
	inotify   = 1024
)

// makeRoom raises the limit of the machine where it is lower. It stays so: other labs may have come to need it.
func makeRoom() error {
	data, err := os.ReadFile(instances)
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(data))); err != nil || n >= inotify {
		return err
	}
	return os.WriteFile(instances, []byte(strconv.Itoa(inotify)), 0o644)
}

func install() error {
	var missing []string
	for program, debian := range programs {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, debian)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("it needs %s, and there is no apt-get to install them with", strings.Join(missing, ", "))
	}
	fmt.Fprintf(os.Stderr, "lab: installing %s\n", strings.Join(missing, ", "))
	for _, args := range [][]string{
		{"apt-get", "-q", "update"},
		append([]string{"apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends"}, missing...),
	} {
		p := program{Args: args, Env: append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")}
		if err := p.run(context.Background()); err != nil {
			return fmt.Errorf("install %s: %w", strings.Join(missing, ", "), err)
		}
	}
	return nil
}

// tryOverlay mounts one where the disks of the hosts will be images: the upper layer is tried on a tmpfs.
func tryOverlay() (err error) {
	cache, err := release.CacheDir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(cache, "overlay-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := unix.Mount("lab", dir, "tmpfs", 0, ""); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount(dir)) }()
	for _, d := range []string{"lower", "upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	root := filepath.Join(dir, "root")
	if err := unix.Mount("lab", root, "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)); err != nil {
		return err
	}
	return unmount(root)
}

// tryNetwork makes what a lab has, in a namespace that ends with the program in it.
func tryNetwork() error {
	_, err := run("unshare", "--net", "sh", "-ec", `
ip link add br0 type bridge
ip link add n1 type veth peer name eth0
ip link set n1 master br0
nft add table bridge lab
`)
	return err
}
