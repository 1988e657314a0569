package kubelet_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"etcdadm/test/process"
)

// The environment of an etcdadm that is to be killed.
const (
	killAt = "KUBELET_KILL_AT" // die before this act, counted from 1
	actsTo = "KUBELET_ACTS_TO" // append each act to this file
)

// killer returns an observer that writes acts down, and dies before the one that it was told.
func killer() func(string) {
	at, _ := strconv.Atoi(os.Getenv(killAt))
	list := os.Getenv(actsTo)
	var mu sync.Mutex
	n := 0
	return func(act string) {
		mu.Lock()
		defer mu.Unlock()
		if f, err := os.OpenFile(list, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
			_, _ = fmt.Fprintln(f, act)
			_ = f.Close()
		}
		if n++; n == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

// killed runs etcdadm until its nth act, and then once more, and wants a third run to find nothing to do. n is 0 for a run
// that nobody disturbs; the acts are returned.
func (m *machine) killed(n int, args ...string) []string {
	m.Helper()
	list := filepath.Join(m.TempDir(), "acts")
	r, err := process.Run(m.arguments(args), killAt+"="+strconv.Itoa(n), actsTo+"="+list)
	if err != nil {
		m.Fatal(err)
	}
	if r.Killed {
		r = m.run(args...)
	}
	m.must(r)
	if r := m.must(m.run(args...)); r.Changed {
		m.Errorf("killed before act %d, the third run changed something: %q", n, r.Changes())
	}
	f, err := os.Open(list)
	if err != nil {
		m.Fatal(err)
	}
	defer f.Close()
	var acts []string
	for s := bufio.NewScanner(f); s.Scan(); {
		acts = append(acts, s.Text())
	}
	return acts
}

// sweep tries acts: each of those around the manifest and the guard, and of the others some, or each where CRASH_FULL asks
// for it.
func sweep(t *testing.T, acts []string, try func(t *testing.T, n int)) {
	if len(acts) < 5 {
		t.Fatalf("only %d acts: %q", len(acts), acts)
	}
	tried := 0
	for i, act := range acts {
		ours := strings.Contains(act, "manifest") || strings.Contains(act, "guard")
		if ours {
			tried++
		}
		if ours || i%9 == 0 || os.Getenv("CRASH_FULL") != "" {
			t.Run(fmt.Sprintf("%03d %s", i+1, strings.ReplaceAll(act, "/", ":")), func(t *testing.T) { try(t, i+1) })
		}
	}
	if tried == 0 {
		t.Errorf("no act is about the manifest: %q", acts)
	}
}

func TestAKilledInitOfAPodIsRunAgain(t *testing.T) {
	t.Parallel()
	acts := newMachine(t, "m", current).up().killed(0, "init")
	sweep(t, acts, func(t *testing.T, n int) {
		t.Parallel()
		m := newMachine(t, "m", current).up()
		m.killed(n, "init")
		m.etcdctl("put", "color", "blue")
		m.sound(1)
	})
}

func TestAKilledChangeOfAPodRestartsItOnce(t *testing.T) {
	t.Parallel()
	change := []string{"init", "--quota-backend-bytes", "1073741824"}
	m := newMachine(t, "m", current).up()
	m.must(m.run("init"))
	acts := m.killed(0, change...)
	for i := range acts {
		t.Run(fmt.Sprintf("%03d", i+1), func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "m", current).up()
			m.must(m.run("init"))
			m.etcdctl("put", "color", "blue")
			m.killed(i+1, change...)
			m.sound(2)
			if got := m.etcdctl("get", "--print-value-only", "color"); got != "blue" {
				t.Errorf("reads %q", got)
			}
		})
	}
}

func TestAKilledResetOfAPodIsRunAgain(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "m", current).up()
	m.must(m.run("init"))
	acts := m.killed(0, "reset")
	sweep(t, acts, func(t *testing.T, n int) {
		t.Parallel()
		m := newMachine(t, "m", current).up()
		m.must(m.run("init"))
		pid := m.PID()
		m.killed(n, "reset")
		m.ended(pid)
		for _, gone := range []string{"var/lib/etcd", "etc/etcdadm", "etc/etcd/etcd.env", "etc/kubernetes/manifests/etcd.manifest", "etc/kubernetes/.manifests.etcdadm-new"} {
			if _, err := os.Lstat(filepath.Join(m.root, gone)); !os.IsNotExist(err) {
				t.Errorf("%s is left: %v", gone, err)
			}
		}
	})
}
