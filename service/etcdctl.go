package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"regexp"
	"strings"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/file"
	"etcdadm/pkg/host"
)

// EtcdctlEnv is etcdctl.env: export lines for shells. Only the first line of each variable of ours is judged and
// rewritten, in its place; every other line is the user's, also one further down that sets such a variable again.
type EtcdctlEnv struct {
	Host        *host.Host
	CertsDir    string // logical
	BindAddress netip.Addr
	PathFor     func(logical string) string // Backend.PathFor
}

func (e EtcdctlEnv) lines() []KV {
	pair := path.Join(e.CertsDir, "etcdctl-etcd-client")
	return []KV{
		{"ETCDCTL_CACERT", e.PathFor(path.Join(e.CertsDir, "ca.crt"))},
		{"ETCDCTL_CERT", e.PathFor(pair + ".crt")},
		{"ETCDCTL_KEY", e.PathFor(pair + ".key")},
		{"ETCDCTL_ENDPOINTS", ListenersOf(e.BindAddress).Local},
		{"ETCDCTL_DIAL_TIMEOUT", fmt.Sprintf("%ds", int(constants.DialTimeout.Seconds()))},
	}
}

var exported = regexp.MustCompile(`^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=`)

// wanted returns the file as it should be, given how it is.
func (e EtcdctlEnv) wanted(have string) string {
	todo := e.lines()
	var b strings.Builder
	for line := range strings.Lines(have) {
		line = strings.TrimSuffix(line, "\n")
		if m := exported.FindStringSubmatch(line); m != nil {
			for i, kv := range todo {
				if kv.Key == m[1] {
					line = export(kv)
					todo = append(todo[:i:i], todo[i+1:]...)
					break
				}
			}
		}
		b.WriteString(line + "\n")
	}
	for _, kv := range todo {
		b.WriteString(export(kv) + "\n")
	}
	return b.String()
}

func (e EtcdctlEnv) file() (file.File, error) {
	have, err := e.Host.ReadFile(constants.EtcdctlEnvFile)
	if errors.Is(err, fs.ErrNotExist) {
		have, err = []byte("# Settings of etcdctl for this node, for shells. Lines that you add stay.\n"), nil
	}
	return file.File{Host: e.Host, Path: constants.EtcdctlEnvFile, Data: []byte(e.wanted(string(have))), Mode: 0o644}, err
}

// Check compares the lines that are ours.
func (e EtcdctlEnv) Check(ctx context.Context) (converge.Diff, error) {
	f, err := e.file()
	if err != nil {
		return nil, err
	}
	return f.Check(ctx)
}

// Apply replaces the file whole, the user's lines included.
func (e EtcdctlEnv) Apply(ctx context.Context) error {
	f, err := e.file()
	if err != nil {
		return err
	}
	return f.Apply(ctx)
}

// EtcdctlWrapper is etcdctl.sh in the install directory: it runs the etcdctl beside it with the settings of etcdctl.env.
func EtcdctlWrapper(h *host.Host, installDir string, pathFor func(logical string) string) converge.Resource {
	script := "#!/bin/sh\n" +
		"# Written by etcdadm: runs etcdctl with the endpoints and certificates of this node.\n" +
		". " + quote(pathFor(constants.EtcdctlEnvFile)) + "\n" +
		"exec " + quote(pathFor(path.Join(installDir, "etcdctl"))) + " \"$@\"\n"
	return file.File{Host: h, Path: path.Join(installDir, "etcdctl.sh"), Data: []byte(script), Mode: 0o755}
}

func export(kv KV) string { return "export " + kv.Key + "=" + quote(kv.Value) }

var plain = regexp.MustCompile(`^[A-Za-z0-9_./:,@%+-]+$`)

// quote returns a word as a POSIX shell reads it, plain where nothing in it needs a quote.
func quote(s string) string {
	if plain.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
