package api

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
)

// Default < stored < file < environment < flag, for each setting on its own.
func TestMergePrecedence(t *testing.T) {
	layer := func(o Origin, kv ...string) Layer {
		l := Layer{Origin: o}
		for i := 0; i < len(kv); i += 2 {
			if err := l.Put(byKey(kv[i]), kv[i+1]); err != nil {
				t.Fatal(err)
			}
		}
		return l
	}
	c, origins := Merge(
		layer(FromStored, "name", "stored", "version", "3.5.1", "dataDir", "/stored", "certsDir", "/stored", "cipherSuites", "A,B"),
		layer(FromFile, "name", "file", "version", "3.5.2", "dataDir", "/file", "cipherSuites", ""),
		layer(FromEnvironment, "name", "env", "version", "3.5.3"),
		layer(FromFlag, "name", "flag"),
	)
	for key, want := range map[string]struct {
		value  string
		origin Origin
	}{
		"name": {"flag", FromFlag}, "version": {"3.5.3", FromEnvironment}, "dataDir": {"/file", FromFile}, "certsDir": {"/stored", FromStored},
		"cipherSuites": {"", FromFile}, "initSystem": {"", FromDefault},
	} {
		if got := strings.Join(byKey(key).Get(c), ","); got != want.value || origins[key] != want.origin {
			t.Errorf("%s: %q from %s, want %q from %s", key, got, origins[key], want.value, want.origin)
		}
	}
	if len(origins) != len(Settings) {
		t.Errorf("%d origins for %d settings", len(origins), len(Settings))
	}
}

func TestEnvironment(t *testing.T) {
	l, err := Environment([]string{
		"PATH=/bin", "ETCDADM_NAME=etcd-1", "ETCDADM_CIPHER_SUITES=A, B,", "ETCDADM_DISK_PRIORITIES=CPUAffinity=0,1\nNice=-5",
		"ETCDADM_VERSION=", "ETCDADM_DIGEST=x", "ETCDADM_CACHE=x", "ETCDADM_ELSEWHERE=x",
	}, "ETCDADM_ELSEWHERE")
	if err != nil {
		t.Fatal(err)
	}
	c := l.Config
	if c.Name != "etcd-1" || !slices.Equal(c.CipherSuites, []string{"A", "B"}) || !slices.Equal(c.DiskPriorities, []string{"CPUAffinity=0,1", "Nice=-5"}) || l.Set["version"] {
		t.Errorf("%+v", l)
	}
	for in, want := range map[string]string{
		"ETCDADM_NAEM=x":                         "unknown environment variable ETCDADM_NAEM; did you mean ETCDADM_NAME?",
		"ETCDADM_SOMETHING_ELSE_ALTOGETHER=x":    "unknown environment variable ETCDADM_SOMETHING_ELSE_ALTOGETHER",
		"ETCDADM_QUOTA_BACKEND_BYTES=8G":         `environment variable ETCDADM_QUOTA_BACKEND_BYTES: "8G" is not a number such as 8589934592`,
		"ETCDADM_DOWNLOAD_CONNECT_TIMEOUT=10sec": `environment variable ETCDADM_DOWNLOAD_CONNECT_TIMEOUT: "10sec" is not a duration such as 10s or 1m30s`,
	} {
		if _, err := Environment([]string{in}); err == nil || err.Error() != want || errs.StatusOf(err) != errs.Usage {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
}

// Every field of Config is one setting, in the same order and under the same key: the file, the flags, the environment and
// the documentation cannot drift apart.
func TestSettingsCoverConfig(t *testing.T) {
	typ := reflect.TypeFor[Config]()
	var keys []string
	for f := range typ.Fields() {
		yaml, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		json, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if yaml != json {
			t.Errorf("%s is %q in YAML and %q in JSON", f.Name, yaml, json)
		}
		keys = append(keys, yaml)
	}
	want := []string{"apiVersion", "kind"}
	filled := full()
	for i, s := range Settings {
		want = append(want, s.Key)
		if s.Usage == "" || s.Default == "" || s.field(&filled) != reflect.ValueOf(&filled).Elem().Field(i+2).Addr().Interface() {
			t.Errorf("setting %s is incomplete, or means another field", s.Key)
		}
		if kebab := strings.ReplaceAll(s.Flag, "-", ""); s.Flag != "" && kebab != strings.ToLower(s.Key) {
			t.Errorf("the flag --%s does not spell %s", s.Flag, s.Key)
		}
		var c Config
		if err := s.Set(&c, s.Get(filled)...); err != nil || !slices.Equal(s.Get(c), s.Get(filled)) {
			t.Errorf("%s: %q became %q, %v", s.Key, s.Get(filled), s.Get(c), err)
		}
	}
	if !slices.Equal(keys, want) {
		t.Errorf("fields   %v\nsettings %v", keys, want)
	}
}

// The flags that callers of the retired etcdadm use, by command.
func TestFlagsOfCallers(t *testing.T) {
	for command, flags := range map[string]string{
		"init":     "name version release-url certs-dir bind-address server-cert-extra-sans install-dir download-connect-timeout disk-priorities init-system image-repository data-dir kubelet-pod-manifest-path cipher-suites",
		"join":     "name version release-url certs-dir bind-address server-cert-extra-sans install-dir download-connect-timeout disk-priorities init-system image-repository data-dir kubelet-pod-manifest-path cipher-suites",
		"reset":    "certs-dir install-dir init-system data-dir",
		"download": "version release-url download-connect-timeout",
	} {
		var have []string
		for _, s := range For(command) {
			have = append(have, s.Flag)
		}
		for flag := range strings.FieldsSeq(flags) {
			if !slices.Contains(have, flag) {
				t.Errorf("%s has no --%s", command, flag)
			}
		}
	}
}

func TestDefault(t *testing.T) {
	c := Config{Version: "v3.5.8-eks-1-26-16", InstallDir: "/opt/bin/", DataDir: "/", BindAddress: "FD00:0::1", KubeletPodManifestPath: "manifests"}
	Default(&c, Facts{Hostname: "h", Address: netip.MustParseAddr("10.0.0.1"), WorkDir: "/srv"})
	if c.Version != "3.5.8-eks-1-26-16" || c.InstallDir != "/opt/bin" || c.DataDir != "/" || c.BindAddress != "fd00::1" || c.KubeletPodManifestPath != "/srv/manifests" || c.Name != "h" {
		t.Errorf("%+v", c)
	}
	if got := c.PeerURL() + " " + c.ClientURL(); got != "https://[fd00::1]:2380 https://[fd00::1]:2379" {
		t.Error(got)
	}
	var d Config
	Default(&d, Facts{})
	if d.Version != constants.DefaultVersion || d.BindAddress != "" {
		t.Errorf("%+v", d)
	}
}
