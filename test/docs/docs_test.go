// Package docs holds the documentation to its word: links lead somewhere, commands and flags exist, quoted messages are
// in the sources, and what is named is there.
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// document is one page, by its path from the root of the repository.
type document struct{ path, text string }

// documents are the pages that people write, and those that are written by the generator.
func documents(t *testing.T) []document {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	var list []document
	for _, p := range append(paths, filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md")) {
		rel, err := filepath.Rel(root, p)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, document{rel, read(t, rel)})
	}
	if len(list) < 9 {
		t.Fatalf("only %d pages were found", len(list))
	}
	return list
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	fence  = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	inline = regexp.MustCompile("`([^`\n]+)`")
)

// block is a fenced block.
type block struct{ language, text string }

func (d document) blocks() []block {
	var list []block
	for _, m := range fence.FindAllStringSubmatch(d.text, -1) {
		list = append(list, block{m[1], m[2]})
	}
	return list
}

// prose is the page without its blocks.
func (d document) prose() string { return fence.ReplaceAllString(d.text, "") }

// spans are the words of the prose that are set as code.
func (d document) spans() []string {
	var list []string
	for _, m := range inline.FindAllStringSubmatch(d.prose(), -1) {
		list = append(list, m[1])
	}
	return list
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	strange = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// anchors are the names that GitHub gives to the headings of a page.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		found[strings.ReplaceAll(strange.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return found
}

func TestLinksLeadSomewhere(t *testing.T) {
	for _, d := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(d.prose(), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			text := d.text
			if target != "" {
				path := filepath.Join(filepath.Dir(d.path), target)
				info, err := os.Stat(filepath.Join(root, path))
				if err != nil {
					t.Errorf("%s: the link to %s leads nowhere", d.path, m[1])
					continue
				}
				if info.IsDir() {
					continue
				}
				text = read(t, path)
			}
			if anchor != "" && !anchors(text)[anchor] {
				t.Errorf("%s: %s has no heading for the link %s", d.path, target, m[1])
			}
		}
	}
}

func TestEveryPageIsReachedFromTheREADME(t *testing.T) {
	readme := read(t, "README.md")
	for _, d := range documents(t) {
		if d.path != "README.md" && !strings.Contains(readme, "]("+d.path+")") {
			t.Errorf("README.md does not lead to %s", d.path)
		}
	}
}
