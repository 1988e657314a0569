package cmd

import (
	"github.com/spf13/cobra"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/lifecycle"
)

// addPhases gives a command the subcommand "phase", with one subcommand for each of its phases. Each may run in a
// process of its own: nothing is handed over but what is on the node and in the cluster.
func addPhases(c *cobra.Command, phases []string, make func(name string) *cobra.Command) {
	parent := &cobra.Command{
		Use:   "phase",
		Short: "Run one phase of " + c.Name(),
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return errs.New(errs.Usage, "%s needs the name of a phase", c.CommandPath()).Hint("%s --help", c.CommandPath())
		},
	}
	for _, name := range phases {
		parent.AddCommand(make(name))
	}
	c.AddCommand(parent)
}

// phaseNames lists the phases, each of which is a command of its own.
func phaseNames(p plan) (names []string, short map[string]string) {
	short = map[string]string{}
	for _, phase := range p(&lifecycle.Node{}) {
		names = append(names, phase.Name)
		short[phase.Name] = phase.Short
	}
	return names, short
}
