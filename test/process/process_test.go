package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is etcdadm, and a supervisor that does nothing, too.
func TestMain(m *testing.M) {
	Etcdadm(nil)
	if len(os.Args) > 1 && os.Args[1] == "supervise" {
		time.Sleep(time.Minute)
		os.Exit(0)
	}
	Contain(nil)
	os.Exit(m.Run())
}

// What etcdadm was about to start when it was killed is no supervisor yet.
func TestDownAwaitsASupervisorThatIsAboutToBe(t *testing.T) {
	root := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("sh", "-c", `sleep 0.3; exec "$0" supervise --root "$1"`, self, root)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	if err := Down(root); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the supervisor was left running")
		_ = c.Process.Kill()
		<-ended
	}
	if s, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
		t.Errorf("it ended by itself: %v", c.ProcessState)
	}
	if err := Down(root); err != nil || Supervisor(root) != 0 {
		t.Errorf("where nothing runs: %v", err)
	}
}

// A write that an election has cut short is made once more; one that etcd refuses is not.
func TestAWriteThatMetAnElectionIsMadeAgain(t *testing.T) {
	for said, want := range map[string]int{"etcdserver: request timed out, possibly due to previous leader failure": 3, "etcdserver: mvcc: database space exceeded": 1} {
		dir := t.TempDir()
		program := filepath.Join(dir, "etcdctl")
		script := "#!/bin/sh\necho x >>" + dir + "/tries\n[ $(wc -l <" + dir + "/tries) -ge 3 ] && echo OK || { echo '" + said + "' >&2; exit 1; }\n"
		if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		out, err := Etcdctl(program, "put", "color", "blue")
		tries, _ := os.ReadFile(filepath.Join(dir, "tries"))
		if n := strings.Count(string(tries), "x"); n != want || (err == nil) != (want == 3) || err == nil && out != "OK" {
			t.Errorf("%q: %d tries, %q, %v", said, n, out, err)
		}
	}
}
