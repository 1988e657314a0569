package robustness

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"etcdadm/test/lab"
	"etcdadm/test/process"
	"etcdadm/test/release"
)

// setup is made by TestMain.
var setup Setup

func TestMain(m *testing.M) {
	process.Contain(nil)
	dir, err := os.MkdirTemp("", "etcdadm-robustness-")
	if err == nil {
		setup.Rate = 100
		setup.Keep = filepath.Join(os.TempDir(), "etcdadm-robustness-reports")
		setup.Bin, err = build(dir)
	}
	if err == nil {
		setup.Mirror, err = release.Build(context.Background(), os.Stderr, release.Versions...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Clusters wait most of the time: more of them than processors live side by side.
	if f := flag.Lookup("test.parallel"); f != nil {
		_ = f.Value.Set("4")
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// build makes etcdadm as `make build` does.
func build(dir string) (string, error) {
	bin := filepath.Join(dir, "etcdadm")
	cmd := exec.Command("go", "build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", bin, "./cmd/etcdadm")
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build etcdadm: %w\n%s", err, out)
	}
	return bin, nil
}

// Whatever etcdadm does to a cluster that is in use, and whatever happens meanwhile: its clients saw nothing that etcd
// does not promise. Each scenario is played with one fault, with ROBUSTNESS_FULL=1 with each.
func TestNothingIsLost(t *testing.T) {
	for i, scenario := range Scenarios {
		for j, fault := range Faults {
			if os.Getenv("ROBUSTNESS_FULL") == "" && j != i%len(Faults) {
				continue
			}
			play(t, scenario, fault, i, j, func(*testing.T) Setup { return setup })
		}
	}
}

// play plays a scenario with a fault, beside others.
func play(t *testing.T, scenario Scenario, fault Fault, i, j int, with func(*testing.T) Setup) {
	seed := uint64(100*i + j)
	version := release.Versions[(i+j)%len(release.Versions)]
	t.Run(strings.ReplaceAll(scenario.Name+", "+fault.Name, " ", "-"), func(t *testing.T) {
		t.Parallel()
		out, err := with(t).Run(t.Context(), t.TempDir(), version, scenario, fault, seed)
		if err != nil {
			t.Fatalf("etcd %s, seed %d: %v", version, seed, err)
		}
		t.Logf("etcd %s, seed %d: %s", version, seed, out)
	})
}

// The same on hosts, with what only they have: a network that can be cut and slowed down, and power that can be lost.
func TestNothingIsLostOnHosts(t *testing.T) {
	selection := map[string]string{
		"join at the same moment":           "the node loses power",
		"reset the leader":                  "the leader is cut off",
		"replace a member without its disk": "another member loses power",
	}
	for i, scenario := range Scenarios {
		for j, fault := range LabFaults {
			if os.Getenv("ROBUSTNESS_FULL") == "" && selection[scenario.Name] != fault.Name {
				continue
			}
			play(t, scenario, fault, i, j, onHosts)
		}
	}
}

// onHosts is the setup of a test that plays on hosts of the lab.
func onHosts(t *testing.T) Setup {
	s := setup
	s.Lab = func(hosts int, mounts ...lab.Mount) *lab.Lab { return lab.Up(t, hosts, mounts...) }
	return s
}

// A restore loses what was written after the snapshot, and nothing else; and no client can take the new epoch for the
// old one.
func TestRestoreKeepsTheSnapshot(t *testing.T) {
	t.Parallel()
	out, err := setup.RunRestore(t.Context(), t.TempDir(), "3.7.3", Faults[0], 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d writes acknowledged", out.Writes)
}

// Without the bump of revisions, clients of the old epoch would be deceived: the judge has to see that.
func TestRestoreWithoutBumpIsFound(t *testing.T) {
	t.Parallel()
	_, err := setup.RunRestore(t.Context(), t.TempDir(), "3.7.3", Faults[0], 1, "--bump-revision", "0")
	if err == nil || !strings.Contains(err.Error(), "was acknowledged") || !strings.Contains(err.Error(), "not told that it is compacted") {
		t.Fatalf("a restore without a bump is judged: %v", err)
	}
	t.Log(err)
}
