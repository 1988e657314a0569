package kubelet_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"etcdadm/pkg/host"
	"etcdadm/test/kubelet"
	"etcdadm/test/process"
	"etcdadm/test/release"
)

func TestMain(m *testing.M) {
	kubelet.Container()
	process.Etcdadm(func() []host.Option { return []host.Option{host.Observe(killer())} })
	os.Exit(m.Run())
}

const current = "3.6.16"

// machine is a node whose etcd runs as a static pod.
type machine struct {
	*testing.T
	name, root, address, version string
	mirror                       release.Mirror
	pki                          string // below the kubelet's root
	*kubelet.Kubelet
}

var network = process.NewNetwork(86)

func newMachine(t *testing.T, name, version string) *machine {
	t.Helper()
	if err := kubelet.Possible(); err != nil {
		if os.Getenv("LAB") == "required" {
			t.Fatalf("containers cannot be made here: %v", err)
		}
		t.Skipf("containers cannot be made here: %v", err)
	}
	m := &machine{T: t, name: name, root: filepath.Join(t.TempDir(), name), address: network.Address(), version: version, mirror: release.Get(t), pki: "etc/etcd/pki"}
	m.Kubelet = &kubelet.Kubelet{Root: m.root, Manifests: filepath.Join(m.root, "etc/kubernetes/manifests"), Image: func(image string) (string, error) {
		tag, ok := strings.CutPrefix(image, "registry.example/etcd:")
		tag, _, _ = strings.Cut(tag, "-")
		dir := filepath.Join(string(m.mirror), tag, "bin")
		if _, err := os.Stat(dir); !ok || err != nil {
			return "", fmt.Errorf("the image %s cannot be pulled", image)
		}
		return dir, nil
	}}
	t.Cleanup(func() {
		if t.Failed() {
			m.show()
		}
	})
	return m
}

// up begins to read manifests, until the test ends.
func (m *machine) up() *machine {
	m.Start()
	m.Cleanup(m.Stop)
	return m
}

// show tells what a failed test may have had.
func (m *machine) show() {
	m.Logf("%s: kubelet: %q", m.name, m.Problems())
	logs, _ := filepath.Glob(filepath.Join(m.Root, "var/log/pods/*/etcd/*.log"))
	for _, l := range logs {
		data, _ := os.ReadFile(l)
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		m.Logf("%s:\n%s", l, strings.Join(lines[max(0, len(lines)-4):], "\n"))
	}
}

// arguments are those of a command on the machine. What a test says is stronger than what makes it this machine.
func (m *machine) arguments(args []string) []string {
	all := []string{"--root", m.root, "-o", "json", "--timeout", "4m"}
	words := slices.IndexFunc(append(slices.Clone(args), "-"), func(a string) bool { return strings.HasPrefix(a, "-") })
	all = append(all, args[:words]...)
	if args[0] == "init" || args[0] == "join" {
		all = append(all, "--name", m.name, "--bind-address", m.address, "--init-system", "kubelet", "--version", m.version, "--image-repository", "registry.example/etcd")
	}
	return append(all, args[words:]...)
}

// run runs etcdadm on the machine.
func (m *machine) run(args ...string) process.Result {
	m.Helper()
	r, err := process.Run(m.arguments(args))
	if err != nil {
		m.Fatal(err)
	}
	return r
}

// must wants a run to have succeeded.
func (m *machine) must(r process.Result) process.Result {
	m.Helper()
	if r.Status != 0 || r.Failed {
		m.Fatal(r)
	}
	return r
}

func (m *machine) url() string { return "https://" + m.address + ":2379" }

func (m *machine) giveCA(to *machine) {
	m.Helper()
	if err := process.GiveCA(m.root, to.root); err != nil {
		m.Fatal(err)
	}
}

// etcdctl runs the etcdctl of the mirror with the certificates of the machine.
func (m *machine) etcdctl(args ...string) string {
	m.Helper()
	pki := filepath.Join(m.Root, m.pki)
	out, err := process.Etcdctl(filepath.Join(string(m.mirror), "v"+m.version, "bin/etcdctl"), append([]string{
		"--endpoints", m.url(), "--cacert", filepath.Join(pki, "ca.crt"),
		"--cert", filepath.Join(pki, "etcdctl-etcd-client.crt"), "--key", filepath.Join(pki, "etcdctl-etcd-client.key"),
	}, args...)...)
	if err != nil {
		m.Fatal(err)
	}
	return out
}

