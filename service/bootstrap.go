package service

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/file"
	"etcdadm/pkg/host"
)

// The states of an initial cluster.
const (
	stateNew      = "new"
	stateExisting = "existing"
)

// Bootstrap is what etcd needs to know once, before its data directory exists.
type Bootstrap struct {
	InitialCluster string // name=https://ip:2380, comma between members
	State          string // "new", or "existing" to join
	Token          string // of a new cluster; "" when joining
}

// NewToken draws a cluster token of 128 random bits, in hex. Two clusters with the same token and members would take
// each other's members for their own.
func NewToken() (string, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return hex.EncodeToString(b), nil
}

// Render returns the contents of bootstrap.env.
func (b Bootstrap) Render() []byte {
	kvs := []KV{{"ETCD_INITIAL_CLUSTER", b.InitialCluster}, {"ETCD_INITIAL_CLUSTER_STATE", b.State}}
	if b.Token != "" {
		kvs = append(kvs, KV{"ETCD_INITIAL_CLUSTER_TOKEN", b.Token})
	}
	return renderEnv("# Written by etcdadm for the first start of this member; of no use after it.", kvs)
}

// ParseBootstrap reads bootstrap.env.
func ParseBootstrap(data []byte) (Bootstrap, error) {
	kvs, err := ParseEnv(data)
	if err != nil {
		return Bootstrap{}, err
	}
	var b Bootstrap
	for _, kv := range kvs {
		switch kv.Key {
		case "ETCD_INITIAL_CLUSTER":
			b.InitialCluster = kv.Value
		case "ETCD_INITIAL_CLUSTER_STATE":
			b.State = kv.Value
		case "ETCD_INITIAL_CLUSTER_TOKEN":
			b.Token = kv.Value
		default:
			return Bootstrap{}, fmt.Errorf("%s does not belong to the bootstrap of a member", kv.Key)
		}
	}
	return b, b.validate()
}

func (b Bootstrap) validate() error {
	if b.State != stateNew && b.State != stateExisting {
		return fmt.Errorf("the initial cluster state %q is neither new nor existing", b.State)
	}
	for m := range strings.SplitSeq(b.InitialCluster, ",") {
		name, peer, _ := strings.Cut(m, "=")
		u, err := url.Parse(peer)
		if name == "" || err != nil || u.Scheme == "" || u.Host == "" {
			return fmt.Errorf("%q in the initial cluster is not of the form name=https://ip:2380", m)
		}
	}
	return nil
}

// sameCluster tells whether both name the same members, in whatever order.
func (b Bootstrap) sameCluster(c Bootstrap) bool {
	split := func(s string) []string { m := strings.Split(s, ","); slices.Sort(m); return m }
	return slices.Equal(split(b.InitialCluster), split(c.InitialCluster))
}

// BootstrapFile is bootstrap.env for the first start of a member. A file for the same new cluster stays, whatever its
// token is, so that a second run bootstraps what the first one began. Without a wanted token, Apply draws one.
type BootstrapFile struct {
	Host *host.Host
	Want Bootstrap
}

// Check compares members, state and, when one is wanted for an existing cluster, the token.
func (f BootstrapFile) Check(ctx context.Context) (converge.Diff, error) {
	gap := func(have string) converge.Diff {
		return converge.Diff{{What: constants.BootstrapFile, Have: have, Want: "written"}}
	}
	data, err := f.Host.ReadFile(constants.BootstrapFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return gap("absent"), nil
	case err != nil:
		return nil, err
	}
	have, err := ParseBootstrap(data)
	switch {
	case err != nil:
		return gap(err.Error()), nil
	case !have.sameCluster(f.Want):
		return gap("another initial cluster"), nil
	case have.State != f.Want.State:
		return gap("state " + have.State), nil
	case have.State == stateNew && have.Token == "", have.State == stateExisting && have.Token != f.Want.Token:
		return gap("another token"), nil
	}
	return nil, nil
}

// Apply replaces the file whole.
func (f BootstrapFile) Apply(ctx context.Context) error {
	if f.Want.State == stateNew && f.Want.Token == "" {
		token, err := NewToken()
		if err != nil {
			return err
		}
		f.Want.Token = token
	}
	if err := f.Want.validate(); err != nil {
		return err
	}
	return file.File{Host: f.Host, Path: constants.BootstrapFile, Data: f.Want.Render(), Mode: 0o644}.Apply(ctx)
}
