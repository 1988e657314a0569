package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/lifecycle"
)

type joinCommand struct {
	*operation
	options lifecycle.JoinOptions
}

func newJoin(a *app) *cobra.Command {
	o := &joinCommand{}
	c := &cobra.Command{
		Use:   "join URL[,URL...]",
		Short: "Make this node a member of an existing cluster",
		Long: `Make this node a member of the cluster that answers at the given client URLs: as a learner first, which becomes a
voter when it has caught up, so that the cluster serves all the while. Some of the URLs may be dead. The CA of the
cluster (ca.crt and ca.key) must be in the directory of the certificates. Nodes that join at the same moment wait
for each other.`,
		Example: `  etcdadm join https://10.0.0.7:2379
  etcdadm join https://10.0.0.7:2379,https://10.0.0.8:2379 --name etcd-3`,
		Args: oneArg("the client URL of a member, or several with commas"),
		RunE: func(c *cobra.Command, args []string) error { return o.join(c.Context(), args[0]) },
	}
	o.operation = newOperation(a, c, "join").withSkip(c, o.plan)
	c.Flags().BoolVar(&o.options.Retry, "retry", true, "wait while the cluster cannot take a member")
	names, short := phaseNames(o.plan)
	addPhases(c, names, func(name string) *cobra.Command {
		p := &joinCommand{}
		pc := &cobra.Command{
			Use:     name + " URL[,URL...]",
			Short:   short[name],
			Example: "  etcdadm join phase " + name + " https://10.0.0.7:2379",
			Args:    oneArg("the client URL of a member, or several with commas"),
			RunE: func(c *cobra.Command, args []string) error {
				return p.join(c.Context(), args[0], lifecycle.PhaseConfig, name)
			},
		}
		p.operation = newOperation(a, pc, "join")
		pc.Flags().BoolVar(&p.options.Retry, "retry", true, "wait while the cluster cannot take a member")
		return pc
	})
	return c
}

func (o *joinCommand) plan(n *lifecycle.Node) []converge.Phase { return lifecycle.Join(n, o.options) }

// join reads the argument and runs. One phase makes certificates only, and takes the argument as it is.
func (o *joinCommand) join(ctx context.Context, urls string, phases ...string) error {
	if len(phases) > 0 && phases[len(phases)-1] == lifecycle.PhaseCertificates {
		o.options.MissingOnly = true
		return o.run(ctx, o.plan, phases...)
	}
	endpoints, err := lifecycle.ParseEndpoints(urls)
	if err != nil {
		return err
	}
	o.options.Endpoints = endpoints
	return o.run(ctx, o.plan, phases...)
}
