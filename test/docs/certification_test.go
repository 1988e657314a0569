package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// proofOf matches what stands in the second column of docs/certification.md.
var proofOf = regexp.MustCompile("`([^`]+)`")

// A promise whose test was renamed or removed is proved by nobody.
func TestEveryProofExists(t *testing.T) {
	text, err := os.ReadFile("../../docs/certification.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 4 || strings.TrimSpace(cells[2]) == "proof" || strings.HasPrefix(cells[1], "---") {
			continue
		}
		rows++
		proofs := proofOf.FindAllStringSubmatch(cells[2], -1)
		if len(proofs) == 0 {
			t.Errorf("nothing proves %q", strings.TrimSpace(cells[1]))
		}
		for _, p := range proofs {
			if !proofExists(t, p[1]) {
				t.Errorf("there is no %s", p[1])
			}
		}
	}
	if rows < 40 {
		t.Errorf("the page has only %d promises: is it still read?", rows)
	}
}

// proofExists tells whether there is the story (a path) or the test (package.TestName).
func proofExists(t *testing.T, proof string) bool {
	t.Helper()
	dir, name, isTest := strings.Cut(proof, ".Test")
	if !isTest {
		_, err := os.Stat(filepath.Join("../..", proof))
		return err == nil
	}
	files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc Test"+name+"(t *testing.T) {") {
			return true
		}
	}
	return false
}

func TestProofsThatAreNoneAreSeen(t *testing.T) {
	for proof, want := range map[string]bool{
		"test/docs.TestEveryProofExists": true,
		"test/docs.TestEveryProof":       false,
		"docs/certification.md":          true,
		"docs/nothing.md":                false,
		"nowhere.TestEveryProofExists":   false,
	} {
		if got := proofExists(t, proof); got != want {
			t.Errorf("%s exists: %t", proof, got)
		}
	}
}
