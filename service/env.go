package service

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/file"
	"etcdadm/pkg/host"
)

// KV is one environment variable.
type KV struct{ Key, Value string }

func (kv KV) String() string { return kv.Key + "=" + kv.Value }

var envKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// check refuses what systemd's EnvironmentFile (systemd.exec(5)) would read as something else than KEY=value says,
// and what no environment can hold. A quote inside a value is a quote, so JSON is fine.
func (kv KV) check() error {
	switch v := kv.Value; {
	case !envKey.MatchString(kv.Key):
		return fmt.Errorf("%.40q is not the name of an environment variable", kv.Key)
	case !utf8.ValidString(v):
		return fmt.Errorf("the value of %s is not UTF-8", kv.Key)
	case strings.ContainsFunc(v, unicode.IsControl):
		return fmt.Errorf("the value of %s contains a control character", kv.Key)
	case strings.Contains(v, `\`):
		return fmt.Errorf("the value of %s contains a backslash", kv.Key)
	case strings.HasPrefix(v, `"`), strings.HasPrefix(v, `'`):
		return fmt.Errorf("the value of %s begins with a quote", kv.Key)
	case v != strings.TrimSpace(v):
		return fmt.Errorf("the value of %s begins or ends with a blank", kv.Key)
	}
	return nil
}

// RenderEnv returns the contents of etcd.env: one KEY=value line for each variable, and the digest as the last one, so
// that a process that is started from the file carries it. No comment names a variable: callers look for the lines of
// some of them by a part of the name.
func RenderEnv(kvs []KV, digest string) []byte {
	return renderEnv("# Written by etcdadm; changes are lost. More variables: extraEnv in "+constants.ConfigFile+".",
		append(slices.Clip(kvs), KV{constants.DigestVariable, digest}))
}

func renderEnv(comment string, kvs []KV) []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, comment)
	for _, kv := range kvs {
		fmt.Fprintln(&b, kv)
	}
	return b.Bytes()
}

// ParseEnv reads KEY=value lines, unquoted, with # and ; comments, as systemd's EnvironmentFile reads them. What systemd
// would treat in a way of its own (quotes, escapes, blanks at the ends, keys given twice) is an error with its line.
func ParseEnv(data []byte) ([]KV, error) {
	var kvs []KV
	seen := map[string]bool{}
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("line %d is not of the form KEY=value", n)
		}
		kv := KV{key, value}
		if err := kv.check(); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if seen[key] {
			return nil, fmt.Errorf("line %d: %s is set twice", n, key)
		}
		seen[key] = true
		kvs = append(kvs, kv)
	}
	return kvs, nil
}

// readEnv reads an environment file of the node. Absence is fs.ErrNotExist.
func readEnv(h *host.Host, path string) ([]KV, error) {
	data, err := h.ReadFile(path)
	if err != nil {
		return nil, err
	}
	kvs, err := ParseEnv(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return kvs, nil
}

// EnvFile is etcd.env with the given variables and their digest.
type EnvFile struct {
	Host        *host.Host
	Environment []KV
	Digest      string
}

func (e EnvFile) file() file.File {
	return file.File{Host: e.Host, Path: constants.EnvFile, Data: RenderEnv(e.Environment, e.Digest), Mode: 0o644}
}

// Check compares the file. A change names the variables that differ, without their values.
func (e EnvFile) Check(ctx context.Context) (converge.Diff, error) {
	d, err := e.file().Check(ctx)
	if err != nil || len(d) == 0 {
		return d, err
	}
	have, err := readEnv(e.Host, constants.EnvFile)
	if err != nil {
		return d, nil //nolint:nilerr // absent or not a file of ours: the gap says so
	}
	if keys := differing(have, append(slices.Clip(e.Environment), KV{constants.DigestVariable, e.Digest})); len(keys) > 0 {
		d[len(d)-1].Have = "other " + strings.Join(keys, ", ")
	}
	return d, nil
}

// Apply replaces the file whole.
func (e EnvFile) Apply(ctx context.Context) error { return e.file().Apply(ctx) }

// differing lists the keys that only one side has, or that have another value, in the order of want.
func differing(have, want []KV) []string {
	old := map[string]string{}
	for _, kv := range have {
		old[kv.Key] = kv.Value
	}
	var keys []string
	for _, kv := range want {
		if v, ok := old[kv.Key]; (!ok || v != kv.Value) && kv.Key != constants.DigestVariable {
			keys = append(keys, kv.Key)
		}
		delete(old, kv.Key)
	}
	for _, kv := range have {
		if _, left := old[kv.Key]; left {
			keys = append(keys, kv.Key)
		}
	}
	return keys
}
