// Package floors holds the rules of the code's layout as tests.
package floors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "etcdadm"

// floors is the order of the packages: each imports only from lower floors. A new package needs a line here.
var floors = map[string]int{
	"constants": 0,

	"pkg/errs":    1,
	"pkg/version": 1,

	"pkg/api":      2,
	"pkg/host":     2,
	"pkg/converge": 2,

	"pkg/file":   3,
	"pkg/report": 3,

	"certs":         4,
	"binary":        4,
	"service":       4,
	"pkg/etcd":      4,
	"pkg/snapshot":  4,
	"pkg/preflight": 4,

	"pkg/lifecycle": 5,

	"cmd": 6,

	"cmd/etcdadm": 7,
}

// above are the packages that are no part of the program, tests and generators: they see everything, and nothing sees them.
var above = []string{"test", "docs/internal/gen", "binary/internal/gen", "service/internal/gen"}

type pkg struct {
	Dir, ImportPath, Doc string
	Imports, GoFiles     []string
}

// name is the path of the package below the module.
func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func TestImportsGoDown(t *testing.T) {
	for _, v := range upward(packages(t)) {
		t.Error(v)
	}
}

// upward lists the imports that do not go down, and the packages that have no floor.
func upward(packages []pkg) []string {
	var bad []string
	for _, p := range packages {
		floor, known := floors[p.name()]
		if !known {
			if !isAbove(p.name()) {
				bad = append(bad, p.name()+" has no floor: give it a line in the table")
			}
			continue
		}
		for _, i := range p.Imports {
			name, ours := strings.CutPrefix(i, module+"/")
			switch {
			case !ours:
			case isAbove(name):
				bad = append(bad, fmt.Sprintf("%s imports %s, which is no part of the program", p.name(), name))
			case floors[name] >= floor:
				bad = append(bad, fmt.Sprintf("%s (floor %d) imports %s (floor %d): imports go down only", p.name(), floor, name, floors[name]))
			}
		}
	}
	return bad
}

func TestUpwardFindsEachKind(t *testing.T) {
	for _, c := range []struct {
		from, to string
		bad      int
	}{
		{"certs", "pkg/host", 0},
		{"test/bench", "cmd", 0},
		{"certs", "pkg/lifecycle", 1},
		{"certs", "binary", 1},
		{"pkg/host", "test/release", 1},
		{"pkg/util", "constants", 1},
	} {
		got := upward([]pkg{{ImportPath: module + "/" + c.from, Imports: []string{"fmt", module + "/" + c.to}}})
		if len(got) != c.bad {
			t.Errorf("%s imports %s: %d found, want %d: %q", c.from, c.to, len(got), c.bad, got)
		}
	}
}

func TestEveryFloorIsInhabited(t *testing.T) {
	there := map[string]bool{}
	for _, p := range packages(t) {
		there[p.name()] = true
	}
	for name := range floors {
		if !there[name] {
			t.Errorf("%s has a floor but is no package", name)
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		// A package of tests alone has no documentation that go list would see.
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.name())
		}
	}
}

func isAbove(name string) bool {
	for _, a := range above {
		if name == a || strings.HasPrefix(name, a+"/") {
			return true
		}
	}
	return false
}

// packages lists the packages of the module.
func packages(t *testing.T) []pkg {
	t.Helper()
	var stderr bytes.Buffer
	list := exec.CommandContext(t.Context(), "go", "list", "-json=Dir,ImportPath,Doc,Imports,GoFiles", "./...")
	list.Dir, list.Stderr = "../..", &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