// read returns a file of the machine.
func (m *machine) read(path string) string {
	m.Helper()
	data, err := os.ReadFile(filepath.Join(m.root, path))
	if err != nil {
		m.Fatal(err)
	}
	return string(data)
}

func (m *machine) manifest() string {
	m.Helper()
	return m.read("etc/kubernetes/manifests/etcd.manifest")
}

// sound wants the kubelet to have found fault with nothing, and to have started so many containers.
func (m *machine) sound(starts int) {
	m.Helper()
	if p := m.Problems(); len(p) > 0 {
		m.Errorf("%s: the kubelet found fault: %q", m.name, p)
	}
	if got := m.Starts(); got != starts {
		m.Errorf("%s: etcd was started %d times, want %d", m.name, got, starts)
	}
}

// ended wants the process of the container to have ended, at this moment, and none to come after it. One that dies has no
// arguments any more.
func (m *machine) ended(pid int) {
	m.Helper()
	if args, err := host.New("/", host.ReadOnly()).Args(pid); err == nil && args[0] != "" {
		m.Errorf("the pod of %s outlives the reset as process %d: %q", m.name, pid, args)
	}
	m.await("the kubelet to see that the pod has ended", func() bool { return m.PID() == 0 })
}

func (m *machine) await(what string, holds func() bool) {
	m.Helper()
	if err := process.Until(what, holds); err != nil {
		m.Fatal(err)
	}
}

func each(t *testing.T, story func(*testing.T, string)) {
	for _, v := range release.Versions {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			story(t, v)
		})
	}
}

func TestThreePodsMakeACluster(t *testing.T) {
	each(t, func(t *testing.T, version string) {
		a, b, c := newMachine(t, "a", version).up(), newMachine(t, "b", version).up(), newMachine(t, "c", version).up()
		a.must(a.run("init"))
		a.etcdctl("put", "color", "blue")
		for _, m := range []*machine{b, c} {
			a.giveCA(m)
			m.must(m.run("join", a.url()))
		}
		if list := c.etcdctl("member", "list"); strings.Count(list, ", started, ") != 3 || strings.Count(list, ", false") != 3 {
			t.Errorf("not three voters:\n%s", list)
		}
		for _, m := range []*machine{a, b, c} {
			if got := m.etcdctl("get", "--print-value-only", "color"); got != "blue" {
				t.Errorf("%s reads %q", m.name, got)
			}
			m.sound(1)
		}
		// Nothing is left to do, and nothing is started again.
		before := b.manifest()
		if r := b.must(b.run("join", a.url())); r.Changed || b.manifest() != before {
			t.Errorf("the second join changed something: %q", r.Changes())
		}
		b.sound(1)

		// A learner, a voter and a leader alike are let go.
		pid := b.PID()
		b.must(b.run("reset"))
		b.ended(pid)
		if list := c.etcdctl("member", "list"); strings.Count(list, "\n") != 1 {
			t.Errorf("the cluster still counts on b:\n%s", list)
		}
		left, _ := filepath.Glob(filepath.Join(b.root, "etc/kubernetes/manifests", "*"))
		hidden, _ := filepath.Glob(filepath.Join(b.root, "etc/kubernetes", ".*"))
		if left = append(left, hidden...); len(left) > 0 {
			t.Errorf("the reset left %q", left)
		}

		// Without the others there is no quorum, which is no reason to kill the one that is left.
		c.Stop()
		probed := a.Probed()
		a.await("probes without a quorum", func() bool { return a.Probed() > probed+12 })
		a.sound(1)
	})
}

func TestAChangedSettingRestartsThePodOnce(t *testing.T) {
	each(t, func(t *testing.T, version string) {
		m := newMachine(t, "m", version).up()
		m.must(m.run("init"))
		m.etcdctl("put", "color", "blue")
		if r := m.must(m.run("init")); r.Changed {
			t.Errorf("the second init changed something: %q", r.Changes())
		}
		m.sound(1)
		r := m.must(m.run("init", "--quota-backend-bytes", "1073741824"))
		if r.Step("start/running") != "changed" || !strings.Contains(m.manifest(), "- name: ETCD_QUOTA_BACKEND_BYTES\n      value: \"1073741824\"\n") {
			t.Errorf("the quota did not get to the pod: %q", r.Changes())
		}
		m.sound(2)
		if got := m.etcdctl("get", "--print-value-only", "color"); got != "blue" {
			t.Errorf("reads %q", got)
		}
		if r := m.must(m.run("init")); r.Changed {
			t.Errorf("the last init changed something: %q", r.Changes())
		}
		m.sound(2)
	})
}
