package kubelet_test

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"etcdadm/test/process"
)

// bootstrap calls etcdadm as the bootstrap container of EKS Anywhere does on Bottlerocket: phase by phase, in a container
// of its own in which /var/lib/etcd leads to the host's, with a relative directory that no kubelet reads, and then hands
// the manifest to the host.
type bootstrap struct {
	*machine
	hostPods string
	version  string
	proxied  *atomic.Int32 // connections to a proxy that nothing but etcdadm knows
}

func newBootstrap(t *testing.T, name string) bootstrap {
	m := newMachine(t, name, "3.5.35")
	hostRoot := filepath.Join(m.root, ".bottlerocket/rootfs")
	b := bootstrap{machine: m, hostPods: filepath.Join(hostRoot, "etc/kubernetes/static-pods"), version: "v3.5.35-eks-1-31-4", proxied: new(atomic.Int32)}
	for _, dir := range []string{"manifests", ".bottlerocket/rootfs/var/lib/etcd/data", ".bottlerocket/rootfs/var/lib/etcd/pki", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(m.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"data", "pki", "."} { // the caller makes them so
		if err := os.Chmod(filepath.Join(hostRoot, "var/lib/etcd", dir), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/.bottlerocket/rootfs/var/lib/etcd", filepath.Join(m.root, "var/lib/etcd")); err != nil {
		t.Fatal(err)
	}
	m.Kubelet.Root, m.Manifests = hostRoot, b.hostPods
	m.pki = "var/lib/etcd/pki"
	m.up()
	return b
}

// phases runs phases one after the other, each with all flags, and no program on the PATH.
func (b bootstrap) phases(command string, argument []string, names ...string) {
	b.Helper()
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer proxy.Close()
	go func() {
		for {
			c, err := proxy.Accept()
			if err != nil {
				return
			}
			b.proxied.Add(1)
			_ = c.Close()
		}
	}()
	for _, name := range names {
		args := append([]string{command, "phase", name}, argument...)
		args = append(args, "-l", "debug", "--version", b.version, "--init-system", "kubelet", "--image-repository", "registry.example/etcd",
			"--certs-dir", "/var/lib/etcd/pki", "--data-dir", "/var/lib/etcd/data", "--kubelet-pod-manifest-path", "./manifests",
			"--cipher-suites", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
			"--root", b.root, "--name", b.name, "--bind-address", b.address)
		r, err := process.RunIn(b.root, args, "PATH=/nowhere", "HTTPS_PROXY=http://"+proxy.Addr().String(), "HTTP_PROXY=http://"+proxy.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		b.must(r)
	}
}

// enable hands the manifests to the host, and waits for their liveness probes, as the caller does.
func (b bootstrap) enable() {
	b.Helper()
	entries, err := os.ReadDir(filepath.Join(b.root, "manifests"))
	if err != nil || len(entries) != 1 {
		b.Fatalf("the manifests are %v, %v", entries, err)
	}
	text, err := os.ReadFile(filepath.Join(b.root, "manifests", entries[0].Name()))
	if err != nil {
		b.Fatal(err)
	}
	var pod corev1.Pod
	if err := yaml.Unmarshal(text, &pod); err != nil {
		b.Fatal(err)
	}
	temporary := filepath.Join(filepath.Dir(b.hostPods), "etcd")
	for _, err := range []error{os.MkdirAll(b.hostPods, 0o755), os.WriteFile(temporary, text, 0o600), os.Rename(temporary, filepath.Join(b.hostPods, "etcd"))} {
		if err != nil {
			b.Fatal(err)
		}
	}
	get := pod.Spec.Containers[0].LivenessProbe.HTTPGet
	url := string(get.Scheme) + "://" + get.Host + ":" + get.Port.String() + get.Path // as the caller makes it
	b.await("200 of "+url, func() bool {
		resp, err := http.Get(url)
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// The phases as processes of their own, in the order in which the bootstrap of Bottlerocket calls them.
func TestContract11BootstrapOfBottlerocket(t *testing.T) {
	t.Parallel()
	a, b := newBootstrap(t, "a"), newBootstrap(t, "b")
	a.phases("init", nil, "install", "certificates", "snapshot", "configure", "start")
	if a.Starts() != 0 {
		t.Error("the pod was started before it was enabled")
	}
	a.enable()
	a.phases("init", nil, "health")
	a.etcdctl("put", "color", "blue")

	b.giveFrom(a)
	url := []string{a.url() + ",https://127.86.255.254:2379"}
	b.phases("join", url, "stop", "certificates", "membership", "install", "configure", "start")
	b.enable()
	b.phases("join", url, "health")
	if list := b.etcdctl("member", "list"); strings.Count(list, ", started, ") != 2 || strings.Count(list, ", false") != 2 {
		t.Errorf("not two voters:\n%s", list)
	}
	for _, m := range []bootstrap{a, b} {
		m.sound(1)
		if n := m.proxied.Load(); n != 0 {
			t.Errorf("%s: %d connections were made to a proxy", m.name, n)
		}
		if !strings.Contains(m.read("manifests/etcd.manifest"), "image: registry.example/etcd:v3.5.35-eks-1-31-4\n") {
			t.Errorf("%s: the image is another one", m.name)
		}
		// All phases again, as a bootstrap container does that was killed: nothing is started again.
		m.enable()
	}
	a.phases("init", nil, "install", "certificates", "snapshot", "configure", "start", "health")
	b.phases("join", url, "stop", "certificates", "membership", "install", "configure", "start", "health")
	a.enable()
	b.enable()
	a.phases("init", nil, "health")
	a.sound(1)
	b.sound(1)
	if got := b.etcdctl("get", "--print-value-only", "color"); got != "blue" {
		t.Errorf("reads %q", got)
	}
}

// giveFrom brings the CA of another machine, into the directory that the caller has for it.
func (b bootstrap) giveFrom(a bootstrap) {
	b.Helper()
	for _, f := range []string{"ca.crt", "ca.key"} {
		if err := os.WriteFile(filepath.Join(b.Kubelet.Root, "var/lib/etcd/pki", f), []byte(a.read(".bottlerocket/rootfs/var/lib/etcd/pki/"+f)), 0o600); err != nil {
			b.Fatal(err)
		}
	}
}
