package lifecycle

import (
	"context"
	"errors"
	"slices"
	"sync"
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

	answers []etcd.Status // nil: not asked yet
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

// statuses are those of the other voters that answer. All are asked at the same time: who is dead takes long to find out.
func (v *clusterView) statuses(ctx context.Context) ([]etcd.Status, error) {
	m, err := v.membership(ctx)
	if err != nil || v.answers != nil {
		return v.answers, err
	}
	answered := make([][]etcd.Status, len(m.Voters()))
	var all sync.WaitGroup
	for i, member := range m.Voters() {
		all.Go(func() {
			for _, u := range member.ClientURLs {
				if u == v.n.Config.ClientURL() {
					continue
				}
				if s, err := v.c.Status(ctx, u); err == nil {
					answered[i] = []etcd.Status{s}
					break
				}
			}
		})
	}
	all.Wait()
	v.answers = append([]etcd.Status{}, slices.Concat(answered...)...)
	return v.answers, nil
}

func (v *clusterView) versions(ctx context.Context) ([]version.Etcd, error) {
	var list []version.Etcd
	all, err := v.statuses(ctx)
	for _, s := range all {
		if e, err := version.ParseEtcd(s.Version); err == nil {
			list = append(list, e)
		}
	}
	return list, err
}

// database is the size of the largest database among the voters.
func (v *clusterView) database(ctx context.Context) (int64, error) {
	size := int64(0)
	all, err := v.statuses(ctx)
	for _, s := range all {
		size = max(size, s.DBSize)
	}
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
