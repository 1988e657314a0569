package cmd

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/lifecycle"
	"etcdadm/pkg/report"
	"etcdadm/pkg/snapshot"
)

func newSnapshot(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "snapshot",
		Short: "Save and verify snapshots of the cluster",
		Args:  noArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newSnapshotSave(a), newSnapshotVerify(a))
	return c
}

func newSnapshotSave(a *app) *cobra.Command {
	var given settings
	c := &cobra.Command{
		Use:   "save FILE",
		Short: "Save a snapshot from the member on this node, and verify it",
		Long: `Stream a snapshot from the member on this node into a file, verify its digest and its contents at once, and give it its
name only then. The file is readable for its owner alone. A file that exists is not overwritten.`,
		Example: `  mkdir -p -m 0700 /var/backups/etcd
  etcdadm snapshot save /var/backups/etcd/backup.db`,
		Args: oneArg("the name of a file"),
		RunE: func(c *cobra.Command, args []string) error {
			n, err := a.node("snapshot", given)
			if err != nil {
				return err
			}
			defer n.Close()
			return a.snapshot(c.Context(), "snapshot save", func(ctx context.Context) (snapshot.Info, error) {
				return lifecycle.SaveSnapshot(ctx, n, args[0])
			})
		},
	}
	given = addSettings(c, "snapshot")
	return c
}

func newSnapshotVerify(a *app) *cobra.Command {
	var skipHash bool
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify the digest and the contents of a snapshot, and describe it",
		Example: `  etcdadm snapshot verify /var/backups/etcd/backup.db
  etcdadm snapshot verify backup.db -o json`,
		Args: oneArg("the file of a snapshot"),
		RunE: func(c *cobra.Command, args []string) error {
			n, err := a.node("snapshot verify", nil)
			if err != nil {
				return err
			}
			return a.snapshot(c.Context(), "snapshot verify", func(ctx context.Context) (snapshot.Info, error) {
				return snapshot.Verify(ctx, n.Host, args[0], skipHash)
			})
		},
	}
	c.Flags().BoolVar(&skipHash, "skip-hash-check", false, "accept a snapshot without a digest, such as a copied database file")
	return c
}

// snapshot runs one call about a snapshot file in the loop of all operations, for its progress and its limits, and
// writes what is known of the file.
func (a *app) snapshot(ctx context.Context, name string, call func(context.Context) (snapshot.Info, error)) error {
	var info snapshot.Info
	step := converge.Step{Name: name, Short: name, Want: converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
		var err error
		info, err = call(ctx)
		return nil, err
	})}
	ctx, cancel := a.limited(ctx)
	defer cancel()
	result := converge.Run(ctx, []converge.Phase{{Name: "snapshot", Short: name, Steps: func(context.Context) ([]converge.Step, error) {
		return []converge.Step{step}, nil
	}}}, converge.Options{Events: a.console.Event})
	a.console.Close()
	if result.Err != nil {
		return result.Err
	}
	a.written = true
	return report.Write(a.Out, a.format, info, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s is whole: revision %d, %d keys, %d bytes, sha256 %s, etcd %s\n",
			info.Path, info.Revision, info.Keys, info.Size, info.SHA256, orElse(info.Version, "3.5"))
		return err
	})
}

// limited gives a context the limit of --timeout.
func (a *app) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if a.timeout > 0 {
		return context.WithTimeout(ctx, a.timeout)
	}
	return context.WithTimeout(ctx, 24*time.Hour)
}
