package process

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"etcdadm/test/release"
)

// rootOf is the node of the test that panics; "": it is not asked for.
const rootOf = "PANIC_ROOT"

// A test that panics does not come to its cleanups. Nothing that it has started outlives it all the same.
func TestNothingOutlivesTheTests(t *testing.T) {
	root := filepath.Join(t.TempDir(), "node")
	t.Cleanup(func() { _ = Down(root) })
	var said bytes.Buffer
	c := exec.Command(os.Args[0], "-test.run=^TestThatPanics$")
	c.Env = append(os.Environ(), rootOf+"="+root)
	c.Stdout, c.Stderr = &said, &said
	err := c.Run()
	if err == nil || !strings.Contains(said.String(), "panic: with etcd running") {
		t.Fatalf("the other tests did not panic: %v\n%s", err, &said)
	}
	if s, e := Supervisor(root), Etcd(root); s != 0 || e != 0 {
		t.Errorf("of tests that have panicked there is still the supervisor %d with the etcd %d", s, e)
	}
}

// TestThatPanics is the other process of TestNothingOutlivesTheTests.
func TestThatPanics(t *testing.T) {
	root := os.Getenv(rootOf)
	if root == "" {
		t.Skip("only as a part of TestNothingOutlivesTheTests")
	}
	mirror, network := release.Get(t), NewNetwork(93)
	r, err := Run([]string{
		"--root", root, "init", "--name", "n", "--bind-address", network.Address(), "--init-system", "process",
		"--version", release.Versions[0], "--release-url", mirror.URL(), "--sha256sums", mirror.Sums(),
	})
	if err != nil || r.Status != 0 || Supervisor(root) == 0 || Etcd(root) == 0 {
		t.Fatal(err, r)
	}
	panic(fmt.Sprint("with etcd running", Etcd(root)))
}
