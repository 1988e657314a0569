package cmd

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"etcdadm/pkg/report"
	"etcdadm/pkg/version"
)

func newVersion(a *app) *cobra.Command {
	var short bool
	c := &cobra.Command{
		Use:     "version",
		Short:   "Tell the version of etcdadm",
		Example: "  etcdadm version --short\n  etcdadm version -o json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			info := version.Get()
			if short {
				_, err := fmt.Fprintln(a.Out, info.Version)
				return err
			}
			return report.Write(a.Out, a.format, info, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "etcdadm %s (commit %s, built %s, %s, %s)\n", info.Version, orElse(info.Commit, "unknown"), orElse(info.BuildDate, "unknown"), info.GoVersion, info.Platform)
				return err
			})
		},
	}
	c.Flags().BoolVar(&short, "short", false, "only the version, vX.Y.Z")
	return c
}
