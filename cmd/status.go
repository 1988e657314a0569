package cmd

import (
	"github.com/spf13/cobra"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/pkg/lifecycle"
	"etcdadm/pkg/report"
)

func newStatus(a *app) *cobra.Command {
	var given settings
	c := &cobra.Command{
		Use:   "status",
		Short: "Describe this node and its cluster",
		Long: `Describe this node and its cluster: service, data directory, certificates and when they expire, what differs from the
configuration, members, leader, versions, sizes and alarms. Nothing is changed.

Exit status:
  0    all is well
  10   attention is needed: a member is unhealthy, a certificate expires, the node drifted
  others as in etcdadm --help`,
		Example: "  etcdadm status\n  etcdadm status -o json",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := a.node("status", given, host.ReadOnly())
			if problem := err; problem != nil {
				// Whatever is wrong with the configuration: what can be seen without it is shown.
				a.unstored = true
				if n, err = a.node("status", given, host.ReadOnly()); err != nil {
					return problem
				}
				n.Unstored = problem
			}
			defer n.Close()
			ctx, cancel := a.limited(c.Context())
			defer cancel()
			status, err := lifecycle.Describe(ctx, n)
			if err != nil {
				return err
			}
			a.written = true
			if err := report.Write(a.Out, a.format, status, status.Text); err != nil {
				return err
			}
			if len(status.Attention) > 0 {
				return silent(errs.Attention)
			}
			return nil
		},
	}
	given = addSettings(c, "status")
	return c
}

func newInfo(a *app) *cobra.Command {
	var given settings
	c := &cobra.Command{
		Use:     "info",
		Short:   "Print the member that runs on this node, as JSON",
		Example: "  etcdadm info",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := a.node("info", given, host.ReadOnly())
			if err != nil {
				return err
			}
			defer n.Close()
			ctx, cancel := a.limited(c.Context())
			defer cancel()
			member, err := lifecycle.Info(ctx, n)
			if err != nil {
				return err
			}
			a.written = true
			format := a.format
			if format == report.Text { // programs read it
				format = report.JSON
			}
			return report.Write(a.Out, format, member, nil)
		},
	}
	given = addSettings(c, "info")
	return c
}
