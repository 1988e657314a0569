package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// StaticPods is a directory of manifests in which no other one than ours is of an etcd.
type StaticPods struct {
	Host *host.Host
	Dir  string
	File string                 // the name of our manifest
	Ours func(text []byte) bool // tells it from one of somebody else
}

// ofEtcd is what a manifest of etcd has, whoever wrote it: the URLs on which members listen for each other.
var ofEtcd = regexp.MustCompile(`--listen-peer-urls|ETCD_LISTEN_PEER_URLS`)

// Check reads the manifests that a kubelet reads: files whose names do not begin with a dot.
func (s StaticPods) Check(context.Context) (converge.Diff, error) {
	entries, err := s.Host.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errs.New(errs.Precondition, "the directory of static pods cannot be read: %w", err).
			Hint("give the one that the kubelet reads: --kubelet-pod-manifest-path DIR")
	}
	for _, e := range entries {
		p := path.Join(s.Dir, e.Name())
		info, err := s.Host.Stat(p)
		if strings.HasPrefix(e.Name(), ".") || err != nil || !info.Mode().IsRegular() {
			continue
		}
		text, err := s.Host.ReadFile(p)
		if err != nil {
			return nil, fmt.Errorf("static pod: %w", err)
		}
		if e.Name() == s.File && !s.Ours(text) || e.Name() != s.File && ofEtcd.Match(text) {
			return nil, errs.New(errs.Precondition, "%s is a static pod that etcdadm did not write", p).
				Hint("if it is an etcd that this node is to have no more, remove it from its cluster and move the file away").
				Hint("a node holds one etcd: for two clusters, take two nodes")
		}
	}
	return nil, nil
}
