package api

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"etcdadm/pkg/errs"
)

const header = "apiVersion: etcdadm/v1\nkind: Config\n"

// One error line for each kind of bad file: it names the file, the line and the nearest thing that would be right.
func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"unknown key", header + "nmae: x\n", `f.yaml:3: unknown key "nmae"; did you mean "name"?`},
		{"key in another case", header + "\nciphersuites: []\n", `f.yaml:4: unknown key "ciphersuites"; did you mean "cipherSuites"?`},
		{"key like no other", header + "spec: {}\n", `f.yaml:3: unknown key "spec"`},
		{"duplicate key", header + "name: a\nversion: 3.6.14\nname: b\n", `f.yaml:5: duplicate key "name"; it stands in line 3 already`},
		{"duplicate variable", header + "extraEnv:\n  GOGC: 1\n  GOGC: 2\n", `f.yaml:5: duplicate key "GOGC"; it stands in line 4 already`},
		{"another version", "apiVersion: etcdadm/v2\nfuture: x\n", `f.yaml:1: apiVersion is "etcdadm/v2", not "etcdadm/v1"`},
		{"another kind", "apiVersion: etcdadm/v1\nkind: Cluster\n", `f.yaml:2: kind is "Cluster", not "Config"`},
		{"no version", "name: x\n", `f.yaml:1: apiVersion is missing`},
		{"no kind", "apiVersion: etcdadm/v1\nname: x\n", `f.yaml:1: kind is missing`},
		{"empty value", header + "name:\n", `f.yaml:3: name is empty, not text`},
		{"null", header + "name: ~\n", `f.yaml:3: name is empty, not text`},
		{"list for text", header + "name: [a]\n", `f.yaml:3: name is a list, not text`},
		{"text for a list", header + "cipherSuites: A\n", `f.yaml:3: cipherSuites is "A", not a list`},
		{"mapping in a list", header + "diskPriorities:\n  - Nice: -10\n", `f.yaml:4: diskPriorities: an item is a mapping, not text`},
		{"list for a mapping", header + "extraEnv: [A=1]\n", `f.yaml:3: extraEnv is a list, not a mapping of keys to values`},
		{"no unit", header + "downloadConnectTimeout: 10\n", `f.yaml:3: downloadConnectTimeout: "10" is not a duration such as 10s or 1m30s`},
		{"no number", header + "quotaBackendBytes: 8GiB\n", `f.yaml:3: quotaBackendBytes: "8GiB" is not a number such as 8589934592`},
		{"too large a number", header + "quotaBackendBytes: 99999999999999999999\n", `f.yaml:3: quotaBackendBytes: 99999999999999999999 does not fit into 64 bits`},
		{"anchor", header + "name: &a b\n", `f.yaml:3: name is an anchor or alias, not text`},
		{"tag", header + "name: !!str b\n", `f.yaml:3: name is a tagged value, not text`},
		{"merge key", header + "<<: {}\n", `f.yaml:3: a key is a construct of YAML that is not supported here, not text`},
		{"two documents", header + "---\nname: x\n", `f.yaml:4: a second document begins here; a configuration file has one`},
		{"a list", "[1, 2]\n", `f.yaml:1: the configuration is a list, not a mapping of keys to values`},
		{"text", "hello\n", `f.yaml:1: the configuration is "hello", not a mapping of keys to values`},
		{"broken YAML", header + "name: [\n", `f.yaml:3: sequence end token ']' not found`},
		{"binary", "\xff\xfe\x00", `f.yaml is not a text file in UTF-8`},
		{"too large", strings.Repeat("# comment\n", 10_000), `f.yaml has 100000 bytes; a configuration file has at most 65536`},
		{"too deep in a line", strings.Repeat("[", 1000), `f.yaml is nested too deep for a configuration file`},
		{"too deep over lines", strings.Repeat("{a:\n", 1000), `f.yaml is nested too deep for a configuration file`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse(FromFile, "f.yaml", []byte(c.in))
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if errs.StatusOf(err) != errs.Usage {
				t.Errorf("status %d, want %d", errs.StatusOf(err), errs.Usage)
			}
		})
	}
}

// What is written is what is meant: no text becomes a truth value or another number.
func TestParseKeepsText(t *testing.T) {
	for in, want := range map[string]string{
		"no": "no", "true": "true", "3.60": "3.60", "007": "007", "0x1F": "0x1F", "1e3": "1e3", "1_000": "1_000", "12:30": "12:30",
		".inf": ".inf", "2026-01-01": "2026-01-01", `"null"`: "null", "'a: b'": "a: b", "|-\n  x": "x", `"\u00e9"`: "é", `""`: "",
	} {
		l, err := Parse(FromFile, "f.yaml", []byte(header+"name: "+in+"\n"))
		if err != nil || l.Config.Name != want || !l.Set["name"] {
			t.Errorf("name: %s gives %q, %v; want %q", in, l.Config.Name, err, want)
		}
	}
}

