package cmd

import (
	"github.com/spf13/cobra"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/lifecycle"
)

func newRestore(a *app) *cobra.Command {
	var o *operation
	options := lifecycle.RestoreOptions{}
	p := func(n *lifecycle.Node) []converge.Phase { return lifecycle.Restore(n, options) }
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Begin the cluster anew from a snapshot, with this node as its first member",
		Long: `Begin the cluster anew from a snapshot, with this node as its only member; the other nodes then reset and join.
The snapshot is verified before anything is touched. The data that is here is set aside, not deleted. Revisions go on
far above the old ones, and watchers of old revisions are told so. Refused while another member of the cluster answers.`,
		Example: `  etcdadm restore /var/backups/etcd/backup.db
  etcdadm restore backup.db --bump-revision 0`,
		Args: oneArg("the file of a snapshot"),
		RunE: func(c *cobra.Command, args []string) error {
			options.File = args[0]
			return o.run(c.Context(), p)
		},
	}
	o = newOperation(a, c, "restore").withSkip(c, p)
	c.Flags().BoolVar(&options.SkipHashCheck, "skip-hash-check", false, "accept a snapshot without a digest, such as a copied database file")
	c.Flags().Uint64Var(&options.BumpRevision, "bump-revision", constants.RestoreRevisionBump, "how far the revision is raised; 0: not at all")
	return c
}
