package service

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

var plainUnit = Unit{
	InstallDir: "/opt/bin", DataDir: "/var/lib/etcd", CertsDir: "/etc/etcd/pki",
	DiskPriorities: []string{"Nice=-10", "IOSchedulingClass=best-effort", "IOSchedulingPriority=2"},
}

func TestTheUnitIsAsReviewed(t *testing.T) {
	const golden = "testdata/etcd.service"
	if *update {
		if err := os.WriteFile(golden, []byte(plainUnit.Render()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), plainUnit.Render()); diff != "" {
		t.Error(diff)
	}
}

func TestTheUnitCarriesItsDigest(t *testing.T) {
	first := unitDigestOf([]byte(plainUnit.Render()))
	other := plainUnit
	other.DiskPriorities = nil
	if second := unitDigestOf([]byte(other.Render())); first == "" || second == "" || first == second {
		t.Errorf("digests %q and %q of two units", first, second)
	}
	if again := unitDigestOf([]byte(plainUnit.Render())); again != first {
		t.Errorf("digests %q and %q of one unit", first, again)
	}
	if !IsUnit([]byte(plainUnit.Render())) || IsUnit([]byte("[Unit]\nDescription=etcd\n")) {
		t.Error("a unit of ours is not told from another")
	}
}

// What the sandbox hides by default stays reachable where an operator has put the data.
func TestTheSandboxLeavesTheDataReachable(t *testing.T) {
	for dir, want := range map[string][]string{
		"/var/lib/etcd":  {"ProtectHome=yes", "PrivateTmp=yes"},
		"/home/etcd":     {"ProtectHome=read-only", "PrivateTmp=yes"},
		"/homes/etcd":    {"ProtectHome=yes", "PrivateTmp=yes"},
		"/var/tmp/etcd":  {"ProtectHome=yes", "PrivateTmp=no"},
		"/tmpfs/etcd":    {"ProtectHome=yes", "PrivateTmp=yes"},
		"/run/user/etcd": {"ProtectHome=read-only", "PrivateTmp=yes"},
	} {
		u := plainUnit
		u.DataDir = dir
		for _, line := range append(want, "ReadWritePaths="+dir, "RequiresMountsFor="+dir) {
			if !strings.Contains(u.Render(), "\n"+line+"\n") {
				t.Errorf("%s: the unit lacks %s", dir, line)
			}
		}
	}
}

// The disk to which a link leads is waited for as one that is mounted at the data directory itself.
func TestTheUnitWaitsForTheDiskBehindALink(t *testing.T) {
	u := plainUnit
	u.Data = u.DataDir
	if u.Render() != plainUnit.Render() {
		t.Error("a directory that is no link makes another unit")
	}
	u.Data = `/home/a "b" 50%\etcd`
	for _, line := range []string{`RequiresMountsFor=/var/lib/etcd "/home/a \"b\" 50%%\\etcd"`, "ReadWritePaths=/var/lib/etcd", "ProtectHome=read-only"} {
		if !strings.Contains(u.Render(), "\n"+line+"\n") {
			t.Errorf("the unit lacks %s", line)
		}
	}
}

// unitOnThisMachine is the unit with a program that is there, as systemd-analyze looks for it.
func unitOnThisMachine(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		const missing = "systemd-analyze is not installed: apt-get install systemd"
		if os.Getenv("LAB") == "required" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	dir := t.TempDir()
	u := plainUnit
	u.InstallDir = dir
	if err := os.WriteFile(filepath.Join(dir, "etcd"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "etcd.service")
	if err := os.WriteFile(file, []byte(u.Render()), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestSystemdFindsNoFaultWithTheUnit(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", unitOnThisMachine(t)).CombinedOutput()
	if err != nil || strings.Contains(string(out), "etcd.service") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestTheSandboxIsTight(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=yes", "--threshold=12", "--no-pager", unitOnThisMachine(t)).CombinedOutput()
	exposure := regexp.MustCompile(`exposure level for etcd.service: [0-9.]+`).FindString(string(out))
	if err != nil || exposure == "" {
		t.Errorf("%v: %s", err, out)
	}
	t.Log(exposure)
}
