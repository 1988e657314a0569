package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestTableIsInStepWithTheList(t *testing.T) {
	want, err := render(list)
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../checksums_gen.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("checksums_gen.go is not what etcd_checksums.tsv says; run `go generate ./binary`")
	}
}

func TestListIsJudgedStrictly(t *testing.T) {
	sum := strings.Repeat("a", 64)
	good := "v3.6.0\tlinux\tamd64\t" + sum + "\tsomebody\t1\n"
	for _, c := range []struct{ name, list, want string }{
		{"other header", "version\n" + good, "line 1: want the header"},
		{"too few columns", header + "\nv3.6.0\tlinux\n", "line 2: 2 columns"},
		{"no version", header + "\n" + strings.Replace(good, "v3.6.0", "latest", 1), "line 2: \"latest\" is not a version"},
		{"short digest", header + "\n" + strings.Replace(good, sum, "abc", 1), "line 2: \"abc\" is not a SHA-256"},
		{"no number", header + "\n" + strings.Replace(good, "\t1\n", "\tmany\n", 1), "line 2: \"many\" is not a number"},
		{"twice", header + "\n" + good + good, "line 3: v3.6.0 for linux/amd64 stands there twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := render(c.list); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}
