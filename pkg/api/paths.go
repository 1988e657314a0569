package api

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"etcdadm/constants"
)

// A path stands in unit files, environment files and scripts: nothing in it may need quoting in any of them.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9/._+@:~-]*$`)

// shared are directories that others count on. A data directory is emptied as a whole, so it is none of them, and none above.
var shared = []string{
	"/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp",
	"/usr", "/usr/bin", "/usr/lib", "/usr/local", "/usr/local/bin", "/usr/sbin", "/var", "/var/cache", "/var/lib", "/var/log", "/var/run", "/var/tmp",
}

func (v *judge) paths(c Config) {
	fields := []struct{ key, path string }{
		{"installDir", c.InstallDir}, {"certsDir", c.CertsDir}, {"dataDir", c.DataDir}, {"kubeletPodManifestPath", c.KubeletPodManifestPath},
	}
	sound := true
	for _, f := range fields {
		reason := pathProblem(f.path)
		if reason != "" {
			sound = false
			v.add(f.key, fmt.Sprintf("%q %s", f.path, reason), "give an absolute path such as %s", byKey(f.key).Default)
		}
	}
	if !sound {
		return
	}
	hint := "for example: --data-dir " + constants.DefaultDataDir
	if c.InitSystem != Kubelet {
		fields = fields[:3]
	}
	for _, f := range fields {
		if f.key != "dataDir" && within(f.path, c.DataDir) {
			v.add(f.key, fmt.Sprintf("%s lies in the data directory %s, which reset and restore replace as a whole", f.path, c.DataDir), "for example: --%s %s", byKey(f.key).Flag, byKey(f.key).Default)
		}
	}
	if c.DataDir != c.CertsDir && within(c.DataDir, c.CertsDir) {
		v.add("dataDir", fmt.Sprintf("%s lies in the directory of the certificates %s", c.DataDir, c.CertsDir), "%s", hint)
	}
	if slices.Contains(shared, c.DataDir) {
		v.add("dataDir", c.DataDir+" belongs to the system; the data directory is etcd's alone", "%s", hint)
		return
	}
	for _, own := range []string{constants.ConfigFile, constants.EnvFile, constants.CacheDir, constants.RunDir, constants.LogFile, constants.BackupDir} {
		if within(own, c.DataDir) {
			v.add("dataDir", fmt.Sprintf("%s holds %s; the data directory is etcd's alone", c.DataDir, own), "%s", hint)
			return
		}
	}
}

func pathProblem(p string) string {
	switch {
	case !strings.HasPrefix(p, "/"):
		return "is not an absolute path"
	case !plainPath.MatchString(p):
		return "may hold letters, digits and / . _ + @ : ~ - only"
	case p == "/":
		return "is the root directory"
	case filepath.Clean(p) != p:
		return fmt.Sprintf("is not in its shortest form, %s", filepath.Clean(p))
	case within(p, "/proc") || within(p, "/sys") || within(p, "/dev"):
		return "lies in a file system of the kernel"
	}
	return ""
}

// within tells whether path is dir, or lies below it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
