package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"etcdadm/constants"
)

// PeerInfo is what an etcd shows on its peer port.
type PeerInfo struct {
	Membership  // as that member knows it: it may be out of date
	Time        time.Time
	Certificate *x509.Certificate // its leaf certificate; nil for an http:// URL
}

// PeerAnswer asks an etcd on its peer port who it is. The path /members and its header X-Etcd-Cluster-ID are what joining
// members of etcd itself ask for; both are there in 3.5 to 3.7, on learners too.
//
// The certificate is verified against t, its name included. It is returned also when the peer refuses our own, which is
// ErrCertificateRefused: whoever answers so is up.
func PeerAnswer(ctx context.Context, peerURL string, t *tls.Config) (PeerInfo, error) {
	var info PeerInfo
	u, err := url.Parse(peerURL)
	if err != nil || u.Host == "" {
		return info, fmt.Errorf("%q is not a URL of the form https://<address>:2380", peerURL)
	}
	if t == nil {
		t = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	t = t.Clone()
	t.VerifyConnection = func(s tls.ConnectionState) error {
		info.Certificate = s.PeerCertificates[0]
		return nil
	}
	client := httpClient(t)
	defer client.CloseIdleConnections()

	body, header, err := get(ctx, client, strings.TrimRight(peerURL, "/")+"/members")
	if err != nil {
		var unverified *tls.CertificateVerificationError
		if errors.As(err, &unverified) && len(unverified.UnverifiedCertificates) > 0 {
			info.Certificate = unverified.UnverifiedCertificates[0]
		}
		return info, err
	}
	var members []struct {
		ID                   uint64
		Name                 string
		PeerURLs, ClientURLs []string
		IsLearner            bool
	}
	id, err := strconv.ParseUint(header.Get("X-Etcd-Cluster-ID"), 16, 64)
	if err != nil || json.Unmarshal([]byte(body), &members) != nil {
		return info, errors.New("something answers, but not an etcd peer")
	}
	info.ClusterID = id
	for _, m := range members {
		info.Members = append(info.Members, Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner})
	}
	info.Time, _ = time.Parse(time.RFC1123, header.Get("Date"))
	return info, nil
}

// PeersOnly tells whether each of the members, as it runs, keeps its peer port to peers: it accepts the pair of a peer, and
// refuses the one that the cluster is asked with, of the same CA. Of one that does not answer that is not known.
func (c *Cluster) PeersOnly(ctx context.Context, m Membership, peer *tls.Config) bool {
	answer := func(u string, t *tls.Config) (PeerInfo, error) {
		ctx, cancel := context.WithTimeout(ctx, c.o.DialTimeout)
		defer cancel()
		return PeerAnswer(ctx, u, t)
	}
	for _, member := range m.Members {
		if !slices.ContainsFunc(member.PeerURLs, func(u string) bool {
			info, err := answer(u, peer)
			if err != nil || info.ClusterID != m.ClusterID {
				return false
			}
			_, err = answer(u, c.o.TLS)
			return errors.Is(err, ErrCertificateRefused) && !errors.Is(err, errClocks)
		}) {
			return false
		}
	}
	return true
}

// SourceAddress returns the address of this host that its connections to the target come from, an address or a name with a
// port. Members compare it with the peer certificate of whoever connects. No packet is sent, but to resolve a name.
func SourceAddress(target string) (netip.Addr, error) {
	conn, err := (&net.Dialer{Timeout: constants.DialTimeout}).Dial("udp", target)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no route to %s: %w", target, netProblem(err))
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}
