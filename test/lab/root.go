package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"etcdadm/test/release"
)

// The Debian of the hosts. Its directory carries a digest of this recipe: another recipe makes another one.
const (
	suite    = "bookworm"
	packages = "systemd,systemd-sysv,dbus,iproute2,procps,ca-certificates,nftables"

	// finish runs in the new root. Journals are kept on disk, so that they can be read after a death; nothing is
	// downloaded behind the back of a test.
	finish = `set -e
mkdir -p /var/log/journal
systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer console-getty.service
rm -f /etc/machine-id /etc/hostname /etc/resolv.conf /var/cache/apt/archives/*.deb
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*.log /var/log/apt
: > /etc/resolv.conf
`
)

// debian returns the root of the hosts, and makes it when it is not there. It takes about a minute, once.
var debian = sync.OnceValues(func() (string, error) {
	cache, err := release.CacheDir()
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256([]byte(suite + "\n" + packages + "\n" + finish))
	root := filepath.Join(cache, "lab", "root-"+hex.EncodeToString(digest[:6]))
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return "", err
	}
	held, err := lock(root+".lock", unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer held.Close()
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	staging := root + ".new"
	if err := discard(staging); err != nil {
		return "", err
	}
	fmt.Fprintf(os.Stderr, "lab: making a Debian %s in %s\n", suite, root)
	if err := bootstrap(staging); err != nil {
		return "", err
	}
	return root, os.Rename(staging, root)
})

func bootstrap(dir string) error {
	var log strings.Builder
	steps := [][]string{
		{"debootstrap", "--variant=minbase", "--include=" + packages, suite, dir},
		{"chroot", dir, "/bin/sh", "-c", finish},
	}
	for _, args := range steps {
		if err := (program{Args: args, Out: &log, Err: &log}).run(context.Background()); err != nil {
			text := strings.TrimSpace(log.String())
			return fmt.Errorf("%w\n%s", err, text[max(0, len(text)-2000):])
		}
	}
	return nil
}

// discard removes an unfinished root. debootstrap may have died with /proc and /sys mounted in it.
func discard(dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unmount(mounts[i]); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}
