package preflight_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"etcdadm/pkg/host"
	"etcdadm/pkg/preflight"
)

// What is put on a mount point before its file system is there is hidden when that comes, and the data that it has is taken
// for gone until then.
func TestDataMounted(t *testing.T) {
	dir := t.TempDir() // /proc is a mount point everywhere, and this directory nowhere
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(at("my disk/etcd"), 0o755))
	must(t, os.Symlink(at("my disk/etcd"), at("etcd")))
	must(t, os.Symlink("/proc", at("proc")))
	table := at("fstab")
	spaced := strings.ReplaceAll(at("my disk"), " ", `\040`)
	refused := func(point string) verdict { return verdict{refused: table + " has one for " + point, hint: "mount "} }
	for name, c := range map[string]struct {
		table, data string
		want        verdict
	}{
		"nothing":                {"", at("data"), verdict{}},
		"a comment":              {"# /dev/sdb1 " + at("data") + " ext4 defaults 0 2\n#x " + at("data") + " ext4", at("data"), verdict{}},
		"the root, and swap":     {"/dev/sda1 / ext4 defaults\n/dev/sda2 none swap sw\n/dev/sda3 " + at("data") + " swap sw\n\nx\n", at("data"), verdict{}},
		"mounted":                {"proc /proc/ proc defaults 0 0\n", "/proc/etcd", verdict{}},
		"mounted, by a link":     {"proc " + at("proc") + " proc defaults 0 0\n", "/proc/etcd", verdict{}},
		"the data directory":     {"proc /proc proc\n/dev/sdb1 " + at("data") + " ext4 defaults 0 2\n", at("data"), refused(at("data"))},
		"not automatically":      {"\t/dev/sdb1\t" + at("data") + "/\text4\tnoauto", at("data/"), refused(at("data"))},
		"a directory above":      {"/dev/sdb1 " + at("a") + " ext4 defaults 0 2\n", at("a/b/etcd"), refused(at("a"))},
		"one that sounds alike":  {"/dev/sdb1 " + at("a") + " ext4 defaults 0 2\n", at("ab/etcd"), verdict{}},
		"one below":              {"/dev/sdb1 " + at("data/x") + " ext4 defaults 0 2\n", at("data"), verdict{}},
		"behind a link":          {"/dev/sdb1 " + spaced + " ext4 defaults 0 2\n", at("etcd"), verdict{refused: " has one for " + at("my disk"), hint: "mount '" + at("my disk") + "'"}},
		"a link as mount point":  {"/dev/sdb1 " + at("etcd") + " ext4 defaults 0 2\n", at("my disk/etcd"), refused(at("etcd"))},
		"the first of two is it": {"/dev/sdb1 " + at("a") + " ext4\n/dev/sdb2 " + at("a/b") + " ext4\n", at("a/b"), refused(at("a"))},
	} {
		must(t, os.WriteFile(table, []byte(c.table), 0o600))
		expect(t, name, preflight.DataMounted{Host: host.New("/"), Path: c.data, Table: table}, c.want)
	}

	// What is mounted by units of systemd is in no table.
	const units, mount = "/units", "[Mount]\nWhat=/dev/sdb1\n"
	for name, c := range map[string]struct {
		units map[string]string
		data  string
		want  string // the unit that is told; "": none
	}{
		"nothing":               {nil, "/data", ""},
		"the data directory":    {map[string]string{"var-lib-etcd.mount": mount}, "/var/lib/etcd", "var-lib-etcd.mount"},
		"a directory above":     {map[string]string{"var-lib.mount": mount}, "/var/lib/etcd/", "var-lib.mount"},
		"one that sounds alike": {map[string]string{"var-li.mount": mount, "var-lib-etcd-x.mount": mount, "lib-etcd.mount": mount}, "/var/lib/etcd", ""},
		"as systemd-escape has": {map[string]string{`srv-my\x20disk\x2d1-.d-\xc3\xa4_.mount`: mount}, "/srv/my disk-1/.d/ä_", `srv-my\x20disk\x2d1-.d-\xc3\xa4_.mount`},
		"a name of dots":        {map[string]string{`\x2ea-b:c.mount`: mount}, "/.a/b:c", `\x2ea-b:c.mount`},
		"masked":                {map[string]string{"var-lib.mount": ""}, "/var/lib/etcd", ""},
		"with a condition":      {map[string]string{"var-lib.mount": "[Unit]\nConditionPathExists=/dev/sdb1\n" + mount}, "/var/lib/etcd", ""},
		"that of a link":        {map[string]string{"etc-link.mount": mount}, "/etc/link", "etc-link.mount"},
		"where a link leads":    {map[string]string{"srv.mount": mount}, "/etc/link", "srv.mount"},
	} {
		root := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(root, units), 0o755))
		must(t, os.MkdirAll(filepath.Join(root, "etc"), 0o755))
		must(t, os.Symlink("/srv/etcd", filepath.Join(root, "etc/link")))
		for unit, text := range c.units {
			must(t, os.WriteFile(filepath.Join(root, units, unit), []byte(text), 0o600))
		}
		want := verdict{}
		if c.want != "" {
			want = verdict{refused: filepath.Join(root, units, c.want) + " has one for ", hint: "systemctl start "}
		}
		expect(t, "a unit: "+name, preflight.DataMounted{Host: host.New(root), Path: c.data, Table: "/fstab", Units: []string{"/stronger", units}}, want)
	}
	must(t, os.WriteFile(at("proc.mount"), []byte(mount), 0o600))
	expect(t, "a unit that is mounted", preflight.DataMounted{Host: host.New("/"), Path: "/proc/etcd", Table: table + ".no", Units: []string{dir}}, verdict{})

	rooted := preflight.DataMounted{Host: host.New(dir), Path: "/data", Table: "/etc/fstab"}
	expect(t, "no table", rooted, verdict{})
	must(t, os.MkdirAll(at("etc"), 0o755))
	must(t, os.WriteFile(at("etc/fstab"), []byte("/dev/sdb1 /data ext4"), 0o600))
	expect(t, "under a root", rooted, verdict{refused: at("etc/fstab") + " has one for /data", hint: "mount "})
}
