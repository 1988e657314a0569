package service

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
)

// hold brings a resource about, and proves that it then holds and that a second run does nothing.
func hold(t *testing.T, r converge.Resource) {
	t.Helper()
	if err := r.Apply(t.Context()); err != nil {
		t.Fatalf("Apply: %v", err)
	}
	if d, err := r.Check(t.Context()); err != nil || len(d) > 0 {
		t.Fatalf("Check after Apply: %v, %v", d, err)
	}
}

func gapOf(t *testing.T, r converge.Checker) string {
	t.Helper()
	d, err := r.Check(t.Context())
	if err != nil {
		t.Fatalf("Check: %v", err)
	}
	return d.String()
}

func write(t *testing.T, h *host.Host, path, data string) {
	t.Helper()
	if err := h.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestParseEnvIsStrict(t *testing.T) {
	for _, c := range []struct{ in, bad string }{
		{"A=1\n# B=2\n; C=3\n\nD=x=y # z\n", ""},
		{`J={"a":"b"}`, ""},
		{"E=\n", ""},
		{"A", "line 1 is not of the form KEY=value"},
		{"# x\n A=1", `line 2: " A" is not the name`},
		{"A =1", `"A " is not the name`},
		{"1A=1", `"1A" is not the name`},
		{"A=1\nA=2", "line 2: A is set twice"},
		{"A= 1", "begins or ends with a blank"},
		{"A=1 ", "begins or ends with a blank"},
		{"A=1\r\n", "control character"},
		{"A=\x00", "control character"},
		{`A="1"`, "begins with a quote"},
		{`A='1'`, "begins with a quote"},
		{`A=a\b`, "backslash"},
		{"A=\xff", "not UTF-8"},
	} {
		_, err := ParseEnv([]byte(c.in))
		if got := text(err); c.bad == "" && got != "" || !strings.Contains(got, c.bad) {
			t.Errorf("%q: error %q, want %q", c.in, got, c.bad)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func FuzzParseEnv(f *testing.F) {
	f.Add([]byte("# c\nETCD_NAME=a\nX={\"a\":1}\n"))
	f.Add([]byte("A=1\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		kvs, err := ParseEnv(data)
		if err != nil {
			return
		}
		again, err := ParseEnv(renderEnv("#", kvs))
		if err != nil || !slices.Equal(kvs, again) {
			t.Errorf("%q: %q becomes %q (%v)", data, kvs, again, err)
		}
	})
}

func TestEnvFileCarriesItsDigestAndNamesWhatDiffers(t *testing.T) {
	h := host.New(t.TempDir())
	e := EnvFile{Host: h, Environment: []KV{{"ETCD_NAME", "a"}, {"ETCD_LOGGER", "zap"}}, Digest: "d1"}
	if got := gapOf(t, e); !strings.Contains(got, "absent") {
		t.Errorf("gap %q, want absent", got)
	}
	hold(t, e)
	kvs, err := readEnv(h, constants.EnvFile)
	if want := append(e.Environment, KV{constants.DigestVariable, "d1"}); err != nil || !slices.Equal(kvs, want) {
		t.Errorf("reads %q, %v; want %q", kvs, err, want)
	}
	e.Environment = []KV{{"ETCD_NAME", "secret"}, {"ETCD_METRICS", "basic"}}
	e.Digest = "d2"
	want := "/etc/etcd/etcd.env: other ETCD_NAME, ETCD_METRICS, ETCD_LOGGER, want written"
	if got := gapOf(t, e); got != want {
		t.Errorf("gap %q, want %q", got, want)
	}
	hold(t, e)
}

func TestEnvFileSurvivesDeathAtEveryAct(t *testing.T) {
	for n := 1; ; n++ {
		root := t.TempDir()
		old := EnvFile{Host: host.New(root), Environment: []KV{{"A", "1"}}, Digest: "old"}
		hold(t, old)
		next := EnvFile{Host: dyingHost(root, n), Environment: []KV{{"A", "2"}}, Digest: "new"}
		died := diesIn(func() { _ = next.Apply(context.Background()) })
		data, err := os.ReadFile(filepath.Join(root, constants.EnvFile))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, RenderEnv(old.Environment, old.Digest)) && !bytes.Equal(data, RenderEnv(next.Environment, next.Digest)) {
			t.Errorf("killed before act %d: the file is neither the old one nor the new one: %q", n, data)
		}
		next.Host = host.New(root)
		hold(t, next)
		if entries, _ := os.ReadDir(filepath.Join(root, constants.EtcdDir)); len(entries) != 1 {
			t.Errorf("killed before act %d: left over: %v", n, entries)
		}
		if !died {
			if n < 3 {
				t.Errorf("only %d acts were seen", n-1)
			}
			return
		}
	}
}

type death struct{}

// dyingHost panics before its nth act.
func dyingHost(root string, n int) *host.Host {
	return host.New(root, host.Observe(func(string) {
		if n--; n == 0 {
			panic(death{})
		}
	}))
}

func diesIn(f func()) (died bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(death); !ok {
				panic(r)
			}
			died = true
		}
	}()
	f()
	return false
}

func TestDigestTellsDefinitionsApart(t *testing.T) {
	base := Definition{Service: "etcd", Environment: []KV{{"A", "1"}, {"B", "2"}}, CA: []byte("ca"), Binary: "/opt/bin/.etcdadm/v3.6.14/etcd"}
	same := base
	same.Environment = slices.Clone(base.Environment)
	if base.Digest() != same.Digest() || len(base.Digest()) != 64 {
		t.Errorf("digests of the same definition: %s, %s", base.Digest(), same.Digest())
	}
	seen := map[string]string{base.Digest(): "the base"}
	for what, change := range map[string]func(*Definition){
		"service":  func(d *Definition) { d.Service = "etcd --data-dir /x" },
		"value":    func(d *Definition) { d.Environment = []KV{{"A", "1"}, {"B", "3"}} },
		"variable": func(d *Definition) { d.Environment = []KV{{"A", "1"}} },
		"boundary": func(d *Definition) { d.Environment = []KV{{"A", "1B=2"}} },
		"CA":       func(d *Definition) { d.CA = []byte("cb") },
		"binary":   func(d *Definition) { d.Binary = "/opt/bin/.etcdadm/v3.6.16/etcd" },
		"moved":    func(d *Definition) { d.Service, d.Binary = d.Service+d.Binary, "" },
	} {
		d := base
		change(&d)
		if other := seen[d.Digest()]; other != "" {
			t.Errorf("%s and %s have the same digest", what, other)
		}
		seen[d.Digest()] = what
	}
}

func TestBootstrapKeepsItsToken(t *testing.T) {
	h := host.New(t.TempDir())
	f := BootstrapFile{h, Bootstrap{InitialCluster: "a=https://10.0.0.1:2380", State: "new"}}
	hold(t, f)
	read := func() Bootstrap {
		data, err := h.ReadFile(constants.BootstrapFile)
		if err != nil {
			t.Fatal(err)
		}
		b, err := ParseBootstrap(data)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	first := read().Token
	if len(first) != 32 {
		t.Errorf("token %q, want 128 bits in hex", first)
	}
	f.Want.Token, _ = NewToken()
	if got := gapOf(t, f); got != "" {
		t.Errorf("another token of the same new cluster is a gap: %s", got)
	}
	for what, change := range map[string]func(*Bootstrap){
		"another initial cluster": func(b *Bootstrap) { b.InitialCluster = "a=https://10.0.0.2:2380" },
		"state new":               func(b *Bootstrap) { b.State, b.Token = "existing", "" },
	} {
		g := f
		change(&g.Want)
		if got := gapOf(t, g); !strings.Contains(got, what) {
			t.Errorf("gap %q, want %q", got, what)
		}
	}
	joining := BootstrapFile{h, Bootstrap{InitialCluster: "b=https://[fd00::2]:2380,a=https://10.0.0.1:2380", State: "existing"}}
	hold(t, joining)
	if diff := cmp.Diff(joining.Want, read()); diff != "" {
		t.Error(diff)
	}
	joining.Want.InitialCluster = "a=https://10.0.0.1:2380,b=https://[fd00::2]:2380"
	if got := gapOf(t, joining); got != "" {
		t.Errorf("the order of members is a gap: %s", got)
	}
	for _, bad := range []string{"", "=https://10.0.0.1:2380", "a", "a=", "a=10.0.0.1:2380", "a=https://10.0.0.1:2380,"} {
		if err := (BootstrapFile{h, Bootstrap{InitialCluster: bad, State: "existing"}}).Apply(t.Context()); err == nil {
			t.Errorf("initial cluster %q was written", bad)
		}
	}
	write(t, h, constants.BootstrapFile, "nonsense")
	if got := gapOf(t, joining); got == "" {
		t.Error("a broken file is no gap")
	}
}
