package api

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"etcdadm/constants"
)

// Kind is the form of a setting.
type Kind string

// The forms of a setting.
const (
	Text     Kind = "text"
	List     Kind = "list"     // a YAML list; comma-separated in flags and the environment
	Lines    Kind = "lines"    // a YAML list of lines that may hold commas; a repeatable flag; newline-separated in the environment
	Time     Kind = "duration" // "10s"
	Integer  Kind = "integer"
	NameList Kind = "map" // a YAML mapping of names to text; no flag
)

// Setting is one field of Config under all of its spellings. Flags, environment variables, the file format and the
// reference documentation are made from it.
type Setting struct {
	Key      string // in YAML: "bindAddress"
	Flag     string // without dashes: "bind-address"; "" when there is none
	Env      string // "ETCDADM_BIND_ADDRESS"; "" when there is none
	Kind     Kind
	Usage    string   // for --help: one phrase, lower case
	Default  string   // for people: what holds when nobody says anything
	Commands []string // the top-level commands that take the flag

	field func(*Config) any // a pointer to the field
}

// Settings lists all settings, in the order of a configuration file.
var Settings = []Setting{
	setting("name", "name", "init join restore", "name of this member, unique in its cluster", "the hostname",
		func(c *Config) any { return &c.Name }),
	setting("version", "version", "init join download", "version of etcd, X.Y.Z with any suffix", constants.DefaultVersion,
		func(c *Config) any { return &c.Version }),
	setting("releaseURL", "release-url", "init join download", "https, http or file URL that holds the releases, or of one archive", constants.ReleaseURL+", then "+constants.MirrorURL,
		func(c *Config) any { return &c.ReleaseURL }),
	setting("installDir", "install-dir", "init join reset restore status", "directory of the etcd programs", constants.DefaultInstallDir,
		func(c *Config) any { return &c.InstallDir }),
	setting("certsDir", "certs-dir", "init join reset restore status info snapshot", "directory of the certificates", constants.DefaultCertsDir,
		func(c *Config) any { return &c.CertsDir }),
	setting("dataDir", "data-dir", "init join reset restore status", "data directory of etcd", constants.DefaultDataDir,
		func(c *Config) any { return &c.DataDir }),
	setting("bindAddress", "bind-address", "init join restore status info snapshot", "IP address that etcd listens on and advertises", "the first global address on the default route's interface, IPv4 before IPv6",
		func(c *Config) any { return &c.BindAddress }),
	setting("advertiseName", "advertise-name", "init join restore", "DNS name that etcd advertises in place of its address; every node and client must resolve it", "none",
		func(c *Config) any { return &c.AdvertiseName }),
	setting("serverCertExtraSANs", "server-cert-extra-sans", "init join", "more names and addresses for the server certificate", "none",
		func(c *Config) any { return &c.ServerCertExtraSANs }),
	setting("initSystem", "init-system", "init join reset restore status", "what keeps etcd running: systemd, kubelet or process", InitSystems[0],
		func(c *Config) any { return &c.InitSystem }),
	setting("imageRepository", "image-repository", "init join", "container image of etcd, without a tag (init system kubelet)", constants.DefaultImageRepository,
		func(c *Config) any { return &c.ImageRepository }),
	setting("kubeletPodManifestPath", "kubelet-pod-manifest-path", "init join", "directory of the kubelet's static pods (init system kubelet)", constants.DefaultManifestDir,
		func(c *Config) any { return &c.KubeletPodManifestPath }),
	setting("cipherSuites", "cipher-suites", "init join", "TLS 1.2 cipher suites that etcd offers", "Go's choice",
		func(c *Config) any { return &c.CipherSuites }),
	lines(setting("diskPriorities", "disk-priorities", "init join", "line of the [Service] section of etcd's unit; the first one replaces the defaults", strings.Join(DiskPriorities, ", "),
		func(c *Config) any { return &c.DiskPriorities })),
	setting("downloadConnectTimeout", "download-connect-timeout", "init join download", "limit for connecting to a release server", constants.DownloadConnectTimeout.String(),
		func(c *Config) any { return &c.DownloadConnectTimeout }),
	setting("keyAlgorithm", "key-algorithm", "init join", "algorithm of new keys: "+strings.Join(KeyAlgorithms, ", "), KeyAlgorithms[0],
		func(c *Config) any { return &c.KeyAlgorithm }),
	setting("quotaBackendBytes", "quota-backend-bytes", "init join", "size limit of the database in bytes", "etcd's, or that of the cluster that is joined",
		func(c *Config) any { return &c.QuotaBackendBytes }),
	setting("joinEndpoints", "", "", "client URLs at which the cluster was joined; written by join", "none",
		func(c *Config) any { return &c.JoinEndpoints }),
	setting("extraEnv", "", "", "more environment variables of etcd", "none",
		func(c *Config) any { return &c.ExtraEnv }),
}

