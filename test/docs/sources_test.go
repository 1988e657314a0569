package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/lifecycle"
)

// A message is a text that the program has for people.
type message struct {
	format string
	kind   string // the exit status, "warning" or "attention"; "" where the call does not tell
}

// sources are the parsed files of the program, without tests and generators.
func sources(t *testing.T) []*ast.File {
	t.Helper()
	var files []*ast.File
	for _, dir := range []string{"binary", "certs", "cmd", "constants", "pkg", "service"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			files = append(files, f)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

var statuses = map[string]errs.Status{
	"Failed": errs.Failed, "Usage": errs.Usage, "Precondition": errs.Precondition, "Locked": errs.Locked,
	"Timeout": errs.Timeout, "Verification": errs.Verification,
}

// messages are all texts in the sources, and what kind those are of that are given to a function which tells.
func messages(t *testing.T) []message {
	var list []message
	for _, f := range sources(t) {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				kind, rest := kindOf(n)
				for _, a := range rest {
					if s, ok := text(a); ok && kind != "" {
						list = append(list, message{s, kind})
					}
				}
			case *ast.BasicLit:
				if s, ok := text(n); ok {
					list = append(list, message{format: s})
				}
			case *ast.BinaryExpr:
				if s, ok := text(n); ok {
					list = append(list, message{format: s})
				}
			}
			return true
		})
	}
	return list
}

// kindOf tells what becomes of the text that a call is given.
func kindOf(c *ast.CallExpr) (kind string, rest []ast.Expr) {
	name := ""
	switch f := c.Fun.(type) {
	case *ast.Ident:
		name = f.Name
	case *ast.SelectorExpr:
		name = f.Sel.Name
	}
	switch {
	case name == "Warnf" && len(c.Args) > 1:
		return "warning", c.Args[1:2]
	case name == "attend" && len(c.Args) > 0:
		return "attention", c.Args[:1]
	case name == "New" && len(c.Args) > 1:
		if s, ok := c.Args[0].(*ast.SelectorExpr); ok {
			if status, ok := statuses[s.Sel.Name]; ok {
				return strconv.Itoa(int(status)), c.Args[1:2]
			}
		}
	}
	return "", nil
}

// text is the value of a constant text.
func text(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind != token.STRING {
			return "", false
		}
		s, err := strconv.Unquote(e.Value)
		return s, err == nil
	case *ast.BinaryExpr:
		a, aok := text(e.X)
		b, bok := text(e.Y)
		return a + b, aok && bok && e.Op == token.ADD
	}
	return "", false
}

var (
	verb   = regexp.MustCompile(`%(\[\d+\])?[+0-9.]*[a-z]`)
	quoted = regexp.MustCompile("(?m)^\\*\\*`(.+)`\\*\\* · (\\S+)$")
	blank  = regexp.MustCompile(`<[^<>]*>`)
)

// pattern is what a format may give, or nil for one that hardly says anything by itself.
func (m message) pattern() *regexp.Regexp {
	if m.fixed() < 10 {
		return nil
	}
	parts := verb.Split(m.format, -1)
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(strings.ReplaceAll(p, "%%", "%"))
	}
	return regexp.MustCompile(strings.Join(parts, ".*"))
}

// fixed is the length of what the format says by itself.
func (m message) fixed() int { return len(verb.ReplaceAllString(m.format, "")) }

// says tells whether a quote, in which <words> stand for what varies, is of this format; p is its pattern. Formats are
// put together: the one that counts says at least half of it.
func (m message) says(p *regexp.Regexp, quote string) bool {
	return p != nil && p.MatchString(quote) && 2*m.fixed() >= len(blank.ReplaceAllString(quote, ""))
}

func TestQuotedMessagesAreSaid(t *testing.T) {
	all := messages(t)
	patterns := make([]*regexp.Regexp, len(all))
	for i, m := range all {
		patterns[i] = m.pattern()
	}
	quotes := quoted.FindAllStringSubmatch(read(t, "docs/troubleshooting.md"), -1)
	if len(quotes) < 40 {
		t.Fatalf("only %d messages were found", len(quotes))
	}
	for _, q := range quotes {
		var kinds []string
		said := false
		for i, m := range all {
			if m.says(patterns[i], q[1]) {
				said = true
				if m.kind != "" {
					kinds = append(kinds, m.kind)
				}
			}
		}
		switch {
		case !said:
			t.Errorf("nothing says: %s", q[1])
		case len(kinds) > 0 && !slices.Contains(kinds, q[2]):
			t.Errorf("%s: the page says %s, the sources %s", q[1], q[2], strings.Join(kinds, ", "))
		}
	}
}

