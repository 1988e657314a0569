package script

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/rogpeppe/go-internal/testscript"
)

// document checks the standard output: json PATH REGEXP. A path is keys with points between them; in a list, a number,
// the value of an element's "step", "name" or "what", or "count" for how many there are. Without REGEXP the path has to be there.
func document(ts *testscript.TestScript, neg bool, args []string, parse func([]byte) (any, error)) {
	doc, err := parse([]byte(ts.ReadFile("stdout")))
	ts.Check(err)
	value, err := find(doc, args[0])
	matches := err == nil
	got := fmt.Sprint(value)
	if matches && len(args) > 1 {
		re, err := regexp.Compile(`(?s)^(?:` + strings.Join(args[1:], " ") + `)$`)
		ts.Check(err)
		matches = re.MatchString(got)
	}
	switch {
	case err != nil && !neg:
		ts.Fatalf("%v", err)
	case matches == neg:
		ts.Fatalf("%s is %q", args[0], got)
	}
}

// parseJSON reads exactly one document.
func parseJSON(data []byte) (doc any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("standard output is no JSON: %w: %q", err, data)
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("standard output holds more than one document: %q", data)
	}
	return doc, nil
}

// parseYAML reads exactly one document, which must not be JSON.
func parseYAML(data []byte) (any, error) {
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) || bytes.Contains(data, []byte("\n---")) {
		return nil, fmt.Errorf("standard output is not one document of YAML: %q", data)
	}
	b, err := yaml.YAMLToJSON(data)
	if err != nil {
		return nil, err
	}
	return parseJSON(b)
}

func find(doc any, path string) (any, error) {
	for _, key := range strings.Split(path, ".") {
		var next any
		found := false
		switch d := doc.(type) {
		case map[string]any:
			next, found = d[key]
		case []any:
			if key == "count" {
				next, found = len(d), true
				break
			}
			if i, err := strconv.Atoi(key); err == nil && i < len(d) {
				next, found = d[i], true
				break
			}
			i := slices.IndexFunc(d, func(e any) bool {
				m, _ := e.(map[string]any)
				return m["step"] == key || m["name"] == key || m["what"] == key
			})
			if found = i >= 0; found {
				next = d[i]
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no %q of %s in %v", key, path, doc)
		}
		doc = next
	}
	return doc, nil
}
