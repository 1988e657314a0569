package preflight_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/host"
	"etcdadm/pkg/preflight"
)

// with returns a host that has one file.
func with(t *testing.T, path, text string) *host.Host {
	t.Helper()
	h := host.New(t.TempDir())
	must(t, h.WriteFile(path, []byte(text), 0o644))
	return h
}

func TestSystemdOfAnotherMachine(t *testing.T) {
	expect(t, "a root", preflight.Systemd{Host: host.New(t.TempDir())}, verdict{refused: "etcd cannot be started under", hint: "etcdadm init phase configure --root"})
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		expect(t, "a container", preflight.Systemd{Host: host.New("/")}, verdict{refused: "systemd is not the init system here", hint: "--init-system process"})
	}
}

func TestForeignUnit(t *testing.T) {
	ours := func(text []byte) bool { return bytes.HasPrefix(text, []byte("# ours")) }
	check := func(h *host.Host) preflight.ForeignUnit { return preflight.ForeignUnit{Host: h, Ours: ours} }
	expect(t, "none", check(host.New(t.TempDir())), verdict{})
	expect(t, "ours", check(with(t, constants.UnitFile, "# ours\n[Unit]\n")), verdict{})
	expect(t, "made by hand", check(with(t, constants.UnitFile, "[Unit]\n")), verdict{refused: "was not written by etcdadm", hint: "systemctl disable --now etcd.service; mv "})
	expect(t, "a package", check(with(t, "/usr/lib/systemd/system/etcd.service", "[Unit]\n")), verdict{refused: "another etcd is installed", hint: "do not purge"})
	expect(t, "a drop-in", check(with(t, constants.UnitFile+".d/mine.conf", "[Service]\n")), verdict{})
	masked := host.New(t.TempDir())
	must(t, masked.Symlink("/dev/null", constants.UnitFile))
	expect(t, "masked", check(masked), verdict{refused: "etcd.service is masked", hint: "systemctl unmask"})
}

func TestKernelSettings(t *testing.T) {
	const head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
	expect(t, "no swap", preflight.Swap{Host: with(t, "/proc/swaps", head)}, verdict{})
	expect(t, "swap", preflight.Swap{Host: with(t, "/proc/swaps", head+"/dev/sda2\tpartition\t1048572\t0\t-2\n")}, verdict{warning: "swaps to /dev/sda2:"})
	expect(t, "enough files", preflight.OpenFiles{Host: with(t, "/proc/sys/fs/nr_open", "1048576\n")}, verdict{})
	expect(t, "few files", preflight.OpenFiles{Host: with(t, "/proc/sys/fs/nr_open", "1024\n")}, verdict{warning: "allows 1024 open files (fs.nr_open)"})
	expect(t, "no SELinux", preflight.SELinux{Host: host.New(t.TempDir()), InstallDir: "/opt/bin"}, verdict{})
}

// The check writes, into a file that has no name; and not at all where nothing may be written.
func TestMeasuringADiskLeavesNothing(t *testing.T) {
	root := t.TempDir()
	acts := 0
	h := host.New(root, host.Observe(func(string) { acts++ }))
	tries := 0
	all, err := h.SyncLatencies(t.Context(), "/var/lib/etcd", 2300, time.Minute, func(time.Duration) bool {
		tries++
		return tries < 20
	})
	must(t, err)
	if len(all) != 20 || acts != 1 {
		t.Errorf("%d latencies, %d acts", len(all), acts)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	expect(t, "a dry run", preflight.DiskLatency{Host: host.New(root, host.ReadOnly()), Path: "/var/lib/etcd"}, verdict{})
}

// A firewall front end that is a program of the test's: what it says is in its name's file.
func TestFirewallIsAskedForWhatItOpens(t *testing.T) {
	bin := t.TempDir()
	say := func(program, script string) {
		must(t, os.WriteFile(filepath.Join(bin, program), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	t.Setenv("PATH", bin)
	check := preflight.Firewall{Host: host.New(t.TempDir()), Ports: []int{2379, 2380}}
	expect(t, "none", check, verdict{})
	say("nft", "echo 'type filter hook input priority filter; policy drop;'")
	expect(t, "nftables", check, verdict{warning: "no rule names ports 2379 and 2380"})
	say("ufw", "echo 'Status: active'; echo '2379/tcp ALLOW Anywhere'")
	expect(t, "ufw", check, verdict{warning: "ufw does not open port 2380: ufw allow 2380/tcp"})
	say("firewall-cmd", `[ "$1" = --state ] || echo ' ports: 22/tcp'`)
	expect(t, "firewalld", check, verdict{warning: "--permanent --add-port=2379/tcp --add-port=2380/tcp; firewall-cmd --reload"})
	say("firewall-cmd", `[ "$1" = --state ] && exit 252`)
	say("ufw", "echo 'Status: inactive'")
	say("nft", "exit 1")
	expect(t, "all off", check, verdict{})
}
