package certs

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"

	"etcdadm/pkg/host"
)

// TestAdopted: what was taken over is judged as the operator's, and goes with what was made here; what somebody places
// later stays.
func TestAdopted(t *testing.T) {
	ca := foreign(t, caTemplate(), nil, nil)
	begin := func(t *testing.T, withCA bool) *host.Host {
		t.Helper()
		h := host.New(t.TempDir())
		ca.place(t, h, CAName)
		for _, name := range LeafNames() {
			foreign(t, x509.Certificate{Subject: pkix.Name{CommonName: "x"}}, nil, &ca).place(t, h, name)
		}
		converged(t, Adopted(h, dir, withCA))
		return h
	}
	left := func(t *testing.T, h *host.Host) string {
		t.Helper()
		converged(t, Removed(h, dir))
		var names []string
		entries, _ := h.ReadDir(dir)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, " ")
	}
	t.Run("all of it", func(t *testing.T) {
		h := begin(t, true)
		if made, err := CAMadeHere(h, dir); !made || err != nil {
			t.Errorf("CA made here: %v, %v", made, err)
		}
		if got := left(t, h); got != "" {
			t.Errorf("left: %s", got)
		}
	})
	t.Run("without the CA", func(t *testing.T) {
		if got := left(t, begin(t, false)); got != "ca.crt ca.key" {
			t.Errorf("left: %s", got)
		}
	})
	t.Run("a CA that is kept for others stays kept", func(t *testing.T) {
		h := begin(t, true)
		converged(t, CAKept(h, dir))
		if d := check(t, Adopted(h, dir, true)); len(d) > 0 {
			t.Errorf("a second time: %s", d)
		}
		if got := left(t, h); got != "ca.crt ca.key" {
			t.Errorf("left: %s", got)
		}
	})
	t.Run("a pair that was placed later", func(t *testing.T) {
		h := begin(t, true)
		foreign(t, x509.Certificate{Subject: pkix.Name{CommonName: "x"}}, nil, &ca).place(t, h, ServerName)
		if got := left(t, h); got != "server.crt server.key" {
			t.Errorf("left: %s", got)
		}
	})
	t.Run("half removed", func(t *testing.T) {
		h := begin(t, true)
		must(t, h.Remove(dir+"/peer.crt"))
		if got := left(t, h); got != "" {
			t.Errorf("left: %s", got)
		}
	})
	if d := check(t, Adopted(host.New(t.TempDir(), host.ReadOnly()), dir, true)); len(d) > 0 {
		t.Errorf("nothing there: %s", d)
	}
}
