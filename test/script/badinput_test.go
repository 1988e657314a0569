package script

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"etcdadm/cmd"
	"etcdadm/pkg/errs"
	"etcdadm/test/release"
)

// badFlags has a value for each flag that no command takes, and what is said about it. The status is 2.
var badFlags = map[string][]struct{ value, reason string }{
	"accept-risk":               {{"lose-everything", `"lose-everything" is not a risk of`}},
	"advertise-name":            {{"10.0.0.7", "10.0.0.7 is an address"}, {"*.example.com", "is not the DNS name of one host"}, {"10.0.0.300", "is not the DNS name of one host"}, {"peer.etcdadm.internal", "is reserved"}},
	"bind-address":              {{"10.0.0.256", `"10.0.0.256" is not an IP address`}, {"0.0.0.0", "0.0.0.0 means every address"}, {"224.0.0.1", "is not the address of one host"}, {"fe80::1", "link-local"}},
	"bump-revision":             {{"-1", "bump-revision"}, {"far", "bump-revision"}},
	"certs-dir":                 {{"etc/pki", `certsDir: "etc/pki" is not an absolute path`}, {"/a b", "certsDir"}},
	"cipher-suites":             {{"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA255", `cipherSuites: .* is unknown; did you mean`}, {"TLS_AES_128_GCM_SHA256", "belongs to TLS 1.3"}},
	"config":                    {{"/nowhere/etcdadm.yaml", "/nowhere/etcdadm.yaml.* no such file"}, {"/", "is a directory"}, {"BAD", "bad.yaml:1:"}, {"BINARY", "binary.yaml"}},
	"data-dir":                  {{"data", `dataDir: "data" is not an absolute path`}, {"/var/lib", "/var/lib belongs to the system"}, {"/", "is the root directory"}},
	"disk-priorities":           {{"Nice", `diskPriorities: "Nice" is not one line`}},
	"download-connect-timeout":  {{"soon", `"soon" is not a duration`}, {"-1s", "-1s is not a positive duration"}},
	"ignore-preflight-errors":   {{"Prots", `there is no check "Prots"; did you mean Ports\?`}, {"Ports,nonsense", `there is no check "nonsense"$`}},
	"image-repository":          {{"gcr.io/etcd:v3.6.16", "imageRepository"}, {"gcr.io/etcd@sha256:0123", "is not an image without tag and digest"}},
	"init-system":               {{"openrc", `initSystem: "openrc" is unknown`}},
	"install-dir":               {{"bin", `installDir: "bin" is not an absolute path`}, {"/opt/../bin", "not in its shortest form"}},
	"key-algorithm":             {{"rsa-1024", `keyAlgorithm: "rsa-1024" is unknown`}},
	"kubelet-pod-manifest-path": {{"/proc/manifests", "lies in a file system of the kernel"}, {"/", "is the root directory"}, {"/etc/static pods", "may hold letters"}},
	"log-format":                {{"xml", `log format "xml" is unknown`}},
	"log-level":                 {{"loud", `log level "loud" is unknown`}},
	"name":                      {{"a=b", `name: "a=b" is not a member name`}, {strings.Repeat("x", 65), "65 characters"}, {"peer.etcdadm.internal", "is reserved"}},
	"output":                    {{"xml", `output format "xml" is unknown`}},
	"quota-backend-bytes":       {{"8G", `"8G" is not a number`}, {"-1", "-1 is not a size"}, {"99999999999999999999", "does not fit into 64 bits"}},
	"release-url":               {{"ftp://example.com", "begins with none of"}, {"https://u:hunter2@example.com", "names a user"}, {"file://relative", "absolute path"}},
	"root":                      {{"", "root is empty"}},
	"server-cert-extra-sans":    {{"etcd example", "is neither a DNS name nor an IP address"}, {"10.0.0.0/8", "10.0.0.0/8"}, {"10.0.0.300", "serverCertExtraSANs: \"10.0.0.300\" is neither a DNS name nor an IP address"}},
	"sha256sums":                {{"/nowhere/SHA256SUMS", "/nowhere/SHA256SUMS.* no such file"}, {"BAD", "bad.yaml"}, {"/", "is a directory"}},
	"skip-phases":               {{"nonsense", `there is no phase "nonsense"; the phases are`}},
	"snapshot":                  {{"/nowhere/backup.db", "snapshot /nowhere/backup.db does not exist"}, {"/", "/ is"}},
	"timeout":                   {{"soon", `"soon"`}, {"-1s", "--timeout is -1s"}},
	"version":                   {{"three", `version: "three" is not a version`}, {"3.6", `"3.6" is not a version`}, {"3.6.x", "is not a version"}},
}

