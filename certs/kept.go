package certs

import (
	"context"
	"path"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
)

// CAKept is the state that the CA of a directory outlives this node, as if an operator had brought it: other nodes go on
// with it, and this may be the only one that has its key.
func CAKept(h *host.Host, dir string) converge.Resource { return caKept{h, dir} }

type caKept struct {
	host *host.Host
	dir  string
}

func (k caKept) Check(context.Context) (converge.Diff, error) {
	made, err := CAMadeHere(k.host, k.dir)
	if err != nil || !made {
		return nil, err
	}
	return converge.Diff{{What: path.Join(k.dir, "ca.key"), Have: "made for this node", Want: "kept"}}, nil
}

func (k caKept) Apply(context.Context) error { return k.host.Remove(recordPath(k.dir)) }
