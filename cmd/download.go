package cmd

import (
	"github.com/spf13/cobra"

	"etcdadm/pkg/lifecycle"
)

func newDownload(a *app) *cobra.Command {
	var o *operation
	c := &cobra.Command{
		Use:   "download",
		Short: "Download a release of etcd into the cache, and verify it",
		Example: `  etcdadm download --version 3.6.14
  etcdadm download --release-url https://mirror.example.com/etcd --sha256sums SHA256SUMS`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c.Context(), lifecycle.Download) },
	}
	o = newOperation(a, c, "download")
	return c
}
