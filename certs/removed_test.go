package certs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// TestRemoved: reset takes what etcdadm made, and nothing else.
func TestRemoved(t *testing.T) {
	tests := []struct {
		name  string
		begin func(t *testing.T, h *host.Host)
		left  string // names in the directory; "-" when it is gone
	}{
		{"all made here", nil, "-"},
		{"CA kept", func(t *testing.T, h *host.Host) { converged(t, CAKept(h, dir)) }, "ca.crt ca.key"},
		{"CA of an operator", func(t *testing.T, h *host.Host) { foreign(t, caTemplate(), nil, nil).place(t, h, CAName) }, "ca.crt ca.key"},
		{"foreign file", func(t *testing.T, h *host.Host) { place(t, h, "notes", nil, 0o600) }, "notes"},
		{"foreign file in the hidden directory", func(t *testing.T, h *host.Host) { place(t, h, ".pairs/notes", nil, 0o600) }, ".pairs"},
		{"placed pair", func(t *testing.T, h *host.Host) {
			foreign(t, caTemplate(), nil, nil).place(t, h, ServerName)
		}, "server.crt server.key"},
		{"files in the making", func(t *testing.T, h *host.Host) {
			for _, f := range []string{"ca.key", "server.crt", "peer.key"} {
				place(t, h, filepath.Base(host.Staging(f)), nil, 0o600)
			}
		}, "-"},
		{"files in the making of others", func(t *testing.T, h *host.Host) { place(t, h, ".notes.etcdadm-new", nil, 0o600) }, ".notes.etcdadm-new"},
		{"directory elsewhere", func(t *testing.T, h *host.Host) {
			must(t, h.MkdirAll("/data", 0o755))
			must(t, h.Rename(dir, "/data/pki"))
			must(t, h.Symlink("/data/pki", dir))
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, _ := set(t)
			if tt.begin != nil {
				tt.begin(t, h)
			}
			converged(t, Removed(h, dir))
			entries, err := h.ReadDir(dir)
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
			}
			left := strings.Join(names, " ")
			if errors.Is(err, fs.ErrNotExist) {
				left = "-"
			}
			if left != tt.left {
				t.Errorf("left: %q, want %q", left, tt.left)
			}
			if made, err := CAMadeHere(h, dir); made || err != nil {
				t.Errorf("CA made here: %v, %v", made, err)
			}
		})
	}
	if d := check(t, Removed(host.New(t.TempDir(), host.ReadOnly()), dir)); len(d) > 0 {
		t.Errorf("nothing there: %s", d)
	}
}

// TestOrdinaryUser: a dry run of a user who may not read the keys judges the rest, and says what it did not see.
func TestOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	h, n := set(t)
	for p := h.Root(); p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		must(t, os.Chmod(p, 0o755))
	}
	n.base.Host = host.New(h.Root(), host.ReadOnly())
	as(t, 65534, func() {
		var notes []string
		steps := n.steps()
		r := converge.Run(t.Context(), []converge.Phase{{Name: "certificates", Steps: phase(steps)}}, converge.Options{DryRun: true, Events: func(e converge.Event) {
			if e.Kind == converge.Note {
				notes = append(notes, e.Text)
			}
		}})
		if r.Err != nil || r.Changed {
			t.Errorf("changed %v, %v", r.Changed, r.Err)
		}
		if len(notes) != 5 || !strings.Contains(notes[1], "/etc/etcd/pki/server.key is not for this user to read") {
			t.Errorf("notes %q", notes)
		}
		n.name = "etcd-2"
		if d := check(t, n.leaf(ServerName)).String(); d != "server.crt: lacks etcd-2, want issued; server.crt: common name is \"etcd-1\", not \"etcd-2\", want issued" {
			t.Errorf("drift %q", d)
		}
		_, err := ClientTLS(h, dir, EtcdctlName)
		wantError(t, err, errs.Precondition, "etcdctl-etcd-client.key cannot be read: permission denied", "as root")
		list, err := Describe(h, dir, noon)
		must(t, err)
		for _, d := range list {
			if d.Problem != "" {
				t.Errorf("%s: %s", d.Name, d.Problem)
			}
		}
	})
}

func phase(steps []converge.Step) func(context.Context) ([]converge.Step, error) {
	return func(context.Context) ([]converge.Step, error) { return steps, nil }
}

// as runs f as another user: on a thread of its own, which ends with it.
func as(t *testing.T, uid int, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); e != 0 {
			t.Error(e)
			return
		}
		f()
	}()
	<-done
}

// TestCAKept: once the CA is to outlive the node, a reset leaves it alone.
func TestCAKept(t *testing.T) {
	h, _ := set(t)
	converged(t, CAKept(h, dir))
	converged(t, Removed(h, dir))
	ca, err := readCA(h, dir)
	must(t, err)
	if !ca.usable() {
		t.Error("the CA is gone")
	}
}
