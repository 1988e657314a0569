package preflight

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"etcdadm/pkg/converge"
)

// Proxy is an environment whose proxy leaves the traffic of etcd alone. etcdadm itself never uses one for it, but etcd
// (client/pkg/transport), etcdctl and other clients that inherit the environment do.
type Proxy struct{ URLs []string } // of this node and of the other members, peer and client

// Check warns, with the line that helps. It shows no address of a proxy: there may be a password in it.
func (p Proxy) Check(ctx context.Context) (converge.Diff, error) {
	environment := httpproxy.FromEnvironment()
	proxyOf := environment.ProxyFunc()
	var caught []string
	for _, u := range p.URLs {
		parsed, err := url.Parse(u)
		if err != nil {
			continue
		}
		if through, err := proxyOf(parsed); (err != nil || through != nil) && !slices.Contains(caught, parsed.Hostname()) {
			caught = append(caught, parsed.Hostname())
		}
	}
	if len(caught) > 0 {
		all := strings.Join(slices.DeleteFunc(append([]string{environment.NoProxy}, caught...), func(s string) bool { return s == "" }), ",")
		converge.Warnf(ctx, "the proxy of the environment would catch the traffic of etcd to %s: export NO_PROXY=%s", strings.Join(caught, ", "), quote(all))
	}
	return nil, nil
}
