package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/host"
	"etcdadm/test/process"
	"etcdadm/test/release"
)

// played is a demo that runs in a directory of its own, where everything else but the build cache can only be read.
type played struct {
	*exec.Cmd
	lines *bufio.Scanner
	dir   string // what the demo may write in
}

// confine makes every file system of a mount namespace of its own read-only, but for two directories, and becomes the program.
const confine = `
set -e
for writable in "$1" "$2"; do mount --bind "$writable" "$writable"; done
grep -o '^[^ ]* [^ ]* [^ ]* [^ ]* [^ ]*' /proc/self/mountinfo | cut -d' ' -f5 | while read -r at; do
	case "$at" in "$1"|"$2"|/proc|/proc/*|/dev|/dev/pts) continue;; esac
	mount -o remount,bind,ro "$at" 2>/dev/null || true
done
for elsewhere in / /tmp /var/tmp /run "$HOME"; do
	if touch "$elsewhere/.demo" 2>/dev/null; then rm "$elsewhere/.demo"; echo "$elsewhere can be written"; exit 1; fi
done
cd "$1"
shift 2
exec "$@"`

// play starts the demo. What it leaves running becomes our child.
func play(t *testing.T) *played {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("to confine a program takes root")
	}
	release.Get(t)
	cache, err := release.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for to, pkg := range map[string]string{"etcdadm": "etcdadm/cmd/etcdadm", "play": "etcdadm/test/demo"} {
		if out, err := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", filepath.Join(dir, to), pkg).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	p := &played{Cmd: exec.Command("unshare", "--mount", "--propagation=slave", "sh", "-c", confine, "sh", dir, cache, "./play", "-etcdadm", "./etcdadm"), dir: dir}
	p.Env = append(os.Environ(), "ETCDADM_CACHE="+cache)
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Stderr = p.Stdout
	p.lines = bufio.NewScanner(out)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
		for _, left := range children(t) {
			_ = syscall.Kill(left.PID, syscall.SIGKILL)
		}
	})
	return p
}

// children are our processes.
func children(t *testing.T) []host.Process {
	t.Helper()
	all, err := host.New("/", host.ReadOnly()).Processes()
	if err != nil {
		t.Fatal(err)
	}
	var list []host.Process
	for _, p := range all {
		if p.PPID == os.Getpid() {
			list = append(list, p)
		}
	}
	return list
}

// nothingLeft wants no process and no file of the demo.
func (p *played) nothingLeft(t *testing.T) {
	t.Helper()
	// What was told to die takes its time on a busy machine; etcd and its supervisor never end by themselves.
	if err := process.Until("the last process to end", func() bool { return len(children(t)) == 0 }); err != nil {
		for _, left := range children(t) {
			t.Errorf("process %d (%s) is left running", left.PID, left.Name)
		}
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "etcdadm" && e.Name() != "play" {
			t.Errorf("%s is left", e.Name())
		}
	}
}

// The demo needs nothing to be writable but its own directory and the cache, and leaves no process and no file.
func TestDemoLeavesNothing(t *testing.T) {
	p := play(t)
	var all []string
	for p.lines.Scan() {
		all = append(all, p.lines.Text())
	}
	if err := p.Wait(); err != nil || len(all) == 0 || all[len(all)-1] != "demo: ok" {
		t.Errorf("%v\n%s", err, strings.Join(all, "\n"))
	}
	p.nothingLeft(t)
}

// Nor does one that is interrupted, as ^C does it: every process of the terminal gets the signal.
func TestDemoThatIsInterruptedLeavesNothing(t *testing.T) {
	for _, at := range []string{"etcd-1: etcdadm init", "etcd-2: etcdadm join"} {
		t.Run(at, func(t *testing.T) {
			p := play(t)
			interrupted := false
			var all []string
			for p.lines.Scan() {
				all = append(all, p.lines.Text())
				if !interrupted && strings.Contains(p.lines.Text(), at) {
					interrupted = true
					if err := syscall.Kill(-p.Process.Pid, syscall.SIGINT); err != nil {
						t.Error(err)
					}
				}
			}
			if err := p.Wait(); err == nil || !interrupted {
				t.Errorf("interrupted at %q (%t), the demo ends with %v\n%s", at, interrupted, err, strings.Join(all, "\n"))
			}
			p.nothingLeft(t)
		})
	}
}