func setting(key, flag, commands, usage, def string, field func(*Config) any) Setting {
	s := Setting{Key: key, Flag: flag, Usage: usage, Default: def, Commands: strings.Fields(commands), field: field}
	if flag != "" {
		s.Env = envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
		s.Commands = append(s.Commands, "config")
	}
	switch field(new(Config)).(type) {
	case *string:
		s.Kind = Text
	case *[]string:
		s.Kind = List
	case *Duration:
		s.Kind = Time
	case *int64:
		s.Kind = Integer
	case *map[string]string:
		s.Kind = NameList
	}
	return s
}

func lines(s Setting) Setting {
	s.Kind = Lines
	return s
}

// For returns the settings that a top-level command takes as flags.
func For(command string) []Setting {
	var list []Setting
	for _, s := range Settings {
		if slices.Contains(s.Commands, command) {
			list = append(list, s)
		}
	}
	return list
}

// byKey returns the setting with a key, or one without a key.
func byKey(key string) Setting {
	for _, s := range Settings {
		if s.Key == key {
			return s
		}
	}
	return Setting{}
}

// Get returns the value of the setting in c as text: none when it is empty, one each for the items of a list, and
// NAME=value, sorted by name, for a map.
func (s Setting) Get(c Config) []string {
	switch f := s.field(&c).(type) {
	case *string:
		if *f != "" {
			return []string{*f}
		}
	case *[]string:
		return slices.Clone(*f)
	case *Duration:
		if f.Duration != 0 {
			return []string{f.String()}
		}
	case *int64:
		if *f != 0 {
			return []string{strconv.FormatInt(*f, 10)}
		}
	case *map[string]string:
		var list []string
		for k, v := range *f {
			list = append(list, k+"="+v)
		}
		slices.Sort(list)
		return list
	}
	return nil
}

// Set writes text to the setting in c: values in the form in which a flag or an environment variable gives them, or
// the items of a list. The error tells the form that is wanted; whether a value makes sense is for Validate.
func (s Setting) Set(c *Config, values ...string) error {
	single := strings.Join(values, ",")
	switch f := s.field(c).(type) {
	case *string:
		*f = single
	case *[]string:
		separator := ","
		if s.Kind == Lines {
			separator = "\n"
		}
		*f = split(values, separator)
	case *Duration:
		d, err := time.ParseDuration(single)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as 10s or 1m30s", single)
		}
		f.Duration = d
	case *int64:
		n, err := strconv.ParseInt(single, 10, 64)
		if errors.Is(err, strconv.ErrRange) {
			return fmt.Errorf("%s does not fit into 64 bits", single)
		}
		if err != nil {
			return fmt.Errorf("%q is not a number such as 8589934592", single)
		}
		*f = n
	case *map[string]string:
		*f = map[string]string{}
		for _, kv := range values {
			k, v, ok := strings.Cut(kv, "=")
			if !ok {
				return fmt.Errorf("%q is not of the form NAME=value", kv)
			}
			(*f)[k] = v
		}
	}
	return nil
}

// copy takes the setting over from another configuration.
func (s Setting) copy(to, from *Config) {
	switch f := s.field(to).(type) {
	case *string:
		*f = *s.field(from).(*string)
	case *[]string:
		*f = *s.field(from).(*[]string)
	case *Duration:
		*f = *s.field(from).(*Duration)
	case *int64:
		*f = *s.field(from).(*int64)
	case *map[string]string:
		*f = *s.field(from).(*map[string]string)
	}
}

// split returns the items of all values, trimmed, without the empty ones. It is never nil: a list that was given may be empty.
func split(values []string, separator string) []string {
	items := []string{}
	for _, v := range values {
		for item := range strings.SplitSeq(v, separator) {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
	}
	return items
}
