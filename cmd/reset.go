package cmd

import (
	"github.com/spf13/cobra"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/lifecycle"
)

type resetCommand struct {
	*operation
	options lifecycle.ResetOptions
}

func newReset(a *app) *cobra.Command {
	o := &resetCommand{}
	c := &cobra.Command{
		Use:   "reset",
		Short: "Leave the cluster and remove everything that etcdadm made on this node",
		Long: `Leave the cluster, verify that it let go of this member, and then remove data, certificates, service and programs.
Nothing is deleted while the cluster still counts on this member. The last member of a cluster keeps a final snapshot
in /var/backups/etcd. A CA that an operator brought here stays. Where there is nothing to reset, there is nothing to do.`,
		Example: `  etcdadm reset
  etcdadm reset --skip-remove-member    # the cluster is lost, or has removed this member already`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c.Context(), o.plan) },
	}
	o.operation = newOperation(a, c, "reset").withSkip(c, o.plan)
	c.Flags().BoolVar(&o.options.SkipRemoveMember, "skip-remove-member", false, "do not ask the cluster: delete this node's data even if the cluster counts on it")
	names, short := phaseNames(o.plan)
	addPhases(c, names, func(name string) *cobra.Command {
		p := &resetCommand{}
		pc := &cobra.Command{
			Use: name, Short: short[name], Example: "  etcdadm reset phase " + name, Args: noArgs,
			RunE: func(c *cobra.Command, _ []string) error { return p.run(c.Context(), p.plan, name) },
		}
		p.operation = newOperation(a, pc, "reset")
		pc.Flags().BoolVar(&p.options.SkipRemoveMember, "skip-remove-member", false, "do not ask the cluster")
		return pc
	})
	return c
}

func (o *resetCommand) plan(n *lifecycle.Node) []converge.Phase { return lifecycle.Reset(n, o.options) }
