package service

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"etcdadm/constants"
	"etcdadm/pkg/host"
)

func TestEtcdctlEnvKeepsWhatUsersAdd(t *testing.T) {
	h := host.New(t.TempDir())
	e := EtcdctlEnv{Host: h, CertsDir: "/etc/etcd/pki", BindAddress: netip.MustParseAddr("10.0.0.7"), PathFor: same}
	hold(t, e)
	const ours = `# Settings of etcdctl for this node, for shells. Lines that you add stay.
export ETCDCTL_CACERT=/etc/etcd/pki/ca.crt
export ETCDCTL_CERT=/etc/etcd/pki/etcdctl-etcd-client.crt
export ETCDCTL_KEY=/etc/etcd/pki/etcdctl-etcd-client.key
export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379
export ETCDCTL_DIAL_TIMEOUT=3s
`
	read := func() string {
		data, err := h.ReadFile(constants.EtcdctlEnvFile)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if got := read(); got != ours {
		t.Errorf("got %q", got)
	}
	const users = "export ETCDCTL_WRITE_OUT=table\nexport ETCDCTL_ENDPOINTS=https://10.0.0.8:2379\n  # mine"
	write(t, h, constants.EtcdctlEnvFile, ours+users)
	e.BindAddress = netip.MustParseAddr("fd00::7")
	if got := gapOf(t, e); got == "" {
		t.Error("another endpoint is no gap")
	}
	hold(t, e)
	if want := strings.Replace(ours, "https://127.0.0.1:2379", "'https://[::1]:2379'", 1) + users + "\n"; read() != want {
		t.Errorf("got %q, want %q", read(), want)
	}
	write(t, h, constants.EtcdctlEnvFile, "export ETCDCTL_DIAL_TIMEOUT=9s\n"+users+"\n")
	hold(t, e)
	if got := read(); !strings.HasPrefix(got, "export ETCDCTL_DIAL_TIMEOUT=3s\n"+strings.Replace(users, "https://10.0.0.8:2379", "'https://[::1]:2379'", 1)) {
		t.Errorf("got %q", got)
	}
}

func TestWrapperWorksFromOutsideOfTheRoot(t *testing.T) {
	root := filepath.Join(t.TempDir(), "it's a root")
	h := host.New(root)
	write(t, h, constants.EtcdctlEnvFile, "export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379\n")
	if err := h.WriteFile("/opt/bin/etcdctl", []byte("#!/bin/sh\necho \"$ETCDCTL_ENDPOINTS\"; printf '<%s>' \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	hold(t, EtcdctlWrapper(h, "/opt/bin", h.Path))
	cmd := exec.Command(filepath.Join(root, "opt/bin/etcdctl.sh"), "put", "a b", "$HOME", "")
	cmd.Dir, cmd.Env = os.TempDir(), []string{"PATH=/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if want := "https://127.0.0.1:2379\n<put><a b><$HOME><>"; err != nil || string(out) != want {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}
