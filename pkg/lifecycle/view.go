package lifecycle

import (
	"context"
	"errors"
	"time"

	"etcdadm/certs"
	"etcdadm/constants"
	"etcdadm/pkg/etcd"
	"etcdadm/pkg/preflight"
	"etcdadm/pkg/version"
)

// clusterView asks the cluster for what the checks want to know, each thing once.
type clusterView struct {
	n *Node
	c *etcd.Cluster

	m   *etcd.Membership // nil: not asked yet
	err error            // of asking
}

func (v *clusterView) membership(ctx context.Context) (etcd.Membership, error) {
	if v.m == nil {
		m, err := v.n.members(ctx, v.c)
		v.m, v.err = &m, err
	}
	return *v.m, v.err
}

func (v *clusterView) members(ctx context.Context) ([]preflight.Member, error) {
	m, err := v.membership(ctx)
	var list []preflight.Member
	for _, member := range m.Members {
		list = append(list, preflight.Member{ID: member.HexID(), Name: member.Name, PeerURLs: member.PeerURLs, ClientURLs: member.ClientURLs, Learner: member.Learner})
	}
	return list, err
}

// peers are the peer URLs of the others.
func (v *clusterView) peers(members []preflight.Member) []string {
	var urls []string
	for _, m := range members {
		for _, u := range m.PeerURLs {
			if u != v.n.Config.PeerURL() {
				urls = append(urls, u)
			}
		}
	}
	return urls
}

// each calls f with the status of every other voter that answers.
func (v *clusterView) each(ctx context.Context, f func(etcd.Status)) error {
	m, err := v.membership(ctx)
	if err != nil {
		return err
	}
	for _, member := range m.Voters() {
		for _, u := range member.ClientURLs {
			if u == v.n.Config.ClientURL() {
				continue
			}
			if s, err := v.c.Status(ctx, u); err == nil {
				f(s)
				break
			}
		}
	}
	return nil
}

func (v *clusterView) versions(ctx context.Context) ([]version.Etcd, error) {
	var list []version.Etcd
	err := v.each(ctx, func(s etcd.Status) {
		if e, err := version.ParseEtcd(s.Version); err == nil {
			list = append(list, e)
		}
	})
	return list, err
}

// database is the size of the largest database among the voters.
func (v *clusterView) database(ctx context.Context) (int64, error) {
	size := int64(0)
	err := v.each(ctx, func(s etcd.Status) { size = max(size, s.DBSize) })
	return size, err
}

// time is the time of the first other member that answers on its peer port.
func (v *clusterView) time(ctx context.Context) (time.Time, error) {
	t, err := certs.ClientTLS(v.n.Host, v.n.Config.CertsDir, certs.PeerName)
	if err != nil {
		return time.Time{}, err
	}
	members, err := v.members(ctx)
	if err != nil {
		return time.Time{}, err
	}
	problem := errors.New("no other member answers")
	for _, u := range v.peers(members) {
		limited, cancel := context.WithTimeout(ctx, constants.DialTimeout)
		info, err := etcd.PeerAnswer(limited, u, t)
		cancel()
		if err == nil && !info.Time.IsZero() {
			return info.Time, nil
		}
		if err != nil {
			problem = err
		}
	}
	return time.Time{}, problem
}