func TestParseEmpty(t *testing.T) {
	for _, in := range []string{"", "\n", "# nothing\n", "---\n", "\ufeff", "null\n"} {
		l, err := Parse(FromFile, "f.yaml", []byte(in))
		if err != nil || len(l.Set) > 0 || l.Origin != FromFile {
			t.Errorf("%q: %+v, %v", in, l, err)
		}
	}
}

// full is a configuration in which every setting has a value that needs care in YAML.
func full() Config {
	return Config{
		APIVersion: "etcdadm/v1", Kind: "Config", Name: "no", Version: "3.6.14-eks-1-30-2", ReleaseURL: "file:///srv/a b#c: d",
		InstallDir: "/opt/bin", CertsDir: "/etc/etcd/pki", DataDir: "/var/lib/etcd", BindAddress: "fd00::1", AdvertiseName: "etcd-1.example.com",
		ServerCertExtraSANs: []string{"*.example.com", "::1"}, InitSystem: "process", ImageRepository: "reg:5000/etcd",
		KubeletPodManifestPath: "/m", CipherSuites: []string{"- x", "# y"}, DiskPriorities: []string{"Nice=-10", `CPUAffinity=0, "1" \ % é`},
		DownloadConnectTimeout: Duration{90 * time.Second}, KeyAlgorithm: "rsa-3072", QuotaBackendBytes: 8 << 30,
		JoinEndpoints: []string{"https://10.0.0.1:2379", "https://[fd00::1]:2379"},
		ExtraEnv:      map[string]string{"A": "", "B": "x=y", "NO": "true", "TAB": "a\tb\u0085\u2028\U0001F600"},
	}
}

// The stored configuration is read back as it was, and writing it twice gives the same bytes: a no-op run must see no drift.
func TestMarshalRoundTrip(t *testing.T) {
	var plain, emptied Config
	Default(&plain, Facts{Hostname: "etcd-1", Address: netip.MustParseAddr("10.0.0.7")})
	emptied = plain
	emptied.DiskPriorities = []string{}
	for _, c := range []Config{plain, emptied, full()} {
		data := c.Marshal()
		l, err := Parse(FromStored, "config.yaml", data)
		if err != nil {
			t.Fatalf("%v in\n%s", err, data)
		}
		back, _ := Merge(l)
		Default(&back, Facts{Hostname: "other"})
		if d := cmp.Diff(c, back); d != "" {
			t.Errorf("%s in\n%s", d, data)
		}
		if string(back.Marshal()) != string(data) {
			t.Errorf("the second time:\n%s", back.Marshal())
		}
	}
}

// FuzzParse: no input makes it panic or hang, every refusal is a usage error in one line, and what is accepted survives a
// round trip.
func FuzzParse(f *testing.F) {
	f.Add([]byte(header + "name: x\n"))
	f.Add(full().Marshal())
	f.Add([]byte(header + "extraEnv:\n  ? a\n  : |\n    b\ncipherSuites: [\"a\", 'b', c]\n"))
	f.Add([]byte("%YAML 1.2\n---\n&a *a !!x {<<: *a}\n...\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(FromFile, "f.yaml", data)
		if err != nil {
			var e *errs.Error
			if !errors.As(err, &e) || e.Status != errs.Usage || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%#v", err)
			}
			return
		}
		again, err := Parse(FromFile, "f.yaml", l.Config.Marshal())
		if err != nil {
			t.Fatalf("%v in\n%s", err, l.Config.Marshal())
		}
		for _, s := range Settings {
			if !slices.Equal(s.Get(l.Config), s.Get(again.Config)) {
				t.Fatalf("%s: %q became %q", s.Key, s.Get(l.Config), s.Get(again.Config))
			}
		}
	})
}

// Other readers of YAML, of either version, take every text for text.
func TestYAMLString(t *testing.T) {
	for in, want := range map[string]string{
		"/var/lib/etcd": "/var/lib/etcd", "ecdsa-p256": "ecdsa-p256", "a@b": "a@b", "Nice=-10": "Nice=-10",
		"no": `"no"`, "Off": `"Off"`, "TRUE": `"TRUE"`, "null": `"null"`, "": `""`, "~": `"~"`, "y": `"y"`,
		"3.6.14": `"3.6.14"`, "1e3": `"1e3"`, "-x": `"-x"`, ".inf": `".inf"`, "a: b": `"a: b"`, "a b": `"a b"`, "@a": `"@a"`, "=": `"="`,
		"a\"\\\n\x7f": `"a\"\\\x0a\x7f"`, "\u2028": `"\u2028"`, "é": `"é"`,
	} {
		if got := YAMLString(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
