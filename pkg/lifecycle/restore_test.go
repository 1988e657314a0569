package lifecycle

import (
	"crypto/tls"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"etcdadm/pkg/converge"
)

// issue has the certificates of a node made, and returns the directory that they are in.
func issue(t *testing.T, n *Node) string {
	t.Helper()
	phases, err := converge.Only(Init(n, InitOptions{}), PhaseCertificates)
	if err != nil {
		t.Fatal(err)
	}
	if r := converge.Run(t.Context(), phases, converge.Options{}); r.Err != nil {
		t.Fatal(r.Err)
	}
	return n.Host.Path(n.Config.CertsDir)
}

// Members whose certificates have expired serve on over the connections that they have: they may be a quorum.
func TestWhoShowsAnExpiredCertificateIsUp(t *testing.T) {
	old, now := node(t), node(t)
	old.Now = func() time.Time { return time.Now().AddDate(-2, 0, 0) }
	pki := issue(t, old)
	if err := os.CopyFS(now.Host.Path(now.Config.CertsDir), os.DirFS(pki)); err != nil {
		t.Fatal(err)
	}
	issue(t, now)
	pair, err := tls.LoadX509KeyPair(filepath.Join(pki, "peer.crt"), filepath.Join(pki, "peer.key"))
	if err != nil {
		t.Fatal(err)
	}
	peer := httptest.NewUnstartedServer(nil)
	peer.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	peer.StartTLS()
	t.Cleanup(peer.Close)
	o := others{peers: []string{peer.URL}}
	if d, err := o.up(t.Context(), now); err != nil || len(d) != 1 {
		t.Errorf("up: %v, %v", d, err)
	}
	peer.Close()
	if d, err := o.up(t.Context(), now); err != nil || len(d) != 0 {
		t.Errorf("up, when nobody is there: %v, %v", d, err)
	}
}

// A member that hangs may go on, as soon as its disk does: that it says nothing does not make it dead. Whoever closes the
// connection is none, but a proxy of members that are gone.
func TestWhoTakesConnectionsAndSaysNothingIsUp(t *testing.T) {
	n := node(t)
	issue(t, n)
	mute, closes := listener(t), listener(t)
	go func() {
		for {
			c, err := closes.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	for name, c := range map[string]struct {
		at   net.Listener
		want int
	}{"mute": {mute, 1}, "closes": {closes, 0}} {
		u := "https://" + c.at.Addr().String()
		for where, o := range map[string]others{"peer URL": {peers: []string{u}}, "client URL": {clients: []string{u}}} {
			t.Run(name+" at a "+where, func(t *testing.T) {
				t.Parallel()
				d, err := o.up(t.Context(), n)
				if err != nil || len(d) != c.want || c.want > 0 && d[0].Have != hangs {
					t.Errorf("up: %v, %v", d, err)
				}
			})
		}
	}
}

// listener takes connections as the kernel does for a process that hangs.
func listener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}
