package contract

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"

	"etcdadm/cmd"
	"etcdadm/constants"
	"etcdadm/pkg/host"
	"etcdadm/test/process"
)

// command finds a command by its words.
func command(t *testing.T, words ...string) *cobra.Command {
	t.Helper()
	c, rest, err := cmd.Commands().Find(words)
	if err != nil || len(rest) > 0 || c.Hidden || !c.Runnable() {
		t.Fatalf("there is no command %q (%v)", words, err)
	}
	return c
}

// phases are the phases that callers run one by one.
var phases = map[string][]string{
	"init": {"install", "certificates", "snapshot", "configure", "start", "etcdctl", "health", "post-init-instructions"},
	"join": {"stop", "certificates", "membership", "install", "configure", "start", "etcdctl", "health"},
}

func TestContractCommands(t *testing.T) {
	t.Parallel()
	for _, words := range []string{"init", "join", "reset", "download", "info", "version", "completion bash", "restore", "snapshot save", "snapshot verify", "status", "config print", "config validate"} {
		command(t, strings.Fields(words)...)
	}
	for of, names := range phases {
		for _, name := range names {
			command(t, of, "phase", name)
		}
	}
	// Flags may stand before the argument, and behind it.
	a := newNode(t)
	a.must("init", "phase", "certificates")
	for i, args := range [][]string{{"--name", "before", "any", "-l", "error"}, {"any", "--name", "behind", "-l", "error"}, {"-l", "error", "any", "--name=around"}} {
		a.check(os.Remove(a.pki("server.crt")))
		r := succeeded(t, a.bare(append([]string{"join", "phase", "certificates"}, args...)...))
		if want := []string{"before", "behind", "around"}[i]; a.certificate("server").Subject.CommonName != want {
			t.Errorf("%q: the certificate is for %s", args, a.certificate("server").Subject)
		}
		if r.Stderr != "" && !strings.Contains(r.Stderr, "warning") {
			t.Errorf("%q: told %s", args, r.Stderr)
		}
	}
	// The shell completion of a caller's profile.
	if r := a.bare("completion", "bash"); r.Status != 0 || !strings.Contains(r.Stdout, "etcdadm") {
		t.Error(r)
	}
}