// anyFlags take whatever they are given.
var anyFlags = []string{"help"}

// goodArgs are arguments that a command takes, by the first word of its usage behind its name.
var goodArgs = map[string]string{"URL[,URL...]": "https://127.83.255.250:2379", "FILE": "/nowhere/backup.db"}

// runnable lists the commands that do something, with an argument where they need one.
func runnable() map[*cobra.Command][]string {
	list := map[*cobra.Command][]string{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		hasOwn := strings.Contains(c.Use, " ") || c.HasFlags() && c.Flags().HasFlags()
		if c.Hidden || c.Name() == "help" || !c.Runnable() || c.HasSubCommands() && !hasOwn {
			return
		}
		if c.HasSubCommands() && !slices.Contains([]string{"init", "join", "reset"}, c.Name()) {
			return // prints its help
		}
		argv := strings.Fields(c.CommandPath())[1:]
		if _, kind, ok := strings.Cut(c.Use, " "); ok && goodArgs[kind] != "" {
			argv = append(argv, goodArgs[kind])
		}
		list[c] = argv
	}
	root := cmd.Commands()
	walk(root)
	return list
}

// reads tells whether a command reads the file that a flag names.
func reads(c *cobra.Command, flag string) bool {
	path := c.CommandPath()
	switch flag {
	case "config":
		return !strings.HasPrefix(path, "etcdadm version") && !strings.HasPrefix(path, "etcdadm completion")
	case "snapshot":
		return !strings.Contains(path, " phase ") || strings.HasSuffix(path, " preflight")
	}
	return true
}

// TestBadFlags gives every flag of every command something that it cannot take.
func TestBadFlags(t *testing.T) {
	commands := runnable()
	if len(commands) < 30 {
		t.Fatalf("there are %d commands only", len(commands))
	}
	for c, argv := range commands {
		c.InheritedFlags() // merges them in
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if slices.Contains(anyFlags, f.Name) {
				return
			}
			rows := badFlags[f.Name]
			if f.Value.Type() == "bool" {
				rows = append(rows, struct{ value, reason string }{"maybe", f.Name})
			}
			if len(rows) == 0 {
				t.Errorf("%s --%s: no row says what it refuses", c.CommandPath(), f.Name)
			}
			for _, row := range rows {
				if !reads(c, f.Name) {
					continue
				}
				t.Run(c.CommandPath()+" --"+f.Name+"="+row.value, func(t *testing.T) {
					refused(t, append(slices.Clone(argv), "--"+f.Name+"="+row.value), row.reason, errs.Usage)
				})
			}
		})
		for flag, reason := range map[string]string{"--no-such-flag": "unknown flag: --no-such-flag", "-x": "unknown shorthand flag: 'x' in -x", "---": "bad flag syntax: ---"} {
			t.Run(c.CommandPath()+" "+flag, func(t *testing.T) {
				refused(t, append(slices.Clone(argv), flag), reason, errs.Usage)
			})
		}
	}
}

