package service

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/pkg/version"
)

// Retired is a node as the retired etcdadm set it up: what its unit and its environment file say. Settings that etcd
// reads only before it has data are not among them.
//
// A member that somebody else set up is handed over in that form: its environment file is put where ours is, and its unit
// is put away. Where its certificates and programs are is of no matter then: it gets new ones, of the CA that is placed.
type Retired struct {
	Handed         bool       // by an operator: there is no unit
	Name           string     // "" where the environment file is gone
	Address        netip.Addr // of the peer and the client URL
	InstallDir     string     // "" where it was handed over, as the next one
	CertsDir       string
	DataDir        string
	QuotaBytes     int64 // 0: etcd's own
	CipherSuites   []string
	DiskPriorities []string          // what its callers could put into the unit; nil: what it put there by itself
	Extra          map[string]string // variables that etcdadm does not set by itself, whatever version they are for
}

// What the units of the retired etcdadm said in [Service], from the first to the last, beside the lines of its callers.
// TimeoutStartSec=0 is what infinity is in our unit; MemoryLow= shields etcd where a slice of the system sets limits.
var retiredService = []string{
	"EnvironmentFile=" + constants.EnvFile, "Type=notify", "TimeoutStartSec=0", "Restart=on-failure", "RestartSec=5s", "LimitNOFILE=65536", "MemoryLow=200M",
}

// retiredConflict is a line of the [Unit] section of every unit of the retired etcdadm, of the days of CoreOS.
const retiredConflict = "Conflicts=etcd-member.service"

// IsRetiredUnit tells whether a unit is one of the retired etcdadm: etcd without arguments, told by the environment file
// that etcdadm keeps where the retired one did.
func IsRetiredUnit(text []byte) bool {
	lines := serviceLines(text)
	return !IsUnit(text) && slices.Contains(lines, retiredService[0]) && retiredProgram(lines) != "" &&
		slices.Contains(section(text, "[Unit]"), retiredConflict)
}

// FindRetired looks for a node of the retired etcdadm; nil when this is none, or is one no more. One whose environment says
// what etcdadm cannot express is an error with status 3: its etcd is somebody's own.
func FindRetired(h *host.Host) (*Retired, error) {
	unit, err := h.ReadFile(constants.UnitFile)
	r := &Retired{Handed: errors.Is(err, fs.ErrNotExist), Extra: map[string]string{}}
	switch {
	case r.Handed:
	case err != nil:
		return nil, err
	case !IsRetiredUnit(unit):
		return nil, nil
	}
	lines := serviceLines(unit)
	if !r.Handed {
		r.InstallDir = path.Dir(retiredProgram(lines))
	}
	kvs, err := readEnv(h, constants.EnvFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) && r.Handed:
		return nil, nil
	case errors.Is(err, fs.ErrNotExist): // a reset that was killed, or an init
		return r, nil
	case err != nil:
		return nil, errs.New(errs.Precondition, "%w", err).Hint("mend the line: KEY=value, without quotes")
	case slices.ContainsFunc(kvs, func(kv KV) bool { return kv.Key == constants.DigestVariable }): // ours, with the unit to come
		return nil, nil
	}
	for _, l := range lines {
		if !slices.Contains(retiredService, l) && !strings.HasPrefix(l, "ExecStart=") {
			r.DiskPriorities = append(r.DiskPriorities, l)
		}
	}
	return r, r.read(kvs)
}

// isRetired tells whether the unit on a node, with this text, is there to be taken over.
func isRetired(h *host.Host, text []byte) bool {
	if !IsRetiredUnit(text) {
		return false
	}
	r, err := FindRetired(h)
	return err == nil && r != nil
}

func serviceLines(unit []byte) []string { return section(unit, "[Service]") }

// section returns the settings of a section of a unit, as they stand there.
func section(unit []byte, name string) []string {
	var at string
	var list []string
	for line := range strings.Lines(string(unit)) {
		switch line = strings.TrimSpace(line); {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			at = line
		case at == name:
			list = append(list, line)
		}
	}
	return list
}

// retiredProgram is the etcd that a unit starts without arguments, or "".
func retiredProgram(lines []string) string {
	for _, l := range lines {
		if p, ok := strings.CutPrefix(l, "ExecStart="); ok && path.IsAbs(p) && path.Base(p) == "etcd" && !strings.ContainsAny(p, " \t") {
			return p
		}
	}
	return ""
}

// read takes from the environment what has a setting of its own, and keeps the rest.
func (r *Retired) read(kvs []KV) error {
	for _, kv := range kvs {
		r.Extra[kv.Key] = kv.Value
	}
	take := func(key string) string {
		v := r.Extra[key]
		delete(r.Extra, key)
		return v
	}
	bad := func(key, value, want string) error {
		return errs.New(errs.Precondition, "the etcd on this node was not set up as etcdadm does it: %s in %s is %q, not %s", key, constants.EnvFile, value, want).
			Hint("replace the member by one of etcdadm, while its cluster serves: docs/migrate.md")
	}
	r.Name, r.DataDir = take("ETCD_NAME"), take("ETCD_DATA_DIR")
	for _, u := range []struct {
		key  string
		port int
	}{{"ETCD_INITIAL_ADVERTISE_PEER_URLS", constants.PeerPort}, {"ETCD_ADVERTISE_CLIENT_URLS", constants.ClientPort}} {
		value := take(u.key)
		at, err := netip.ParseAddrPort(strings.TrimPrefix(value, "https://"))
		if err != nil || !strings.HasPrefix(value, "https://") || int(at.Port()) != u.port || r.Address.IsValid() && r.Address != at.Addr() {
			return bad(u.key, value, fmt.Sprintf("https://IP:%d", u.port))
		}
		r.Address = at.Addr()
	}
	for _, f := range certificateFiles {
		if value := take(f.key); !r.Handed {
			if r.CertsDir == "" {
				r.CertsDir = path.Dir(value)
			}
			if want := path.Join(r.CertsDir, f.base); !path.IsAbs(value) || path.Clean(value) != want {
				return bad(f.key, value, want)
			}
		}
	}
	if r.Name == "" || !path.IsAbs(r.DataDir) {
		return bad("ETCD_DATA_DIR", r.DataDir, "an absolute path beside an ETCD_NAME")
	}
	if q := take("ETCD_QUOTA_BACKEND_BYTES"); q != "" {
		bytes, err := strconv.ParseInt(q, 10, 64)
		if err != nil || bytes < 0 {
			return bad("ETCD_QUOTA_BACKEND_BYTES", q, "a number of bytes")
		}
		r.QuotaBytes = bytes
	}
	for suite := range strings.SplitSeq(take("ETCD_CIPHER_SUITES"), ",") {
		if suite = strings.TrimSpace(suite); suite != "" {
			r.CipherSuites = append(r.CipherSuites, suite)
		}
	}
	return nil
}

// ExtraFor returns the variables that a version of etcd reads and that etcdadm has no setting of its own for, and the names
// of those that are given up. What says the same as etcdadm, or matters no more, is in neither.
func (r Retired) ExtraFor(v version.Etcd) (kept map[string]string, dropped []string) {
	base := Settings{Name: "etcd", CertsDir: "/", Version: v, BindAddress: r.Address}
	own := map[string]string{
		"GOMAXPROCS": strconv.Itoa(runtime.NumCPU()), // what Go does by itself
	}
	if kvs, err := base.Environment(func(p string) string { return p }); err == nil {
		for _, kv := range kvs {
			own[kv.Key] = kv.Value
		}
	}
	kept = map[string]string{}
	for key, value := range r.Extra {
		if strings.EqualFold(own[key], value) || slices.Contains(settled, key) || slices.Contains(settled, key+"="+value) || strings.HasPrefix(key, "ETCDCTL_") {
			continue
		}
		base.ExtraEnv = map[string]string{key: value}
		if _, err := base.Environment(func(p string) string { return p }); err == nil {
			kept[key] = value
		} else {
			dropped = append(dropped, key)
		}
	}
	slices.Sort(dropped)
	return kept, dropped
}

// certificateFiles are the variables of the certificates, and the names of the files in the directory of ours.
var certificateFiles = []struct{ key, base string }{
	{"ETCD_TRUSTED_CA_FILE", "ca.crt"}, {"ETCD_PEER_TRUSTED_CA_FILE", "ca.crt"},
	{"ETCD_CERT_FILE", "server.crt"}, {"ETCD_KEY_FILE", "server.key"}, {"ETCD_PEER_CERT_FILE", "peer.crt"}, {"ETCD_PEER_KEY_FILE", "peer.key"},
}

// settled are variables, some of them with a value, that are of no use any more: the member has data, or they turn off what
// is gone.
var settled = []string{
	"ETCD_INITIAL_CLUSTER", "ETCD_INITIAL_CLUSTER_STATE", "ETCD_INITIAL_CLUSTER_TOKEN",
	"ETCD_UNSUPPORTED_ARCH", "ETCD_ENABLE_V2=false", "ETCD_PROXY=off",
}

// Loaded is the unit on the disk being the one that systemd knows. Between two units that read one environment file in
// different ways, the new one has to be known before that file changes: etcd may end, and be started again, at any time.
func (s *systemd) Loaded() converge.Resource { return unitLoaded{s} }