// TestContractFlags: each flag, the commands that take it, and what holds where it is left out.
func TestContractFlags(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	r := succeeded(t, n.bare("config", "print", "--effective", "-o", "json"))
	var defaults map[string]any
	n.check(json.Unmarshal([]byte(r.Stdout), &defaults))
	hostname, err := os.Hostname()
	n.check(err)
	address := ""
	if a, err := host.DefaultAddress(); err == nil {
		address = a.String()
	}
	for _, row := range []struct {
		flag, commands string
		key            string // of the configuration; "": of one call only
		value          any    // by default
	}{
		{"name", "init join", "name", hostname},
		{"version", "init join download", "version", constants.DefaultVersion},
		{"release-url", "init join download", "releaseURL", nil},
		{"certs-dir", "init join reset", "certsDir", "/etc/etcd/pki"},
		{"bind-address", "init join", "bindAddress", address},
		{"server-cert-extra-sans", "init join", "serverCertExtraSANs", []any{}},
		{"install-dir", "init join reset", "installDir", "/opt/bin"},
		{"snapshot", "init", "", ""},
		{"skip-hash-check", "init", "", "false"},
		{"download-connect-timeout", "init join download", "downloadConnectTimeout", "10s"},
		{"disk-priorities", "init join", "diskPriorities", []any{"Nice=-10", "IOSchedulingClass=best-effort", "IOSchedulingPriority=2"}},
		{"retry", "join", "", "true"},
		{"init-system", "init join reset", "initSystem", "systemd"},
		{"image-repository", "init join", "imageRepository", "gcr.io/etcd-development/etcd"},
		{"data-dir", "init join reset", "dataDir", "/var/lib/etcd"},
		{"kubelet-pod-manifest-path", "init join", "kubeletPodManifestPath", "/etc/kubernetes/manifests"},
		{"cipher-suites", "init join", "cipherSuites", []any{}},
		{"skip-remove-member", "reset", "", "false"},
		{"log-level", "init join reset download info version status", "", "info"},
	} {
		for of := range strings.FieldsSeq(row.commands) {
			all := []*cobra.Command{command(t, of)}
			for _, phase := range phases[of] { // callers give common flags to every phase
				all = append(all, command(t, of, "phase", phase))
			}
			for _, c := range all {
				c.InheritedFlags()
				f := c.Flags().Lookup(row.flag)
				if f == nil {
					t.Errorf("%s has no --%s", c.CommandPath(), row.flag)
				} else if row.key == "" && f.DefValue != row.value {
					t.Errorf("%s --%s is %q by default, want %q", c.CommandPath(), row.flag, f.DefValue, row.value)
				}
			}
		}
		if row.key == "" {
			continue
		}
		if have, want := toJSON(t, defaults[row.key]), toJSON(t, row.value); have != want && (row.key != "bindAddress" || address != "") {
			t.Errorf("%s is %s by default, want %s", row.key, have, want)
		}
	}
	if f := command(t, "init").InheritedFlags().ShorthandLookup("l"); f == nil || f.Name != "log-level" {
		t.Error("-l is not --log-level")
	}

	// What a flag may look like.
	r = succeeded(t, n.bare("config", "print", "-o", "json", "--install-dir", "/usr/local/bin/", "--version", "v3.5.8-eks-1-26-16",
		"--disk-priorities", "CPUWeight=200", "--disk-priorities", "Nice=-5", "--cipher-suites", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
		"--server-cert-extra-sans", "etcd.example.com,10.9.8.7", "--kubelet-pod-manifest-path", "manifests"))
	var given map[string]any
	n.check(json.Unmarshal([]byte(r.Stdout), &given))
	here, err := os.Getwd()
	n.check(err)
	for key, want := range map[string]any{
		"installDir": "/usr/local/bin", "version": "3.5.8-eks-1-26-16", "diskPriorities": []string{"CPUWeight=200", "Nice=-5"},
		"cipherSuites":        []string{"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
		"serverCertExtraSANs": []string{"etcd.example.com", "10.9.8.7"}, "kubeletPodManifestPath": filepath.Join(here, "manifests"),
	} {
		if have, want := toJSON(t, given[key]), toJSON(t, want); have != want {
			t.Errorf("%s is %s, want %s", key, have, want)
		}
	}
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestContractFiles: what callers read, and where they find it.
func TestContractFiles(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.must("init", "--cipher-suites", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384")
	for path, mode := range map[string]os.FileMode{
		"/etc/etcd/pki/ca.crt": 0o644, "/etc/etcd/pki/ca.key": 0o600,
		"/etc/etcd/pki/server.crt": 0o644, "/etc/etcd/pki/server.key": 0o600,
		"/etc/etcd/pki/peer.crt": 0o644, "/etc/etcd/pki/peer.key": 0o600,
		"/etc/etcd/pki/etcdctl-etcd-client.crt": 0o644, "/etc/etcd/pki/etcdctl-etcd-client.key": 0o600,
		"/etc/etcd/pki/apiserver-etcd-client.crt": 0o644, "/etc/etcd/pki/apiserver-etcd-client.key": 0o600,
		"/etc/etcd/pki": 0o755 | os.ModeDir, "/etc/etcd": 0o755 | os.ModeDir,
		"/opt/bin/etcd": 0o755, "/opt/bin/etcdctl": 0o755, "/opt/bin/etcdutl": 0o755, "/opt/bin/etcdctl.sh": 0o755,
		cachePath(current): 0o644,
	} {
		if info, err := os.Stat(n.path(path)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v (%v), want %v", path, info, err, mode)
		}
	}
	env := n.read("/etc/etcd/etcd.env")
	for _, word := range []string{"ETCD_NAME", "ETCD_INITIAL_ADVERTISE_PEER_URLS"} {
		if c := strings.Count(env, word); c != 1 {
			t.Errorf("etcd.env has %d lines with %s:\n%s", c, word, env)
		}
	}
	line := regexp.MustCompile(`^(#.*|[A-Z][A-Z0-9_]*=[^"'\s]*)$`)
	for text := range strings.Lines(env) {
		if text = strings.TrimSuffix(text, "\n"); text != "" && !line.MatchString(text) {
			t.Errorf("etcd.env: %q is not an unquoted KEY=value", text)
		}
	}
	for _, want := range []string{"ETCD_NAME=" + n.name, "ETCD_INITIAL_ADVERTISE_PEER_URLS=https://" + n.address + ":2380", "ETCD_CIPHER_SUITES=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"} {
		if !strings.Contains("\n"+env, "\n"+want+"\n") {
			t.Errorf("etcd.env lacks %s:\n%s", want, env)
		}
	}

	// What users appended to the settings of etcdctl stays; a shell can source them.
	const mine = "export MINE=kept # by its user\n"
	n.write("/etc/etcd/etcdctl.env", []byte(n.read("/etc/etcd/etcdctl.env")+mine), 0o644)
	n.check(os.Remove(n.path("/opt/bin/etcdctl.sh")))
	n.must("init", "--quota-backend-bytes", "1073741824")
	if got := n.read("/etc/etcd/etcdctl.env"); !strings.Contains(got, mine) {
		t.Errorf("etcdctl.env lost a line of its user:\n%s", got)
	}
	for text := range strings.Lines(n.read("/etc/etcd/etcdctl.env")) {
		if text = strings.TrimSpace(text); text != "" && !strings.HasPrefix(text, "#") && !strings.HasPrefix(text, "export ") {
			t.Errorf("etcdctl.env: %q is not export K=V", text)
		}
	}
	c := exec.Command("sh", "-euc", `. "$1" && test "$MINE" = kept && exec "$2" --command-timeout=30s endpoint health`, "sh", n.path("/etc/etcd/etcdctl.env"), n.path("/opt/bin/etcdctl"))
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("a shell that sources etcdctl.env: %v\n%s", err, out)
	}
	n.serves()
}

func TestContract09ResetOfNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, args := range [][]string{{"reset"}, {"reset", "--skip-remove-member"}, {"reset", "--init-system", "process", "--certs-dir", "/etc/elsewhere", "-l", "error"}} {
		if r := n.bare(args...); r.Status != 0 {
			t.Error(r)
		}
	}
}

// TestContract09Info: info is JSON with just these keys, and fails where no etcd runs.
func TestContract09Info(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.must("init")
	r := succeeded(t, n.bare("info"))
	form := regexp.MustCompile(`^\s*\{\s*"ID":\s*\d+,\s*"name":\s*"etcd-1",\s*"peerURLs":\s*\[\s*"https://` + n.address + `:2380"\s*\],\s*"clientURLs":\s*\[\s*"https://` + n.address + `:2379"\s*\]\s*\}\s*$`)
	if !form.MatchString(r.Stdout) || r.Stderr != "" {
		t.Errorf("want one object and nothing else: %s", r)
	}
	var info struct{ ID uint64 }
	n.check(json.Unmarshal([]byte(r.Stdout), &info))
	var list struct{ Members []struct{ ID uint64 } }
	n.check(json.Unmarshal([]byte(n.etcdctl("member", "list", "-w", "json")), &list))
	if len(list.Members) != 1 || list.Members[0].ID != info.ID {
		t.Errorf("the ID is %d, and the members are %v", info.ID, list.Members)
	}
	n.check(process.Down(n.root))
	for _, at := range []*node{n, newNode(t)} {
		if r := at.bare("info", "--bind-address", n.address); r.Status == 0 || r.Stdout != "" {
			t.Error(r)
		}
	}
}

func TestContract09Version(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	if r := n.bare("version", "--short"); r.Status != 0 || !regexp.MustCompile(`^v\d+\.\d+\.\d+\S*\n$`).MatchString(r.Stdout) || r.Stderr != "" {
		t.Error(r)
	}
	if r := n.bare("version", "-o", "json"); r.Status != 0 || !json.Valid([]byte(r.Stdout)) || r.Stderr != "" {
		t.Error(r)
	}
	if r := n.bare("version", "-o", "yaml"); r.Status != 0 || !strings.Contains(r.Stdout, "gitVersion: ") || strings.Contains(r.Stdout, "{") || r.Stderr != "" {
		t.Error(r)
	}
}

// TestContract10NoPrompt: nothing waits for an answer on standard input, not even where data is about to go.
func TestContract10NoPrompt(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	silent, answer, err := os.Pipe() // open, and nobody writes
	n.check(err)
	defer silent.Close()
	defer answer.Close()
	for _, args := range [][]string{append([]string{"init"}, n.settings()...), {"status"}, {"snapshot", "save", filepath.Join(t.TempDir(), "backup.db")}, {"reset"}, {"reset"}} {
		c := exec.CommandContext(t.Context(), os.Args[0], append([]string{"--root", n.root}, args...)...)
		c.Env = append(os.Environ(), process.AsEtcdadm)
		c.Stdin = silent
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
	}
}

// TestContract10DoneIsDone: as soon as init or join has said that it is done, the member takes writes and votes.
func TestContract10DoneIsDone(t *testing.T) {
	t.Parallel()
	nodes := newNodes(t, "a", "b")
	nodes[0].must("init")
	nodes[0].votes()
	nodes[0].etcdctl("put", "color", "blue")
	nodes[1].check(process.GiveCA(nodes[0].root, nodes[1].root))
	nodes[1].must("join", nodes[0].url())
	nodes[1].votes()
	if got := nodes[1].etcdctl("get", "--print-value-only", "color"); got != "blue" {
		t.Errorf("the member that joined reads %q", got)
	}
	nodes[1].voters(2)
}

// votes wants the member to know a leader and to be no learner, at this moment: nothing is waited for.
func (n *node) votes() {
	n.t.Helper()
	var answers []struct {
		Status struct {
			Leader    uint64
			IsLearner bool
		}
	}
	said := n.etcdctl("endpoint", "status", "-w", "json")
	n.check(json.Unmarshal([]byte(said), &answers))
	if len(answers) != 1 || answers[0].Status.Leader == 0 || answers[0].Status.IsLearner {
		n.t.Errorf("%s is not a voter with a leader: %s", n.name, said)
	}
}

// TestContract10DownloadsThroughAProxy: the proxy of the environment is used for downloads, in either case of its name, and
// not where no_proxy says so.
func TestContract10DownloadsThroughAProxy(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var asked []string
	n := newNode(t)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.Method+" "+r.RequestURI)
		if r.Method == http.MethodConnect {
			http.Error(w, "no tunnels here", http.StatusForbidden)
			return
		}
		http.StripPrefix("/etcd", http.FileServer(http.Dir(string(n.mirror)))).ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	download := func(scheme string, env ...string) (process.Result, []string) {
		asked = nil
		n.check(os.RemoveAll(n.root))
		r, err := process.Run([]string{"--root", n.root, "download", "--version", current, "--release-url", scheme + "://releases.invalid/etcd", "--sha256sums", n.mirror.Sums()},
			append([]string{"HTTP_PROXY=", "http_proxy=", "HTTPS_PROXY=", "https_proxy=", "NO_PROXY=", "no_proxy="}, env...)...)
		n.check(err)
		mu.Lock()
		defer mu.Unlock()
		return r, slices.Clone(asked)
	}
	for _, variable := range []string{"HTTP_PROXY", "http_proxy"} {
		r, requests := download("http", variable+"="+proxy.URL)
		if r.Status != 0 || len(requests) == 0 || !strings.HasPrefix(requests[0], "GET http://releases.invalid/etcd/v"+current+"/") {
			t.Errorf("%s: the proxy was asked %q: %s", variable, requests, r)
		}
	}
	for _, variable := range []string{"HTTPS_PROXY", "https_proxy"} {
		r, requests := download("https", variable+"="+proxy.URL)
		if r.Status == 0 || len(requests) == 0 || requests[0] != "CONNECT releases.invalid:443" {
			t.Errorf("%s: the proxy was asked %q: %s", variable, requests, r)
		}
	}
	for _, variable := range []string{"NO_PROXY", "no_proxy"} {
		if r, requests := download("http", "HTTP_PROXY="+proxy.URL, variable+"=.invalid"); r.Status == 0 || len(requests) > 0 {
			t.Errorf("%s: the proxy was asked %q: %s", variable, requests, r)
		}
	}
}

