package service

import (
	"context"

	"etcdadm/pkg/converge"
)

// Enabled cannot be had without an init system. It says so, and is no gap: nobody asked for this backend by accident.
func (p *process) Enabled() converge.Resource {
	return atBoot{"etcd is not started at boot: that takes an init system"}
}

// Disabled always holds.
func (p *process) Disabled() converge.Resource { return atBoot{} }

// atBoot is the start at boot of a backend that has none.
type atBoot struct{ note string }

func (a atBoot) Check(ctx context.Context) (converge.Diff, error) {
	if a.note != "" {
		converge.Notef(ctx, "%s", a.note)
	}
	return nil, nil
}

func (atBoot) Apply(context.Context) error { return nil }
