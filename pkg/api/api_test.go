package api

import (
	"net/netip"
	"strings"
	"testing"
)

func TestDefaultIsValid(t *testing.T) {
	var c Config
	Default(&c, Facts{Hostname: "etcd-1", Address: mustAddr("10.0.0.1")})
	if problems := c.Validate(); len(problems) > 0 {
		t.Error(problems)
	}
	l, err := Parse(FromStored, "config.yaml", c.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(string(c.Marshal()))
	back, _ := Merge(l)
	Default(&back, Facts{})
	if string(back.Marshal()) != string(c.Marshal()) {
		t.Error(string(back.Marshal()))
	}
	if !strings.HasPrefix(c.PeerURL(), "https://10.0.0.1:2380") {
		t.Error(c.PeerURL())
	}
}

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }
