package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
)

// DataMounted is every file system mounted on which the data directory lies. The unit of etcd mounts them before it starts
// (RequiresMountsFor=), those with the option noauto too: until then a directory that looks empty may be a mount point whose
// disk is late, and what is put there is hidden when the disk comes.
type DataMounted struct {
	Host  *host.Host
	Path  string
	Table string   // the table of file systems (fstab(5))
	Units []string // directories of mount units (systemd.mount(5)), the stronger one first; none: the unit of etcd requires none
}

// Check compares the table and the units with what the kernel has mounted.
func (d DataMounted) Check(context.Context) (converge.Diff, error) {
	if err := d.ofTable(); err != nil {
		return nil, err
	}
	return nil, d.ofUnits()
}

func (d DataMounted) ofTable() error {
	table, err := d.Host.ReadFile(d.Table)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	data := d.Host.Resolved(d.Path)
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0][0] == '#' || f[1][0] != '/' || f[2] == "swap" {
			continue
		}
		point := path.Clean(host.MountPath(f[1]))
		at := d.Host.Resolved(point)
		if at == "/" || data != at && !strings.HasPrefix(data, at+"/") {
			continue
		}
		if mounted, err := d.mounted(at); err != nil {
			return err
		} else if !mounted {
			return refuse("the data directory %s is on a file system that is not mounted: %s has one for %s", d.Path, d.Host.Path(d.Table), point).
				Hint("mount %s", quote(point)).
				Hint("if it is not to be used any more, remove its line from %s", d.Host.Path(d.Table))
		}
	}
	return nil
}

// ofUnits looks for units by the names that systemd gives them. It knows the directory as it is written, and where that leads.
func (d DataMounted) ofUnits() error {
	if len(d.Units) == 0 {
		return nil
	}
	for _, data := range []string{path.Join("/", d.Path), d.Host.Resolved(d.Path)} {
		for point := data; point != "/"; point = path.Dir(point) {
			unit, err := d.unit(mountUnit(point))
			if err != nil {
				return err
			}
			if unit == "" {
				continue
			}
			if mounted, err := d.mounted(d.Host.Resolved(point)); err != nil {
				return err
			} else if !mounted {
				return refuse("the data directory %s is on a file system that is not mounted: %s has one for %s", d.Path, d.Host.Path(unit), point).
					Hint("systemctl start %s", quote(path.Base(unit))).
					Hint("if it is not to be used any more, remove %s, then: systemctl daemon-reload", quote(d.Host.Path(unit)))
			}
		}
	}
	return nil
}

// unit is the file of a unit that is required wherever it is needed; "" when there is none: none at all, one that is masked, or
// one with conditions, of which only systemd knows whether they hold.
func (d DataMounted) unit(name string) (string, error) {
	for _, dir := range d.Units {
		at := path.Join(dir, name)
		text, err := d.Host.ReadFile(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return "", err
		case len(text) == 0 || condition.Match(text): // a link to /dev/null is empty too
			return "", nil
		}
		return at, nil
	}
	return "", nil
}

var condition = regexp.MustCompile(`(?m)^\s*Condition`)

// mountUnit is the name of the unit of a mount point (systemd.unit(5), "String Escaping for Inclusion in Unit Names").
func mountUnit(point string) string {
	var b strings.Builder
	for i, c := range []byte(strings.Trim(point, "/")) {
		switch {
		case c == '/':
			b.WriteByte('-')
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == ':', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String() + ".mount"
}

// mounted tells whether a file system is mounted there. Where there is no directory there is none.
func (d DataMounted) mounted(at string) (bool, error) {
	mounted, err := d.Host.MountPoint(at)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return mounted, err
}
