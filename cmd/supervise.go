package cmd

import (
	"github.com/spf13/cobra"

	"etcdadm/pkg/lifecycle"
	"etcdadm/pkg/snapshot"
)

// newSupervise is the process that keeps etcd running under --init-system process. etcdadm starts it.
func newSupervise(a *app) *cobra.Command {
	var given settings
	c := &cobra.Command{
		Use:    "supervise",
		Short:  "Keep etcd running (started by etcdadm itself)",
		Hidden: true,
		Args:   noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := a.node("reset", given)
			if err != nil {
				return err
			}
			return lifecycle.Supervise(c.Context(), n)
		},
	}
	given = addSettings(c, "reset")
	return c
}

// newSnapshotWorker is the process that handles snapshot files: a corrupt one may take it down.
func newSnapshotWorker(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "snapshot-worker",
		Short:  "Handle a snapshot file (started by etcdadm itself)",
		Hidden: true,
		Args:   noArgs,
		RunE:   func(c *cobra.Command, _ []string) error { return snapshot.Child(c.Context(), a.In, a.Out) },
	}
}
