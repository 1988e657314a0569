package service

import (
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
		env, err := startedWith(h, pid)
		if err != nil {
			t.Fatal(err)
		}
		return env[constants.DigestVariable]
	}
	if got := digest(begin("sleep 0.2; exec env " + constants.DigestVariable + "=one sleep 60")); got != "one" {
		t.Errorf("digest %q of a process that was about to have one", got)
	}
	foreign := begin("exec sleep 60")
	if got := digest(foreign); got != "" {
		t.Errorf("digest %q of a process that has none", got)
	}
	looks := 0
	for end := time.Now().Add(time.Second); time.Now().Before(end); looks++ {
		digest(foreign)
	}
	if looks < 10 {
		t.Errorf("%d looks in a second at a process that is not new", looks)
	}
	if env, err := startedWith(h, 1<<22+1); err == nil {
		t.Errorf("environment %q of no process", env)
	}
}
