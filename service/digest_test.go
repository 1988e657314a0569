package service

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/host"
)

// What has no digest yet is about to be etcd, and not an etcd with other settings; what never gets one is no reason to wait
// for long.
func TestANewProcessIsGivenTimeToBecomeEtcd(t *testing.T) {
	h := host.New("/")
	begin := func(script string) int {
		c := exec.Command("/bin/sh", "-c", script)
		c.Env = []string{"PATH=/usr/bin:/bin"}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = c.Process.Kill()
			_ = c.Wait()
		})
		return c.Process.Pid
	}
	digest := func(pid int) string {
		env, err := startedWith(t.Context(), h, pid)
		if err != nil {
			t.Fatal(err)
		}
		return env[constants.DigestVariable]
	}
	if got := digest(begin("sleep 0.2; exec env " + constants.DigestVariable + "=one sleep 60")); got != "one" {
		t.Errorf("digest %q of a process that was about to have one", got)
	}

	defer func(d time.Duration) { begins = d }(begins)
	begins = time.Second
	foreign := begin("exec sleep 60")
	if got := digest(foreign); got != "" {
		t.Errorf("digest %q of a process that has none", got)
	}
	const looks = 10
	began := time.Now()
	for range looks {
		digest(foreign)
	}
	if took := time.Since(began); took >= looks*begins {
		t.Errorf("%d looks at a process that is not new took %s", looks, took)
	}
	if env, err := startedWith(t.Context(), h, 1<<22+1); err == nil {
		t.Errorf("environment %q of no process", env)
	}
	begins = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if env, err := startedWith(ctx, h, begin("exec sleep 60")); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupt ends no wait: %q, %v", env, err)
	}
}

// A run that is killed after it has moved the link to another release leaves an etcd that goes over to that one when it
// crashes, with the settings of before: when the link is moved back, they look as wanted.
func TestAnotherProgramIsAReasonToRestart(t *testing.T) {
	backends := map[string]func(*testing.T) (h *host.Host, running func() State, gap func() string){
		"systemd": func(t *testing.T) (*host.Host, func() State, func() string) {
			m := newMachine(t)
			m.configure("one")
			return m.host, func() State { return m.running("one") }, func() string { return gapOf(t, m.Running("one")) }
		},
		"process": func(t *testing.T) (*host.Host, func() State, func() string) {
			n := newNode(t)
			n.env("one")
			return n.host, func() State { return n.running("one") }, func() string { return gapOf(t, n.Running("one")) }
		},
	}
	for name, begin := range backends {
		t.Run(name, func(t *testing.T) {
			h, running, gap := begin(t)
			self, err := os.ReadFile(os.Args[0])
			if err != nil {
				t.Fatal(err)
			}
			const link, a, b = "/opt/bin/etcd", "/opt/bin/a/etcd", "/opt/bin/b/etcd"
			bring := func(at string) {
				if err := h.WriteFile(at, self, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			lead := func(to string) {
				if err := h.Symlink(to, link); err != nil {
					t.Fatal(err)
				}
			}
			bring(a)
			bring(b)
			lead("b/etcd")
			first := running()
			lead("a/etcd")
			if got := gap(); got != "etcd: running another program, want restarted" {
				t.Errorf("the link leads elsewhere: gap %q", got)
			}
			second := running()
			if second.PID == first.PID {
				t.Error("not restarted")
			}
			if err := os.Link(h.Path(a), h.Path("/opt/bin/same")); err != nil {
				t.Fatal(err)
			}
			write(t, h, "/opt/bin/script", "#!/bin/sh\n")
			for _, to := range []string{"same", "script", "nowhere"} {
				lead(to)
				if got := gap(); got != "" {
					t.Errorf("the link leads to %s: gap %q", to, got)
				}
			}
			lead("a/etcd")
			bring(a)
			if got := gap(); got != "" {
				t.Errorf("the same release was installed again: gap %q", got)
			}
		})
	}
}