// TestContract10EtcdThroughNoProxy: a node sets up its member, asks it and resets it although the environment names a
// proxy that is not there, for addresses that are not loopback ones: for those nobody would use a proxy.
func TestContract10EtcdThroughNoProxy(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root makes networks")
	}
	nodes := newNodes(t, "etcd-1", "etcd-2")
	nodes[0].address, nodes[1].address = "10.91.0.1", "10.91.0.2" // in networks that only these programs see
	script := `
		set -e
		unshare --net sleep 600 &
		other=$!
		trap 'kill $other' EXIT
		until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do :; done
		there() { nsenter --net=/proc/$other/ns/net "$@"; }
		ip link add wire type veth peer name wire netns $other
		ip link set lo up; ip address add 10.91.0.1/24 dev wire; ip link set wire up
		there ip link set lo up; there ip address add 10.91.0.2/24 dev wire; there ip link set wire up
		"$PROGRAM" --root "$FIRST" init ` + strings.Join(nodes[0].settings(), " ") + `
		mkdir -p "$SECOND/etc/etcd/pki"
		cp "$FIRST"/etc/etcd/pki/ca.* "$SECOND/etc/etcd/pki"
		there "$PROGRAM" --root "$SECOND" join https://10.91.0.1:2379 ` + strings.Join(nodes[1].settings(), " ") + `
		there "$PROGRAM" --root "$SECOND" status
		"$PROGRAM" --root "$FIRST" snapshot save "$FIRST/backup.db"
		"$FIRST/opt/bin/etcdctl.sh" --command-timeout=30s member list | grep -c ' started, .* false$' | grep -x 2
		there "$PROGRAM" --root "$SECOND" reset
		"$PROGRAM" --root "$FIRST" reset
	`
	c := exec.Command("unshare", "--net", "sh", "-c", script)
	c.Env = append(os.Environ(), process.AsEtcdadm, "PROGRAM="+os.Args[0], "FIRST="+nodes[0].root, "SECOND="+nodes[1].root,
		"HTTPS_PROXY=http://10.91.0.9:1", "https_proxy=http://10.91.0.9:1", "HTTP_PROXY=http://10.91.0.9:1", "http_proxy=http://10.91.0.9:1", "NO_PROXY=", "no_proxy=")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
