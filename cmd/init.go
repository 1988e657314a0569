package cmd

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/lifecycle"
)

type initCommand struct {
	*operation
	options lifecycle.InitOptions
}

func newInit(a *app) *cobra.Command {
	o := &initCommand{}
	c := &cobra.Command{
		Use:   "init",
		Short: "Start the first member of a new cluster",
		Long: `Start the first member of a new cluster: install etcd, make the CA and the certificates, write the service, start it,
and wait until it serves. On a member that is healthy already there is nothing to do. Data that exists is never touched.`,
		Example: `  etcdadm init
  etcdadm init --name etcd-1 --bind-address 10.0.0.7
  etcdadm init --snapshot /var/backups/etcd/backup.db
  etcdadm init --dry-run -o json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c.Context(), o.plan) },
	}
	o.operation = newOperation(a, c, "init").withSkip(c, o.plan)
	o.flags(c.Flags())
	names, short := phaseNames(o.plan)
	addPhases(c, append(names, lifecycle.PhaseSnapshot), func(name string) *cobra.Command {
		p := &initCommand{}
		pc := &cobra.Command{
			Use:     name,
			Short:   orElse(short[name], "data directory from a snapshot"),
			Example: "  etcdadm init phase " + name,
			Args:    noArgs,
			RunE:    func(c *cobra.Command, _ []string) error { return p.phase(c.Context(), name) },
		}
		p.operation = newOperation(a, pc, "init")
		p.flags(pc.Flags())
		return pc
	})
	return c
}

func (o *initCommand) flags(f *pflag.FlagSet) {
	f.StringVar(&o.options.Snapshot, "snapshot", "", "snapshot file from which the cluster begins")
	f.BoolVar(&o.options.SkipHashCheck, "skip-hash-check", false, "accept a snapshot without a digest, such as a copied database file")
	f.Uint64Var(&o.options.BumpRevision, "bump-revision", constants.RestoreRevisionBump, "how far the revision of a restored cluster is raised; 0: not at all")
}

func (o *initCommand) plan(n *lifecycle.Node) []converge.Phase { return lifecycle.Init(n, o.options) }

// phase runs one phase. Without a snapshot the phase of that name has nothing to do: callers run it always.
func (o *initCommand) phase(ctx context.Context, name string) error {
	if name == lifecycle.PhaseSnapshot && o.options.Snapshot == "" {
		return o.run(ctx, o.plan, lifecycle.PhaseConfig)
	}
	return o.run(ctx, o.plan, lifecycle.PhaseConfig, name)
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