// TestBadArguments gives every command arguments that it cannot take.
func TestBadArguments(t *testing.T) {
	for c, argv := range runnable() {
		path := strings.Fields(c.CommandPath())[1:]
		if path[0] == "completion" {
			continue
		}
		name := c.CommandPath()
		t.Run(name+" too many", func(t *testing.T) {
			want := "takes no argument, got|unknown command"
			if len(argv) > len(path) {
				want = "takes one argument, got 2"
			}
			refused(t, append(slices.Clone(argv), "more"), want, errs.Usage)
		})
		if len(argv) == len(path) {
			continue
		}
		for _, empty := range [][]string{{}, {""}} {
			t.Run(fmt.Sprintf("%s %q", name, empty), func(t *testing.T) {
				refused(t, append(slices.Clone(path), empty...), "needs (the|a|an) ", errs.Usage)
			})
		}
		if path[0] == "join" && path[len(path)-1] != "certificates" {
			for _, url := range []string{"nonsense", "http://10.0.0.7:2379", "https://10.0.0.7", "https://10.0.0.7:2379/path", ",", "https://u:p@10.0.0.7:2379"} {
				t.Run(name+" "+url, func(t *testing.T) {
					refused(t, append(slices.Clone(path), url), "is not the client URL of a member|names no member", errs.Usage)
				})
			}
		}
	}
	for _, group := range []string{"", "snapshot", "config", "init phase", "join phase", "reset phase"} {
		t.Run("etcdadm "+group+" nonsense", func(t *testing.T) {
			judge(t, append(strings.Fields(group), "nonsense", "--name", "a"), `unknown command "nonsense" for etcdadm`, errs.Usage)
		})
	}
	for _, group := range []string{"init phase", "join phase", "reset phase"} {
		t.Run("etcdadm "+group, func(t *testing.T) {
			judge(t, strings.Fields(group), "needs the name of a phase", errs.Usage)
		})
	}
}

// TestBadFiles gives the commands files that they cannot use.
func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty, text, odd := write("empty.db", ""), write("text.db", "not a database"), write("odd.db", strings.Repeat("x", 4096+32))
	const good = "apiVersion: etcdadm/v1\nkind: Config\n"
	for _, row := range []struct {
		args   []string
		reason string
		status errs.Status
	}{
		{[]string{"snapshot", "verify", "/nowhere/backup.db"}, "/nowhere/backup.db does not exist", errs.Usage},
		{[]string{"snapshot", "verify", dir}, dir, errs.Usage},
		{[]string{"snapshot", "verify", empty}, "empty.db", errs.Verification},
		{[]string{"snapshot", "verify", text}, "text.db", errs.Verification},
		{[]string{"snapshot", "verify", odd}, "odd.db", errs.Verification},
		{[]string{"restore", "/nowhere/backup.db"}, "/nowhere/backup.db does not exist", errs.Usage},
		{[]string{"restore", dir}, dir, errs.Usage},
		{[]string{"restore", empty}, "empty.db", errs.Verification},
		{[]string{"restore", odd}, "odd.db", errs.Verification},
		{[]string{"init", "--snapshot", text}, "text.db", errs.Verification},
		{[]string{"snapshot", "save", "/nowhere/backup.db"}, "ca.crt|does not answer|/nowhere", errs.Precondition},
		{[]string{"config", "validate"}, "there is no configuration to validate", errs.Usage},
		{[]string{"config", "validate", "--config", write("list.yaml", "- a\n")}, "list.yaml:1", errs.Usage},
		{[]string{"config", "validate", "--config", write("tab.yaml", good+"\tname: a\n")}, "tab.yaml:3", errs.Usage},
		{[]string{"config", "validate", "--config", write("v2.yaml", "apiVersion: etcdadm/v2\nkind: Config\n")}, `v2.yaml:1: apiVersion is "etcdadm/v2"`, errs.Usage},
		{[]string{"config", "validate", "--config", write("kind.yaml", "apiVersion: etcdadm/v1\nkind: Cluster\n")}, "kind.yaml:2", errs.Usage},
		{[]string{"config", "validate", "--config", write("key.yaml", good+"nmae: a\n")}, `key.yaml:3: unknown key "nmae"; did you mean "name"`, errs.Usage},
		{[]string{"config", "validate", "--config", write("twice.yaml", good+"name: a\nname: b\n")}, `twice.yaml:4: duplicate key "name"`, errs.Usage},
		{[]string{"config", "validate", "--config", write("type.yaml", good+"serverCertExtraSANs: a\n")}, "type.yaml:3: serverCertExtraSANs", errs.Usage},
		{[]string{"config", "validate", "--config", write("map.yaml", good+"extraEnv: [a]\n")}, "map.yaml:3: extraEnv", errs.Usage},
		{[]string{"init", "--config", write("env.yaml", good+"extraEnv:\n  lower: a\n")}, `extraEnv: "lower" is not the name`, errs.Usage},
		{[]string{"init", "--sha256sums", write("sums", "xyz  etcd.tar.gz\n")}, "sums", errs.Usage},
	} {
		t.Run(strings.Join(row.args, " "), func(t *testing.T) { refused(t, row.args, row.reason, row.status) })
	}
}

