package robustness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"etcdadm/test/process"
)

// A judge that never says no proves nothing. These are the mistakes that it has to find.

// wrong builds the etcdadm that makes them.
func wrong(t *testing.T) Setup {
	t.Helper()
	s := setup
	s.Keep = t.TempDir()
	s.Within = gone
	s.Bin = t.TempDir() + "/wrong"
	if out, err := exec.Command("go", "build", "-tags=grpcnotrace", "-o", s.Bin, "./wrong").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return s
}

// gone is how long watchers are waited for that look for revisions which are not there any more.
const gone = 10 * time.Second

// caught fails the test unless a run was found to be wrong, for a reason.
func caught(t *testing.T, err error, reason string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), reason) {
		t.Fatalf("the mistake was not found for %q, but: %v", reason, err)
	}
	t.Logf("found: %.300v", err)
}

// convicted fails the test unless the model says that what the clients of a run saw cannot have happened. Nothing else will
// do: a run may also fail because a machine is busy, or a member does not start.
func convicted(t *testing.T, err error) {
	t.Helper()
	if v := new(Verdict); !errors.As(err, v) {
		t.Fatalf("the model has not found the mistake, but: %v", err)
	}
	t.Logf("found: %.300v", err)
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
	convicted(t, err)
	scenario.Play = func(p *Play) error { return p.pause() }
	s.Within = 0
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
	convicted(t, err)
}

func TestRestartOfTwoAtOnceIsFound(t *testing.T) {
	t.Parallel()
	s := wrong(t)
	s.Within = 0 // nothing is lost: the watchers have to see it all
	scenario := Scenario{"two members restart at once", 3, func(p *Play) error {
		if err := p.grow(3); err != nil {
			return err
		}
		p.env = []string{"WRONG=two", fmt.Sprint("WRONG_PID=", process.Supervisor(p.Nodes[1].root()))}
		n := p.Nodes[2]
		if err := p.configure(n); err != nil {
			return err
		}
		file, _ := n.beside(settings)
		// Without the risk etcdadm would wait for the other one.
		if err := p.do(n, append(p.command(n), "--config", file, "--accept-risk", "lose-quorum")...); err != nil {
			return err
		}
		p.env = nil
		return p.do(p.Nodes[1], p.command(p.Nodes[1])...)
	}}
	_, err := s.Run(t.Context(), t.TempDir(), "3.7.3", scenario, Faults[0], 1)
	caught(t, err, "members were away: no quorum")
}

func TestAddingBeforeRemovingIsFound(t *testing.T) {
	t.Parallel()
	s := wrong(t)
	scenario := Scenario{"a member is replaced by a voter that is added before the old one is removed", 4, func(p *Play) error {
		if err := p.grow(3); err != nil {
			return err
		}
		first, old, n := p.Nodes[0], p.Nodes[2], p.Nodes[3]
		// Nobody is at that address: as with a new machine that does not come up.
		peer := "https://" + strings.TrimSuffix(n.Address, "4") + "44:2380"
		p.env = []string{"WRONG=add-first", "WRONG_DOOR=" + first.door.Addr().String(), "WRONG_PEER=" + peer}
		if err := p.giveCA(n); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(p.ctx, patience)
		defer cancel()
		// The mistake comes before everything else, so the first phase is enough.
		if err := n.must(ctx, append([]string{"join", "phase", "preflight", first.url()}, n.settings()...)...); err != nil {
			return err
		}
		if err := knows(ctx, first, peer); err != nil {
			return err
		}
		p.set(p.Nodes[:2:2])
		return old.down()
	}}
	_, err := s.Run(t.Context(), t.TempDir(), "3.7.3", scenario, Faults[0], 1)
	caught(t, err, "takes no write at the end")
}

// knows wants a member to know of a voter with that peer URL, whether there is a quorum or not.
func knows(ctx context.Context, n *Node, peer string) error {
	c, err := talk(n)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	list, err := c.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return err
	}
	for _, m := range list.Members {
		if slices.Contains(m.PeerURLs, peer) && !m.IsLearner {
			return nil
		}
	}
	return fmt.Errorf("%s knows no voter at %s: %v", n.Name, peer, list.Members)
}

// A loss of power takes what etcd was told not to sync: the lab has to lose it, and the judge to miss it.
func TestUnsyncedDataIsFound(t *testing.T) {
	t.Parallel()
	s := onHosts(t)
	s.Keep = t.TempDir()
	s.Within = gone
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
			// Of the database some pages may have reached the disk, and etcd then not start on it. It makes it anew of its log,
			// which ends where it was not written.
			func() error {
				_, err := n.home.(*hosted).Exec("sh", "-ec", "systemctl stop etcd; rm /var/lib/etcd/member/snap/db; systemctl start etcd")
				return err
			},
			func() error { return p.do(n, n.initArgs()...) })
	}}
	fault := Faults[0]
	fault.disturbs = true // the test takes the power itself
	_, err := s.Run(t.Context(), t.TempDir(), "3.7.3", scenario, fault, 1)
	convicted(t, err)
}
