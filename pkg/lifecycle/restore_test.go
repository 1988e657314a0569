package lifecycle

import (
	"crypto/tls"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"etcdadm/pkg/converge"
)

// Members whose certificates have expired serve on over the connections that they have: they may be a quorum.
func TestWhoShowsAnExpiredCertificateIsUp(t *testing.T) {
	issue := func(n *Node) string {
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
	old, now := node(t), node(t)
	old.Now = func() time.Time { return time.Now().AddDate(-2, 0, 0) }
	pki := issue(old)
	if err := os.CopyFS(now.Host.Path(now.Config.CertsDir), os.DirFS(pki)); err != nil {
		t.Fatal(err)
	}
	issue(now)
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
