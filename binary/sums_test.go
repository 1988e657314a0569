package binary_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"etcdadm/binary"
)

func TestParseSums(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	for _, c := range []struct {
		name, text string
		want       map[string]string
		err        string
	}{
		{"text and binary mode", a + "  x.tar.gz\n" + b + " *y.tar.gz\n", map[string]string{"x.tar.gz": a, "y.tar.gz": b}, ""},
		{"no newline at the end", a + "  x", map[string]string{"x": a}, ""},
		{"upper case, DOS, blank lines", "\r\n" + strings.ToUpper(a) + "  x\r\n\n", map[string]string{"x": a}, ""},
		{"a path", a + "  ./dist/x\n", map[string]string{"x": a}, ""},
		{"bare", a + "\n", map[string]string{"": a}, ""},
		{"twice the same", a + "  x\n" + a + "  x\n", map[string]string{"x": a}, ""},
		{"blanks in the name", a + "  x y\n", map[string]string{"x y": a}, ""},
		{"any blanks between", a + " x\n" + b + "   y\n" + a + "\tz\n", map[string]string{"x": a, "y": b, "z": a}, ""},
		{"a name with a star", a + "  *x\n", map[string]string{"*x": a}, ""},
		{"two for one name", a + "  x\n" + b + "  x\n", nil, "line 2: a second digest"},
		{"two bare", a + "\n" + b + "\n", nil, "line 2: a second digest"},
		{"bare among others", a + "  x\n" + b + "\n", nil, "without a file name"},
		{"short digest", a + "  x\n" + a[1:] + "  y\n", nil, "line 2: does not begin with a SHA-256"},
		{"no name", a + "  \n", nil, "line 1: want"},
		{"a directory", a + "  x/\n", nil, "line 1: want"},
		{"BSD style", "SHA256 (x) = " + a + "\n", nil, "line 1: does not begin"},
		{"a page", "<html>\n", nil, "line 1: does not begin"},
		{"empty", "", nil, "no digest"},
		{"too long", strings.Repeat("\n", 2<<20), nil, "more than 1048576 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := binary.ParseSums(strings.NewReader(c.text))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if d := cmp.Diff(c.want, got); d != "" || err != nil {
				t.Errorf("%v\n%s", err, d)
			}
		})
	}
}

func FuzzParseSums(f *testing.F) {
	f.Add(strings.Repeat("a", 64) + "  x.tar.gz\n" + strings.Repeat("B", 64) + " *y\r\n")
	f.Add(strings.Repeat("0", 64))
	f.Add(strings.Repeat("0", 64) + " * a/ *b\n")
	f.Add("SHA256 (x) = " + strings.Repeat("0", 64))
	f.Fuzz(func(t *testing.T, text string) {
		sums, err := binary.ParseSums(strings.NewReader(text))
		if err != nil {
			return
		}
		var again strings.Builder
		for name, sum := range sums {
			if len(sum) != 64 || strings.Trim(sum, "0123456789abcdef") != "" {
				t.Fatalf("digest %q", sum)
			}
			if strings.Contains(name, "/") {
				t.Fatalf("name %q", name)
			}
			if name == "" {
				again.WriteString(sum + "\n")
			} else {
				again.WriteString(sum + "  " + name + "\n")
			}
		}
		// What was read is what sha256sum would print.
		twice, err := binary.ParseSums(strings.NewReader(again.String()))
		if d := cmp.Diff(sums, twice); err != nil || d != "" {
			t.Fatalf("%v\n%s", err, d)
		}
	})
}
