package floors

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A rule keeps certain names of the standard library in the packages that are made for them.
type rule struct {
	why   string
	names []string // "<import path>.<name>"; a final * stands for any rest of the name
	home  []string // packages that may use them
}

var rules = []rule{
	{
		why:   "the process ends in one place, after everything deferred has run",
		names: []string{"os.Exit", "log.Fatal*", "log.Panic*", "syscall.Exit", "golang.org/x/sys/unix.Exit"},
		home:  []string{"cmd/etcdadm"},
	},
	{
		why:   "nothing but pkg/report prints; cmd hands it the streams",
		names: []string{"fmt.Print*", "os.Stdout", "os.Stderr", "log.Print*"},
		home:  []string{"pkg/report", "cmd", "cmd/etcdadm"},
	},
	{
		why:   "commands are started through pkg/host, which announces those that change something",
		names: []string{"os/exec.Command*", "os.StartProcess", "syscall.ForkExec", "syscall.StartProcess", "syscall.Exec", "golang.org/x/sys/unix.Exec"},
		home:  []string{"pkg/host"},
	},
	{
		why: "files change through pkg/host, which announces it and makes it durable",
		names: []string{
			"os.WriteFile", "os.Create*", "os.OpenFile", "os.OpenRoot", "os.Mkdir*", "os.Rename", "os.Remove*", "os.Symlink", "os.Link",
			"os.Chmod", "os.Chown", "os.Lchown", "os.Chtimes", "os.Truncate", "os.CopyFS", "io/ioutil.*",
		},
		home: []string{"pkg/host"},
	},
}

// exceptions are the uses that have a reason of their own, by "<package>: <name>".
var exceptions = map[string]string{
	"binary: os.OpenFile":     "a download resumes where it was cut, and programs are unpacked, in staging directories that were announced",
	"pkg/snapshot: os.Stderr": "the worker is a process of its own, whose error output its parent reads",
}

func TestNamesStayAtHome(t *testing.T) {
	needed := map[string]bool{}
	for _, p := range packages(t) {
		if isAbove(p.name()) {
			continue
		}
		for _, file := range p.GoFiles {
			for _, u := range uses(t, filepath.Join(p.Dir, file)) {
				r := broken(p.name(), u.name)
				if r == nil {
					continue
				}
				needed[p.name()+": "+u.name] = true
				if exceptions[p.name()+": "+u.name] == "" {
					t.Errorf("%s/%s:%d uses %s: %s", p.name(), file, u.line, u.name, r.why)
				}
			}
		}
	}
	for e := range exceptions {
		if !needed[e] {
			t.Errorf("the exception %q is not needed any more", e)
		}
	}
}

func TestUsesSeeThroughRenamedImports(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.go")
	source := `package a
import (
	"log"
	stdos "os"
	"os/exec"
)
type buffer struct{}
func (buffer) Rename() {}
func f(exec buffer) { exec.Rename() }
func g() { stdos.Rename("a", "b"); exec.CommandContext(nil, "true"); log.Fatalf("no"); stdos.Open("a") }
`
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range uses(t, file) {
		if broken("certs", u.name) != nil {
			got = append(got, u.name)
		}
	}
	want := []string{"os.Rename", "os/exec.CommandContext", "log.Fatalf"}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

// broken returns the rule that a package breaks by using a name, or nil.
func broken(in, name string) *rule {
	for i, r := range rules {
		if r.covers(name) && !slices.Contains(r.home, in) {
			return &rules[i]
		}
	}
	return nil
}

func (r rule) covers(name string) bool {
	for _, n := range r.names {
		if prefix, ok := strings.CutSuffix(n, "*"); n == name || ok && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

type use struct {
	name string // "<import path>.<name>"
	line int
}

// uses lists what a file takes from packages that it imports.
func uses(t *testing.T, file string) []use {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	imports := map[string]string{} // by the name that the file calls them
	for _, i := range f.Imports {
		from, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		name := path.Base(from)
		if i.Name != nil {
			name = i.Name.Name
		}
		imports[name] = from
	}
	var all []use
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		// A local variable that hides the import has an object.
		if x, ok := s.X.(*ast.Ident); ok && x.Obj == nil && imports[x.Name] != "" {
			all = append(all, use{imports[x.Name] + "." + s.Sel.Name, fset.Position(s.Pos()).Line})
		}
		return true
	})
	return all
}
