package binary

import (
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
)

// maxSums is far above any list of digests: upstream's has some 20 lines.
const maxSums = 1 << 20

// blanks separate a digest from its name.
const blanks = " \t"

var sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ParseSums reads a list of digests as sha256sum(1) prints it, "<hex>  <name>" or "<hex> *<name>" on each line, and
// returns them by the last element of the name, in lower case. Any blanks may stand before the name: a line that was
// copied from a terminal or a page has often lost one. A list of one bare digest, as <url>.sha256 often is, has it under
// the empty name. Anything else is an error that tells the line.
func ParseSums(r io.Reader) (map[string]string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSums+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxSums {
		return nil, fmt.Errorf("more than %d bytes, which is no list of digests", maxSums)
	}
	sums := map[string]string{}
	number := 0
	for line := range strings.Lines(string(b)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if strings.TrimSpace(line) == "" {
			continue
		}
		end := strings.IndexAny(line+" ", blanks)
		sum, name := strings.ToLower(line[:end]), ""
		if !sha256Hex.MatchString(sum) {
			return nil, fmt.Errorf("line %d: does not begin with a SHA-256 of 64 hexadecimal digits", number)
		}
		if end < len(line) {
			// The second column is the mode of sha256sum: text or binary.
			_, file := path.Split(strings.TrimPrefix(line[end+1:], "*"))
			if name = strings.TrimLeft(file, blanks); name == "" {
				return nil, fmt.Errorf("line %d: want \"<sha256>  <file name>\"", number)
			}
		}
		if other, twice := sums[name]; twice && other != sum {
			return nil, fmt.Errorf("line %d: a second digest for %q", number, name)
		}
		sums[name] = sum
	}
	if len(sums) == 0 {
		return nil, fmt.Errorf("no digest in it")
	}
	if sums[""] != "" && len(sums) > 1 {
		return nil, fmt.Errorf("a digest without a file name among others")
	}
	return sums, nil
}

// sumOf returns the digest under the first name that is listed, or the bare one.
func sumOf(sums map[string]string, names ...string) string {
	for _, n := range append(names, "") {
		if sum := sums[n]; sum != "" {
			return sum
		}
	}
	return ""
}
