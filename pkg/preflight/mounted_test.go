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

	rooted := preflight.DataMounted{Host: host.New(dir), Path: "/data", Table: "/etc/fstab"}
	expect(t, "no table", rooted, verdict{})
	must(t, os.MkdirAll(at("etc"), 0o755))
	must(t, os.WriteFile(at("etc/fstab"), []byte("/dev/sdb1 /data ext4"), 0o600))
	expect(t, "under a root", rooted, verdict{refused: at("etc/fstab") + " has one for /data", hint: "mount "})
}