// TestTheLineThatAHintNamesIsTaken: the file of digests takes the line as standard error prints it, with the digest put in.
func TestTheLineThatAHintNamesIsTaken(t *testing.T) {
	mirror := release.Get(t)
	dir := t.TempDir()
	sums := filepath.Join(dir, "sums")
	lines := strings.Repeat("0", 64) + "  another.tar.gz\n"
	download := []string{"download", "--root", filepath.Join(dir, "root"), "--version", current, "--release-url", mirror.URL(), "--sha256sums", sums}
	write := func() {
		if err := os.WriteFile(sums, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	_, told, status := call(download)
	hint := regexp.MustCompile("(?m)^etcdadm: hint: add the line `(.*<sha256>.*)` to the file of --sha256sums$").FindStringSubmatch(told)
	if status != errs.Verification || hint == nil {
		t.Fatalf("exit status %d, without that hint:\n%s", status, told)
	}
	archive, err := os.ReadFile(mirror.Archive(current))
	if err != nil {
		t.Fatal(err)
	}
	lines += strings.Replace(hint[1], "<sha256>", fmt.Sprintf("%x", sha256.Sum256(archive)), 1) + "\n"
	write()
	if _, told, status := call(download); status != errs.OK {
		t.Errorf("exit status %d with the lines\n%s%s", status, lines, told)
	}
}

// TestBadStoredConfiguration: a configuration on the node that cannot be read is named by every command that needs it.
func TestBadStoredConfiguration(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "etc/etcdadm/config.yaml")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("apiVersion: etcdadm/v1\nkind: Config\nnope: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"init"}, {"join", "https://10.0.0.7:2379"}, {"reset"}, {"restore", "f"}, {"info"}, {"snapshot", "save", "f"}, {"config", "print"}, {"download"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			judge(t, append([]string{"--root", root}, args...), regexp.QuoteMeta(file)+`:3: unknown key "nope"`, errs.Usage)
		})
	}
}

// TestBadEnvironment: a setting in the environment is judged like a flag, and named by its variable.
func TestBadEnvironment(t *testing.T) {
	for variable, row := range map[string][2]string{
		"ETCDADM_QUOTA_BACKEND_BYTES": {"8G", "ETCDADM_QUOTA_BACKEND_BYTES"},
		"ETCDADM_BIND_ADRESS":         {"10.0.0.7", "ETCDADM_BIND_ADRESS"},
		"ETCDADM_INIT_SYSTEM":         {"openrc", `initSystem: "openrc" is unknown`},
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, row[0])
			root := filepath.Join(t.TempDir(), "root")
			judge(t, []string{"--root", root, "init"}, row[1], errs.Usage)
			untouched(t, root)
		})
	}
}

