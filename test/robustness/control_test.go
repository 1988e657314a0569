package robustness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"etcdadm/test/process"
)

// A judge that never says no proves nothing. These are the mistakes that it has to find.

// wrong builds the etcdadm that makes them.
func wrong(t *testing.T) Setup {
	t.Helper()
	s := setup
	s.Keep = t.TempDir()
	s.Bin = t.TempDir() + "/wrong"
	if out, err := exec.Command("go", "build", "-tags=grpcnotrace", "-o", s.Bin, "./wrong").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return s
}

// caught fails the test unless a run was judged to be wrong, for one of the reasons.
func caught(t *testing.T, err error, reasons ...string) {
	t.Helper()
	for _, r := range reasons {
		if err != nil && strings.Contains(err.Error(), r) {
			t.Logf("found: %.300v", err)
			return
		}
	}
	t.Errorf("the mistake was not found for any of %q, but: %v", reasons, err)
}

func TestWipedDataIsFound(t *testing.T) {
	t.Parallel()
	s := wrong(t)
	scenario := Scenario{"init runs again, and wipes", 1, func(p *Play) error {
		if err := p.pause(); err != nil {
			return err
		}
		p.env = []string{"WRONG=wipe"}
		return p.do(p.Nodes[0], p.Nodes[0].initArgs()...)
	}}
	_, err := s.Run(t.Context(), t.TempDir(), "3.7.3", scenario, Faults[0], 1)
	caught(t, err, "linearization", "did not see the last write", "no quorum")
	scenario.Play = func(p *Play) error { return p.pause() }
	if _, err := s.Run(t.Context(), t.TempDir(), "3.7.3", scenario, Faults[0], 1); err != nil {
		t.Errorf("without the mistake: %v", err)
	}
}

func TestOlderDataIsFound(t *testing.T) {
	t.Parallel()
	s := wrong(t)
	scenario := Scenario{"the disk is rolled back", 1, func(p *Play) error {
		n := p.Nodes[0]
		data, old := n.path("var/lib/etcd"), t.TempDir()+"/old"
		return p.until(p.pause,
			func() error { return n.down() },
			func() error { return os.CopyFS(old, os.DirFS(data)) },
			func() error { return p.do(n, n.initArgs()...) },
			p.pause,
			func() error { return n.down() },
			func() error { return os.RemoveAll(data) },
			func() error { return os.CopyFS(data, os.DirFS(old)) },
			func() error { return os.Chmod(data, 0o700) },
			func() error { return p.do(n, n.initArgs()...) },
			p.pause)
	}}
	fault := Faults[0]
	fault.disturbs = true // the test takes the member down itself
	_, err := s.Run(t.Context(), t.TempDir(), "3.7.3", scenario, fault, 1)
	caught(t, err, "linearization", "did not see the last write")
}

func TestRestartOfTwoAtOnceIsFound(t *testing.T) {
	t.Parallel()
	s := wrong(t)
	scenario := Scenario{"two members restart at once", 3, func(p *Play) error {
		if err := p.grow(3); err != nil {
			return err
		}
		p.env = []string{"WRONG=two", fmt.Sprint("WRONG_PID=", process.Supervisor(p.Nodes[1].root()))}
		if err := p.reconfigure(p.Nodes[2]); err != nil {
			return err
		}
		p.env = nil
		return p.do(p.Nodes[1], p.command(p.Nodes[1])...)
	}}
	_, err := s.Run(t.Context(), t.TempDir(), "3.7.3", scenario, Faults[0], 1)
	caught(t, err, "no quorum")
}

func TestAddingBeforeRemovingIsFound(t *testing.T) {
	t.Parallel()
	s := wrong(t)
	scenario := Scenario{"a dead member is replaced by a voter before it is removed", 3, func(p *Play) error {
		if err := p.grow(3); err != nil {
			return err
		}
		n := p.Nodes[2]
		if err := n.lose(); err != nil {
			return err
		}
		// Another address than that of the dead: as with a new machine.
		peer := "https://" + strings.TrimSuffix(n.Address, "3") + "33:2380"
		p.env = []string{"WRONG=add-first", "WRONG_DOOR=" + p.Nodes[0].door.Addr().String(), "WRONG_PEER=" + peer}
		p.set(p.Nodes[:2:2])
		if err := process.GiveCA(p.Nodes[0].root(), n.root()); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(p.ctx, patience)
		defer cancel()
		return n.must(ctx, append(n.joinArgs(p.Nodes[:2]...), "--timeout", "20s")...)
	}}
	_, err := s.Run(t.Context(), t.TempDir(), "3.7.3", scenario, Faults[0], 1)
	caught(t, err, "no quorum", "exit status", "takes no write")
}

// A loss of power takes what etcd was told not to sync: the lab has to lose it, and the judge to miss it.
func TestUnsyncedDataIsFound(t *testing.T) {
	t.Parallel()
	s := onHosts(t)
	s.Keep = t.TempDir()
	scenario := Scenario{"power is lost, and nothing is synced", 1, func(p *Play) error {
		n := p.Nodes[0]
		dropIn := n.path("etc/systemd/system/etcd.service.d/unsafe.conf")
		return p.until(
			func() error { return os.MkdirAll(filepath.Dir(dropIn), 0o755) },
			func() error {
				return os.WriteFile(dropIn, []byte("[Service]\nEnvironment=ETCD_UNSAFE_NO_FSYNC=true\n"), 0o644)
			},
			n.sync,
			func() error { return p.do(n, n.initArgs()...) },
			p.pause,
			func() error { p.powerOff(n); return nil },
			func() error { return p.do(n, n.initArgs()...) })
	}}
	fault := Faults[0]
	fault.disturbs = true // the test takes the power itself
	_, err := s.Run(t.Context(), t.TempDir(), "3.7.3", scenario, fault, 1)
	caught(t, err, "linearization", "did not see the last write", "exit status")
}
