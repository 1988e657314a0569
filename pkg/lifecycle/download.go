package lifecycle

import (
	"context"

	"etcdadm/pkg/converge"
)

// Download brings the verified archive of a release into the cache.
func Download(n *Node) []converge.Phase {
	return []converge.Phase{
		{Name: PhasePreflight, Short: "checks before anything is changed", Gather: true, Steps: n.downloadChecks},
		{Name: "download", Short: "a verified archive in the cache", Steps: func(context.Context) ([]converge.Step, error) {
			return []converge.Step{n.archive("download")}, nil
		}},
	}
}