func TestSaysFindsEachKind(t *testing.T) {
	m := message{format: "port %d is taken by pid %d (%s)%s"}
	for quote, want := range map[string]bool{
		"port <port> is taken by pid <pid> (<name>)":                             true,
		"port <port> is taken by pid <pid> (<name>), which listens":              true,
		"port <port> is taken by pid <pid>":                                      false,
		"port <port> is used by pid <pid> (<name>)":                              false,
		"port <port> is taken by pid <pid> (<name>), and much more is said here": false,
	} {
		if m.says(m.pattern(), quote) != want {
			t.Errorf("%q: want %t", quote, want)
		}
	}
	if p := (message{format: "%s: %w"}).pattern(); p != nil {
		t.Errorf("a format that says nothing has the pattern %s", p)
	}
}

var checkRow = regexp.MustCompile(`(?m)^\| ([A-Z]\w+) \| `)

func TestPreflightChecksAreListed(t *testing.T) {
	var listed []string
	_, section, _ := strings.Cut(read(t, "docs/troubleshooting.md"), "## Preflight checks")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, m := range checkRow.FindAllStringSubmatch(section, -1) {
		listed = append(listed, m[1])
	}
	slices.Sort(listed)
	if !slices.Equal(lifecycle.CheckNames, listed) {
		t.Errorf("the page lists\n%q, the sources have\n%q", listed, lifecycle.CheckNames)
	}
}

func TestExitStatusesAreListed(t *testing.T) {
	page := read(t, "docs/automation.md")
	for _, s := range []errs.Status{
		errs.OK, errs.Failed, errs.Usage, errs.Precondition, errs.Locked, errs.Timeout, errs.Verification, errs.Attention, errs.Interrupted,
	} {
		if !strings.Contains(page, fmt.Sprintf("\n| %d | ", int(s))) {
			t.Errorf("docs/automation.md does not list exit status %d", int(s))
		}
	}
}

// unlisted are paths among the constants that are no files of ours.
var unlisted = []string{"/etc/kubernetes/manifests", "/var/log/pods"}

func TestEveryPathIsListed(t *testing.T) {
	page := read(t, "docs/files.md")
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "constants/constants.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	ast.Inspect(f, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok {
			if s, ok := text(l); ok && strings.HasPrefix(s, "/") && !slices.Contains(unlisted, s) {
				seen++
				if !strings.Contains(page, s) {
					t.Errorf("docs/files.md does not list %s", s)
				}
			}
		}
		return true
	})
	if seen < 10 {
		t.Errorf("only %d paths were found", seen)
	}
}

var (
	sourcePath = regexp.MustCompile(`^(?:\.ci|binary|certs|cmd|constants|docs|pkg|service|test)(?:/[\w./-]+)?$`)
	name       = regexp.MustCompile(`^\w+\.(\w+)$`)
)

func TestWhatTheLayoutNamesExists(t *testing.T) {
	declared := map[string]bool{}
	for _, f := range sources(t) {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				declared[d.Name.Name] = true
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						declared[s.Name.Name] = true
						if i, ok := s.Type.(*ast.InterfaceType); ok {
							for _, m := range i.Methods.List {
								for _, n := range m.Names {
									declared[n.Name] = true
								}
							}
						}
					case *ast.ValueSpec:
						declared[s.Names[0].Name] = true
					}
				}
			}
		}
	}
	for _, d := range documents(t) {
		if d.path != "docs/layout.md" && d.path != "CONTRIBUTING.md" && d.path != "docs/security.md" {
			continue
		}
		for _, s := range d.spans() {
			m := name.FindStringSubmatch(s)
			switch _, err := os.Stat(filepath.Join(root, s)); {
			case sourcePath.MatchString(s):
				if err != nil {
					t.Errorf("%s: there is no %s", d.path, s)
				}
			case m != nil && err != nil && filepath.Ext(s) != ".go" && filepath.Ext(s) != ".env" && filepath.Ext(s) != ".crt" && filepath.Ext(s) != ".key":
				if !declared[m[1]] {
					t.Errorf("%s: nothing is called %s", d.path, s)
				}
			}
		}
	}
}
