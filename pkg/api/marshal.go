package api

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"etcdadm/constants"
)

// Marshal returns the YAML of c, the same bytes for the same configuration, which Parse reads back. A scalar that is
// empty is left out. Text is quoted unless every YAML reader takes it for text.
func (c Config) Marshal() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "apiVersion: %s\nkind: %s\n", constants.ConfigAPIVersion, constants.ConfigKind)
	for _, s := range Settings {
		values := s.Get(c)
		switch {
		case s.Kind == Integer && len(values) > 0:
			fmt.Fprintf(&b, "%s: %s\n", s.Key, values[0])
		case (s.Kind == Text || s.Kind == Time) && len(values) > 0:
			fmt.Fprintf(&b, "%s: %s\n", s.Key, YAMLString(values[0]))
		case s.Kind == List || s.Kind == Lines:
			collection(&b, s.Key, "[]", len(values))
			for _, v := range values {
				fmt.Fprintf(&b, "  - %s\n", YAMLString(v))
			}
		case s.Kind == NameList:
			collection(&b, s.Key, "{}", len(values))
			for _, kv := range values {
				k, v, _ := strings.Cut(kv, "=")
				fmt.Fprintf(&b, "  %s: %s\n", YAMLString(k), YAMLString(v))
			}
		}
	}
	return b.Bytes()
}

func collection(b *bytes.Buffer, key, empty string, n int) {
	if n > 0 {
		empty = ""
	}
	b.WriteString(strings.TrimRight(key+": "+empty, " ") + "\n")
}

// YAMLString returns s as a scalar of YAML that every reader takes for this text: as it stands when it begins like a word or
// a path and holds nothing that YAML knows, else in double quotes.
func YAMLString(s string) string {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if letter || i == 0 && r == '/' || i > 0 && (r >= '0' && r <= '9' || strings.ContainsRune("/._-+@=", r)) {
			continue
		}
		return doubleQuote(s)
	}
	switch strings.ToLower(s) {
	case "", "true", "false", "yes", "no", "on", "off", "y", "n", "null":
		return doubleQuote(s)
	}
	return s
}

func doubleQuote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		case !strconv.IsPrint(r) && r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		case !strconv.IsPrint(r):
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
