package lifecycle

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
)

// A check that is not in the list could not be ignored, and a name without a check would ignore nothing.
func TestCheckNamesAreThoseOfTheChecks(t *testing.T) {
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var made []string
	for _, source := range sources {
		file, err := parser.ParseFile(token.NewFileSet(), source, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 3 {
				return true
			}
			name := ""
			switch f := call.Fun.(type) {
			case *ast.Ident:
				name = f.Name
			case *ast.SelectorExpr:
				name = f.Sel.Name
			}
			if text, ok := call.Args[1].(*ast.BasicLit); ok && (name == "check" || name == "freeSpace") {
				check, err := strconv.Unquote(text.Value)
				if err != nil {
					t.Fatal(err)
				}
				made = append(made, check)
			}
			return true
		})
	}
	slices.Sort(made)
	if made = slices.Compact(made); !slices.Equal(made, CheckNames) {
		t.Errorf("the checks are\n%q, CheckNames are\n%q", made, CheckNames)
	}
}
