package lifecycle

import (
	"context"

	"etcdadm/pkg/converge"
)

func (n *Node) initChecks(ctx context.Context, o InitOptions) ([]converge.Step, error) {
	return nil, nil
}
func (n *Node) joinChecks(ctx context.Context, o JoinOptions) ([]converge.Step, error) {
	return nil, nil
}
func (n *Node) clusterChecks(ctx context.Context, o JoinOptions) ([]converge.Step, error) {
	return nil, nil
}
func (n *Node) restoreChecks(ctx context.Context, o RestoreOptions) ([]converge.Step, error) {
	return nil, nil
}
func (n *Node) resetChecks(ctx context.Context) ([]converge.Step, error)    { return nil, nil }
func (n *Node) downloadChecks(ctx context.Context) ([]converge.Step, error) { return nil, nil }
