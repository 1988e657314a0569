package lab

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A machine has one of three layouts of cgroups. Where it has the hybrid one, the others are made of it, for a process
// that sees other mounts: v1 is without the v2 hierarchy, and v2 is that one alone.
func TestEveryLayoutOfCgroups(t *testing.T) {
	if err := Requires(); err != nil {
		t.Skipf("the lab cannot run here: %v", err)
	}
	all, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 2 {
		t.Skipf("this machine has no hybrid layout, but %s", all[0])
	}
	for _, c := range []struct{ layout, mounts, lab, says string }{
		{"v1", "umount /sys/fs/cgroup/unified", "required", "--- PASS: TestProgramsRunOnHosts"},
		{"v2", "mount -t cgroup2 cgroup2 /sys/fs/cgroup", "required", "--- PASS: TestProgramsRunOnHosts"},
		{"none", "umount /sys/fs/cgroup/unified /sys/fs/cgroup/systemd", "", "the lab cannot run here: no cgroup hierarchy for systemd is mounted below /sys/fs/cgroup"},
	} {
		child := exec.Command("unshare", "--mount", "sh", "-ec", c.mounts+`; exec "$0" -test.run='^TestProgramsRunOnHosts$' -test.v`, os.Args[0])
		child.Env = append(os.Environ(), "LAB="+c.lab)
		if out, err := child.CombinedOutput(); err != nil || !strings.Contains(string(out), c.says) {
			t.Errorf("cgroups of the layout %s: %v, want %q\n%s", c.layout, err, c.says, out)
		}
	}
}
