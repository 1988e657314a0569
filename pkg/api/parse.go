package api

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
)

// Limits of a configuration file, in bytes and in levels. Real ones have some 500 bytes and one level; the time that the
// YAML parser takes for a hostile one grows with the square of its size.
const (
	maxSize  = 64 << 10
	maxDepth = 64
)

// Parse reads a configuration file. The name of the file stands in errors, which are usage errors and name the line.
//
// It is strict: unknown and duplicate keys, anchors, tags and further documents are errors. Text means what it says:
// `name: no` is the name "no", and `name: 1e3` the name "1e3", quoted or not. An empty file says nothing.
func Parse(origin Origin, file string, data []byte) (Layer, error) {
	l := Layer{Origin: origin}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	switch {
	case len(data) > maxSize:
		return l, errs.New(errs.Usage, "%s has %d bytes; a configuration file has at most %d", file, len(data), maxSize)
	case !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0:
		return l, errs.New(errs.Usage, "%s is not a text file in UTF-8", file)
	case tooDeep(data): // the YAML parser is recursive, and a stack that overflows cannot be caught
		return l, errs.New(errs.Usage, "%s is nested too deep for a configuration file", file)
	}
	r := reader{file: file, layer: &l}
	tree, err := parse(data)
	if err != nil {
		var syntax yaml.Error
		if errors.As(err, &syntax) && syntax.GetToken() != nil {
			return l, r.fail(syntax.GetToken().Position.Line, "%s", oneLine(syntax.GetMessage()))
		}
		return l, errs.New(errs.Usage, "%s: %s", file, oneLine(err.Error()))
	}
	var body ast.Node
	for _, doc := range tree.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			return l, r.fail(line(doc.Body), "a second document begins here; a configuration file has one")
		}
		body = doc.Body
	}
	if body == nil || body.Type() == ast.NullType {
		return l, nil
	}
	entries, err := r.mapping("the configuration", body)
	if err != nil {
		return l, err
	}
	if err := r.header(entries); err != nil {
		return l, err
	}
	for _, e := range entries {
		if err := r.setting(e); err != nil {
			return l, err
		}
	}
	return l, nil
}

// parse keeps a defect of the YAML library from ending the program: the file comes from outside.
func parse(data []byte) (tree *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the YAML cannot be read: %v", p)
		}
	}()
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

// tooDeep counts open brackets, and in each line the dashes, colons and question marks that open a level each.
func tooDeep(data []byte) bool {
	brackets := 0
	for l := range bytes.Lines(data) {
		inLine := 0
		for i, b := range l {
			switch b {
			case '[', '{':
				brackets++
			case ']', '}':
				brackets = max(0, brackets-1)
			case '-', '?', ':':
				if i+1 < len(l) && (l[i+1] == ' ' || l[i+1] == '\t') {
					inLine++
				}
			}
			if brackets+inLine > maxDepth {
				return true
			}
		}
	}
	return false
}

type reader struct {
	file  string
	layer *Layer
}

type entry struct {
	key   string
	value ast.Node
	line  int
}

func (r reader) fail(line int, format string, args ...any) *errs.Error {
	return errs.New(errs.Usage, "%s:%d: %s", r.file, line, fmt.Sprintf(format, args...))
}

// mapping returns the entries of a mapping in their order, each key once.
func (r reader) mapping(what string, n ast.Node) ([]entry, error) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		return nil, r.fail(line(n), "%s is %s, not a mapping of keys to values", what, describe(n))
	}
	var entries []entry
	seen := map[string]int{}
	for _, kv := range m.Values {
		at := line(kv.Key)
		key, ok := text(kv.Key)
		if !ok {
			return nil, r.fail(at, "a key is %s, not text", describe(kv.Key))
		}
		if first, ok := seen[key]; ok {
			return nil, r.fail(at, "duplicate key %q; it stands in line %d already", key, first)
		}
		seen[key] = at
		entries = append(entries, entry{key, kv.Value, at})
	}
	return entries, nil
}

// header judges apiVersion and kind before anything else: a file of another version has other keys.
func (r reader) header(entries []entry) error {
	for _, want := range []struct{ key, value string }{{"apiVersion", constants.ConfigAPIVersion}, {"kind", constants.ConfigKind}} {
		found := false
		for _, e := range entries {
			if e.key != want.key {
				continue
			}
			found = true
			if v, ok := text(e.value); !ok || v != want.value {
				return r.fail(e.line, "%s is %s, not %q", e.key, describe(e.value), want.value)
			}
		}
		if !found && len(entries) > 0 {
			return r.fail(entries[0].line, "%s is missing", want.key).Hint("begin the file with the line: %s: %s", want.key, want.value)
		}
	}
	return nil
}

// setting has the layer say what an entry says.
func (r reader) setting(e entry) error {
	switch e.key {
	case "apiVersion":
		r.layer.Config.APIVersion = constants.ConfigAPIVersion
		return nil
	case "kind":
		r.layer.Config.Kind = constants.ConfigKind
		return nil
	}
	s := byKey(e.key)
	if s.Key == "" {
		known := []string{"apiVersion", "kind"}
		for _, s := range Settings {
			known = append(known, s.Key)
		}
		return r.fail(e.line, "unknown key %q%s", e.key, DidYouMean(e.key, known, "%q")).
			Hint("the keys are %s", strings.Join(known, ", "))
	}
	values, err := r.values(s, e)
	if err != nil {
		return err
	}
	if err := r.layer.Put(s, values...); err != nil {
		return r.fail(e.line, "%s: %s", e.key, err)
	}
	return nil
}

// values returns what an entry says in the form of Setting.Set.
func (r reader) values(s Setting, e entry) ([]string, error) {
	switch s.Kind {
	case List, Lines:
		seq, ok := e.value.(*ast.SequenceNode)
		if !ok {
			return nil, r.fail(e.line, "%s is %s, not a list", e.key, describe(e.value)).Hint("write %s: [\"...\"]", e.key)
		}
		values := []string{}
		for _, item := range seq.Values {
			v, ok := text(item)
			if !ok {
				return nil, r.fail(line(item), "%s: an item is %s, not text", e.key, describe(item))
			}
			values = append(values, v)
		}
		return values, nil
	case NameList:
		entries, err := r.mapping(e.key, e.value)
		if err != nil {
			return nil, err
		}
		values := []string{}
		for _, sub := range entries {
			v, ok := text(sub.value)
			if !ok {
				return nil, r.fail(sub.line, "%s.%s is %s, not text", e.key, sub.key, describe(sub.value))
			}
			if strings.Contains(sub.key, "=") {
				return nil, r.fail(sub.line, "%s: %q is not the name of a variable", e.key, sub.key)
			}
			values = append(values, sub.key+"="+v)
		}
		return values, nil
	}
	v, ok := text(e.value)
	if !ok {
		return nil, r.fail(e.line, "%s is %s, not text", e.key, describe(e.value))
	}
	return []string{v}, nil
}

// text returns a scalar as it is written, whatever type YAML would give it. Null has no text.
func text(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func describe(n ast.Node) string {
	if v, ok := text(n); ok {
		return fmt.Sprintf("%q", v)
	}
	switch n.(type) {
	case nil, *ast.NullNode:
		return "empty"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode, *ast.AliasNode:
		return "an anchor or alias"
	case *ast.TagNode:
		return "a tagged value"
	}
	return "a construct of YAML that is not supported here"
}

func line(n ast.Node) int {
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 1
	}
	return n.GetToken().Position.Line
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