// refused wants a command on a blank node to fail, in text and in JSON, and to leave nothing behind.
func refused(t *testing.T, args []string, reason string, status errs.Status) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"bad.yaml": "{{{", "binary.yaml": "\x00\xff\xfe"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, a := range args {
		args[i] = strings.Replace(strings.Replace(a, "=BAD", "="+dir+"/bad.yaml", 1), "=BINARY", "="+dir+"/binary.yaml", 1)
	}
	root := filepath.Join(dir, "root")
	given := []string{"--root=" + root}
	if slices.Contains([]string{"init", "join", "restore"}, args[0]) {
		given = append(given, "--init-system=process", "--bind-address=127.83.255.251")
	}
	judge(t, append(given, args...), reason, status)
	untouched(t, root)
}

// judge wants one error line with the reason, a hint, the status, and nothing else on standard output; and the same as
// documents, when they are asked for behind what is wrong.
func judge(t *testing.T, args []string, reason string, status errs.Status) {
	t.Helper()
	out, told, got := call(args)
	if got != status {
		t.Errorf("exit status %d, want %d", got, status)
	}
	if out != "" {
		t.Errorf("standard output holds %q", out)
	}
	if n := strings.Count(told, "etcdadm: error: "); n != 1 {
		t.Errorf("%d error lines, want 1:\n%s", n, told)
	}
	if !regexp.MustCompile(`(?m)^etcdadm: error: .*(` + reason + `)`).MatchString(told) {
		t.Errorf("the error does not say %q:\n%s", reason, told)
	}
	if !strings.Contains(told, "\netcdadm: hint: ") {
		t.Errorf("there is no hint:\n%s", told)
	}
	if strings.Contains(told, "hunter2") {
		t.Errorf("the error tells a password:\n%s", told)
	}
	given := func(flag string) bool {
		return slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--"+flag) })
	}
	if given("output") {
		return
	}
	wantDocument(t, append(slices.Clone(args), "-o", "json"), status)
	if given("log-format") {
		return
	}
	told = wantDocument(t, append(slices.Clone(args), "-ojson", "--log-format", "json"), status)
	for line := range strings.Lines(told) {
		if _, err := parseJSON([]byte(line)); err != nil {
			t.Errorf("with --log-format json, standard error holds %q", line)
		}
	}
	if n := strings.Count(told, `"hints":[`); n != 1 {
		t.Errorf("with --log-format json: %d errors with hints, want 1:\n%s", n, told)
	}
}

// wantDocument wants a call that fails to write its document, and returns what it told beside.
func wantDocument(t *testing.T, args []string, status errs.Status) string {
	t.Helper()
	out, told, got := call(args)
	doc, err := parseJSON([]byte(out))
	if err != nil || got != status {
		t.Errorf("%q: exit status %d, %v", args, got, err)
		return told
	}
	for path, want := range map[string]string{"failed": "true", "changed": "false", "error.status": fmt.Sprint(int(status)), "kind": "Result"} {
		if value, err := find(doc, path); err != nil || fmt.Sprint(value) != want {
			t.Errorf("%q: %s is %v, want %s (%v)", args, path, value, want, err)
		}
	}
	for _, path := range []string{"error.reason", "error.hint", "operation", "msg"} {
		if value, err := find(doc, path); path != "operation" && (err != nil || value == "") {
			t.Errorf("%q: no %s (%v)", args, path, err)
		}
	}
	return told
}

func call(args []string) (out, told string, status errs.Status) {
	var o, e bytes.Buffer
	status = cmd.Main(args, cmd.Streams{In: strings.NewReader(""), Out: &o, Err: &e})
	return o.String(), e.String(), status
}

// untouched wants nothing under the root but the lock that a command may have held.
func untouched(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if rel, _ := filepath.Rel(root, path); !d.IsDir() && rel != "run/etcdadm.lock" {
			t.Errorf("%s is left under the root", rel)
		}
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}
