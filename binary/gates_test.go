package binary_test

import (
	"strings"
	"testing"

	"etcdadm/binary"
	"etcdadm/constants"
)

func TestGates(t *testing.T) {
	for _, c := range []struct {
		version  string
		fresh    bool
		refused  string
		warnings []string
	}{
		{"2.3.8", false, "out of support", nil},
		{"3.4.40", false, "out of support", nil},
		{"3.5.0", false, "silently corrupts", nil},
		{"3.5.2", false, "silently corrupts", nil},
		{"3.5.3", true, "members can disagree", nil},
		{"3.5.5", true, "members can disagree", nil},
		{"3.5.5", false, "", []string{"members can disagree", "CVE-2026-33413", "no new member", "peer URL", "TLS handshakes", "snapshot"}},
		{"3.5.6", true, "", []string{"CVE-2026-33413", "no new member", "peer URL", "TLS handshakes", "snapshot"}},
		{"3.5.28", true, "", []string{"no new member", "peer URL", "TLS handshakes", "snapshot"}},
		{"3.5.30", true, "", []string{"peer URL", "TLS handshakes", "snapshot"}},
		{"3.5.31", true, "", []string{"TLS handshakes", "snapshot"}},
		{"3.5.33", true, "", []string{"snapshot"}},
		{"3.5.35", true, "", nil},
		{"3.6.3", true, "", []string{"start again", "CVE-2026-33413", "no new member", "peer URL", "TLS handshakes", "snapshot"}},
		{"3.6.4", true, "", []string{"CVE-2026-33413", "no new member", "peer URL", "TLS handshakes", "snapshot"}},
		{"3.6.12", true, "", []string{"TLS handshakes", "snapshot"}},
		{"3.6.14", true, "", []string{"snapshot"}},
		{"3.6.15", true, "", nil},
		{"3.7.0", true, "", []string{"TLS handshakes", "snapshot", "raft messages"}},
		{"3.7.1", true, "", []string{"snapshot", "raft messages"}},
		{"3.7.2", true, "", []string{"raft messages"}},
		{"3.7.3", true, "", nil},
		{"3.8.0", true, "not known", nil},
		{"4.0.0", true, "not known", nil},
		{"3.6.16-rc.0", true, "pre-release", nil},
		{"3.7.0-alpha.1", false, "pre-release", nil},
		{"3.5.35-eks-1-26-16", true, "", nil},
		{"3.5.1-eks-1", true, "silently corrupts", nil},
	} {
		t.Run(c.version, func(t *testing.T) {
			refused, warnings := binary.Gates(parse(t, c.version), c.fresh)
			if (refused == "") != (c.refused == "") || !strings.Contains(refused, c.refused) {
				t.Errorf("refused %q, want %q", refused, c.refused)
			}
			if len(warnings) != len(c.warnings) {
				t.Fatalf("warnings %q, want %q", warnings, c.warnings)
			}
			for i, w := range c.warnings {
				if !strings.Contains(warnings[i], w) || !strings.Contains(warnings[i], c.version) {
					t.Errorf("warning %q, want %q in it", warnings[i], w)
				}
			}
		})
	}
}

func TestDefaultVersionMayBeInstalled(t *testing.T) {
	if refused, _ := binary.Gates(parse(t, constants.DefaultVersion), true); refused != "" {
		t.Error(refused)
	}
}
