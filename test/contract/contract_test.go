// Package contract proves the promises to the callers of the retired etcdadm, one by one: the numbers in the names of the
// tests are those of the promises. etcdadm runs as a process of its own, as its callers run it, and etcd is real.
package contract

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"etcdadm/pkg/errs"
	"etcdadm/test/process"
	"etcdadm/test/release"
)

// current and older are the versions of etcd where a test does not depend on them.
const (
	current = "3.6.16"
	older   = "3.5.35"
)

// nowhere is a release server that nobody runs: the network of a node without network.
const nowhere = "http://127.0.0.1:1"

func TestMain(m *testing.M) {
	process.Etcdadm(nil)
	process.Contain(nil)
	// The tests wait for elections most of the time: more of them than processors go on side by side.
	if f := flag.Lookup("test.parallel"); f != nil {
		_ = f.Value.Set("5")
	}
	os.Exit(m.Run())
}

var network = process.NewNetwork(91)

// node is a node of a test: a directory, and an address of its own.
type node struct {
	t                   *testing.T
	name, root, address string
	mirror              release.Mirror
}

// newNodes makes blank nodes, which end with the test.
func newNodes(t *testing.T, names ...string) []*node {
	t.Helper()
	var list []*node
	for _, name := range names {
		n := &node{t: t, name: name, root: filepath.Join(t.TempDir(), name), address: network.Address(), mirror: release.Get(t)}
		t.Cleanup(func() { _ = process.Down(n.root) })
		list = append(list, n)
	}
	return list
}

func newNode(t *testing.T) *node {
	t.Helper()
	return newNodes(t, "etcd-1")[0]
}

// cluster makes nodes of which the first serves, and the others have its CA.
func cluster(t *testing.T, names ...string) []*node {
	t.Helper()
	nodes := newNodes(t, names...)
	nodes[0].must("init")
	for _, n := range nodes[1:] {
		n.check(process.GiveCA(nodes[0].root, n.root))
	}
	return nodes
}

func (n *node) url() string { return "https://" + n.address + ":2379" }

// settings are the flags that make a command one about this node.
func (n *node) settings() []string {
	return []string{
		"--name", n.name, "--bind-address", n.address, "--init-system", "process", "--version", current,
		"--release-url", n.mirror.URL(), "--sha256sums", n.mirror.Sums(),
	}
}

// run runs etcdadm on the node. init and join get the node's settings, before the flags that are given.
func (n *node) run(args ...string) process.Result {
	n.t.Helper()
	words := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "-") })
	if words < 0 {
		words = len(args)
	}
	var settings []string
	if args[0] == "init" || args[0] == "join" {
		settings = n.settings()
	}
	return n.bare(slices.Concat(args[:words], settings, args[words:])...)
}

// bare runs etcdadm on the node with these arguments and nothing but the root.
func (n *node) bare(args ...string) process.Result {
	n.t.Helper()
	r, err := process.Run(append([]string{"--root", n.root}, args...))
	n.check(err)
	return r
}

func (n *node) check(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// must wants a run to succeed.
func (n *node) must(args ...string) process.Result {
	n.t.Helper()
	return succeeded(n.t, n.run(args...))
}

func succeeded(t *testing.T, r process.Result) process.Result {
	t.Helper()
	if r.Status != 0 {
		t.Fatal(r)
	}
	return r
}

// failed wants a run to have ended with a status, one error line, and these words in it or in its hints.
func failed(t *testing.T, r process.Result, status errs.Status, words ...string) {
	t.Helper()
	if r.Status != int(status) || strings.Count(r.Stderr, "etcdadm: error: ") != 1 {
		t.Errorf("want status %d and one error line: %s", status, r)
	}
	_, told, _ := strings.Cut(r.Stderr, "etcdadm: error: ")
	for _, w := range words {
		if !strings.Contains(told, w) {
			t.Errorf("the error does not say %q: %s", w, r)
		}
	}
	if !strings.Contains(told, "\netcdadm: hint: ") {
		t.Errorf("there is no hint: %s", r)
	}
}

// said wants words on the standard error of a run.
func said(t *testing.T, r process.Result, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(r.Stderr, w) {
			t.Errorf("nothing is said of %q: %s", w, r)
		}
	}
}

// path is where a logical path of the node lies.
func (n *node) path(logical string) string { return filepath.Join(n.root, logical) }

func (n *node) pki(file string) string { return n.path("/etc/etcd/pki/" + file) }

func (n *node) read(logical string) string {
	n.t.Helper()
	data, err := os.ReadFile(n.path(logical))
	n.check(err)
	return string(data)
}

func (n *node) write(logical string, data []byte, mode fs.FileMode) {
	n.t.Helper()
	n.check(os.MkdirAll(filepath.Dir(n.path(logical)), 0o755))
	n.check(os.WriteFile(n.path(logical), data, mode))
	n.check(os.Chmod(n.path(logical), mode))
}

func (n *node) exists(logical string) bool {
	_, err := os.Lstat(n.path(logical))
	return err == nil
}

// etcdctl runs the node's wrapper.
func (n *node) etcdctl(args ...string) string {
	n.t.Helper()
	out, err := process.Etcdctl(n.path("/opt/bin/etcdctl.sh"), args...)
	n.check(err)
	return out
}

// serves wants the member to take a write and give it back.
func (n *node) serves() {
	n.t.Helper()
	n.etcdctl("put", "probe", "written")
	if got := n.etcdctl("get", "--print-value-only", "probe"); got != "written" {
		n.t.Errorf("the probe reads %q", got)
	}
}

// voters wants the node to see that many members, each a voter that started.
func (n *node) voters(want int) {
	n.t.Helper()
	list := n.etcdctl("member", "list")
	if strings.Count(list, ", started, ") != want || strings.Count(list, ", false") != want || strings.Count(list, "\n") != want-1 {
		n.t.Errorf("%s sees not %d voters:\n%s", n.name, want, list)
	}
}

// preseed puts a release of the mirror into the node's cache, as the version that is said.
func (n *node) preseed(version, as string) {
	n.t.Helper()
	data, err := os.ReadFile(n.mirror.Archive(version))
	n.check(err)
	n.write(cachePath(as), data, 0o644)
}

func archiveName(version string) string {
	return "etcd-v" + version + "-linux-" + runtime.GOARCH + ".tar.gz"
}

func cachePath(version string) string {
	return "/var/cache/etcdadm/etcd/v" + version + "/" + archiveName(version)
}

// certificate reads a certificate of the node.
func (n *node) certificate(name string) *x509.Certificate {
	n.t.Helper()
	block, _ := pem.Decode([]byte(n.read("/etc/etcd/pki/" + name + ".crt")))
	if block == nil {
		n.t.Fatalf("%s.crt is not PEM", name)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	n.check(err)
	return c
}

// client is a TLS client with a pair of the node, that trusts the node's CA.
func (n *node) client(pair string) *tls.Config {
	n.t.Helper()
	own, err := tls.LoadX509KeyPair(n.pki(pair+".crt"), n.pki(pair+".key"))
	n.check(err)
	pool := x509.NewCertPool()
	pool.AddCert(n.certificate("ca"))
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12}
}

// served is the certificate that etcd shows on a port of the node.
func (n *node) served(port string) *x509.Certificate {
	n.t.Helper()
	conn, err := tls.Dial("tcp", n.address+":"+port, n.client("peer"))
	n.check(err)
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}
