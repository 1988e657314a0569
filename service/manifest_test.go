package service

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"etcdadm/constants"
	"etcdadm/pkg/host"
)

var plainPod = Pod{
	Image: "registry.example:5000/etcd:v3.6.16", ManifestDir: "/etc/kubernetes/manifests", DataDir: "/var/lib/etcd", CertsDir: "/etc/etcd/pki",
	Listeners: ListenersOf(netip.MustParseAddr("10.0.0.7")),
}

func TestTheManifestIsAsReviewed(t *testing.T) {
	const golden = "testdata/etcd.manifest"
	env, err := settings("3.6.16").Environment(func(p string) string { return p })
	if err != nil {
		t.Fatal(err)
	}
	env = append(env, KV{constants.DigestVariable, "0123456789abcdef"}, KV{dataDirVariable, "/var/lib/etcd"})
	have := plainPod.Render(env)
	if *update {
		if err := os.WriteFile(golden, []byte(have), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), have); diff != "" {
		t.Error(diff)
	}
}

func decode(t *testing.T, text string) corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(text), &pod); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return pod
}

// What a kubelet reads is what was meant, for values that YAML, or a kubelet, would take for something else.
func TestEachValueInAManifestIsReadAsText(t *testing.T) {
	for value, plain := range map[string]bool{
		"infra1": true, "10-node": true, "https://10.0.0.7:2380,https://[::1]:2380": false, "https://10.0.0.7:2380": true, "/var/lib/etcd": true,
		"true": false, "No": false, "null": false, "y": false, "1e3": false, "0x1F": false, "12:30:45": false, "2026-01-02": false, "1_000": false, "0": false,
		"1.5": false, "1e+3": false, "1.5e3": false, "10.0.0.7": true, "3.6.16": true, "a: b": false, "a #b": false, "a:": false, "": false, "-a": false, "{a}": false, "*a": false, "&a": false, "~": false, `{"a":"<b>"}`: false,
		"$(ETCD_NAME)": false, "a$b$$c": false, "ä": false, "a=b,c=d": true, "@a": false, "5m0s": true, "TLS1.2": true,
	} {
		text := plainPod.Render([]KV{{"ETCD_NAME", "n"}, {"X", value}})
		env := decode(t, text).Spec.Containers[0].Env
		if want := strings.ReplaceAll(value, "$", "$$"); len(env) != 2 || env[1].Value != want {
			t.Errorf("%q is read as %q", value, env[1].Value)
		}
		if got := strings.Contains(text, "    - name: X\n      value: "+value+"\n"); got != plain {
			t.Errorf("%q stands there plain: %t", value, got)
		}
	}
}

func TestAManifestTellsItsVersion(t *testing.T) {
	h := host.New(t.TempDir())
	if got, err := PodVersion(h, "/m"); got != "" || err != nil {
		t.Errorf("no manifest: %q, %v", got, err)
	}
	for image, want := range map[string]string{
		"gcr.io/etcd-development/etcd:v3.6.16": "3.6.16", "r:5000/etcd:v3.5.8-eks-1-26-16": "3.5.8-eks-1-26-16", "r:5000/etcd": "", "0:v3.6.1": "3.6.1",
	} {
		p := plainPod
		p.Image = image
		write(t, h, "/m/etcd.manifest", p.Render(nil))
		if got, err := PodVersion(h, "/m"); got != want || err != nil {
			t.Errorf("%s: %q, %v", image, got, err)
		}
	}
}

// A pod that has started once would start again for a manifest without the settings of that first start.
func TestAManifestStaysWhenTheFirstStartIsOver(t *testing.T) {
	h := host.New(t.TempDir())
	k := NewKubelet(h, plainPod).(*kubelet)
	write(t, h, constants.EnvFile, "ETCD_NAME=a\nETCD_INITIAL_CLUSTER_STATE=existing\nETCDADM_DIGEST=d\n")
	write(t, h, constants.BootstrapFile, "ETCD_INITIAL_CLUSTER=a=https://10.0.0.7:2380\nETCD_INITIAL_CLUSTER_STATE=new\nETCD_INITIAL_CLUSTER_TOKEN=t\n")
	hold(t, k.Running("d"))
	read := func() string {
		data, err := h.ReadFile(plainPod.manifest())
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	first := read()
	env := map[string]string{}
	for _, e := range decode(t, first).Spec.Containers[0].Env {
		env[e.Name] = e.Value
	}
	if diff := cmp.Diff(map[string]string{
		"ETCD_NAME": "a", "ETCD_INITIAL_CLUSTER_STATE": "new", "ETCDADM_DIGEST": "d", "ETCD_DATA_DIR": "/var/lib/etcd",
		"ETCD_INITIAL_CLUSTER": "a=https://10.0.0.7:2380", "ETCD_INITIAL_CLUSTER_TOKEN": "t",
	}, env); diff != "" {
		t.Error(diff)
	}
	write(t, h, "/var/lib/etcd/member/wal/0.wal", "")
	if err := h.Remove(constants.BootstrapFile); err != nil {
		t.Fatal(err)
	}
	if got := gapOf(t, k.Running("d")); got != "" {
		t.Errorf("gap %q", got)
	}
	// The next change takes them out.
	write(t, h, constants.EnvFile, "ETCD_NAME=a\nETCD_INITIAL_CLUSTER_STATE=existing\nGOGC=50\nETCDADM_DIGEST=e\n")
	hold(t, k.Running("e"))
	if next := read(); strings.Contains(next, "ETCD_INITIAL_CLUSTER\n") || strings.Contains(next, "TOKEN") || !strings.Contains(next, "value: existing\n") {
		t.Errorf("the next manifest tells of the first start:\n%s", next)
	}
	info, err := h.Stat(plainPod.manifest())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestAPodWithoutDataIsNotStarted(t *testing.T) {
	h := host.New(t.TempDir())
	k := NewKubelet(h, plainPod).(*kubelet)
	write(t, h, constants.EnvFile, "ETCD_NAME=a\nETCDADM_DIGEST=d\n")
	if err := k.Running("d").Apply(t.Context()); err == nil || !strings.Contains(err.Error(), "this member has lost its data") {
		t.Errorf("error %v", err)
	}
	if there, _ := h.Exists(plainPod.manifest()); there {
		t.Error("there is a manifest")
	}
	write(t, h, "/var/lib/etcd/member/wal/0.wal", "")
	if err := os.Mkdir(filepath.Join(h.Root(), plainPod.guard()), 0o755); err != nil { // as container runtimes make it
		t.Fatal(err)
	}
	hold(t, k.Running("d"))
	if info, err := h.Stat(plainPod.guard()); err != nil || !info.Mode().IsRegular() {
		t.Errorf("%v, %v", info, err)
	}
}

// The output of pods is found by the manifest that made them.
func TestTheLogIsThatOfThePresentPod(t *testing.T) {
	h := host.New(t.TempDir())
	k := NewKubelet(h, plainPod).(*kubelet)
	line := func(text string) string { return "2026-11-21T23:00:00.1Z stderr F " + text + "\n" }
	log := func(pod, name, text string, age time.Duration) {
		p := "/var/log/pods/" + pod + "/etcd/" + name
		write(t, h, p, text)
		at := time.Now().Add(-age)
		if err := os.Chtimes(h.Path(p), at, at); err != nil {
			t.Fatal(err)
		}
	}
	log("kube-system_etcd-node_old", "7.log", line(`{"level":"fatal","msg":"an old one"}`), time.Hour)
	log("kube-system_kube-apiserver-node_x", "9.log", line(`{"level":"fatal","msg":"another one"}`), 0)
	write(t, h, plainPod.manifest(), "")
	at := time.Now().Add(-time.Minute)
	if err := os.Chtimes(h.Path(plainPod.manifest()), at, at); err != nil {
		t.Fatal(err)
	}
	state := func() State {
		s, err := k.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := state(); s != (State{}) {
		t.Errorf("before its first start: %+v", s)
	}
	log("kube-system_etcd-node_new", "0.log", line("first")+"2026-11-21T23:00:00.1Z stderr P {\"level\":\"fatal\",\n"+line(`"msg":"cannot","error":"do"}`), time.Second)
	if s := state(); s.LastExit != "cannot: do" || s.Restarts != 0 {
		t.Errorf("after a fatal end: %+v", s)
	}
	log("kube-system_etcd-node_new", "10.log", line(`{"level":"info","msg":"starting"}`), 0)
	if s := state(); s.Restarts != 10 || s.LastExit != "it has ended 10 times" {
		t.Errorf("after many ends: %+v", s)
	}
	if lines, err := k.Logs(2); err != nil || len(lines) != 2 || lines[1] != `{"level":"info","msg":"starting"}` {
		t.Errorf("%q, %v", lines, err)
	}
	log("kube-system_etcd-node_new", "11.log", line(`{"level":"warn","msg":"`+removedWords+`"}`), 0)
	if s := state(); !s.Removed {
		t.Errorf("after a removal: %+v", s)
	}
}
