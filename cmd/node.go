package cmd

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"etcdadm/binary"
	"etcdadm/constants"
	"etcdadm/pkg/api"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/pkg/lifecycle"
)

// settings holds the values of the flags that say something about the configuration, by key.
type settings map[string]*[]string

// addSettings gives a command the flags of its settings.
func addSettings(c *cobra.Command, command string) settings {
	values := settings{}
	for _, s := range api.For(command) {
		v := new([]string)
		values[s.Key] = v
		usage := s.Usage
		if s.Default != "" {
			usage += " (default: " + s.Default + ")"
		}
		c.Flags().Var(settingValue{s, v}, s.Flag, usage)
	}
	return values
}

// settingValue collects what was given for a flag, and has it judged by the setting's own form.
type settingValue struct {
	setting api.Setting
	values  *[]string
}

var _ pflag.Value = settingValue{}

func (v settingValue) String() string { return "" }
func (v settingValue) Type() string   { return string(v.setting.Kind) }

func (v settingValue) Set(value string) error {
	if err := v.setting.Set(new(api.Config), value); err != nil {
		return err
	}
	if v.setting.Kind != api.List && v.setting.Kind != api.Lines {
		*v.values = nil // the last one counts
	}
	*v.values = append(*v.values, value)
	return nil
}

// layers reads what the stored configuration, or else the retired etcdadm, and --config, the environment and the flags
// say, weakest first.
func (a *app) layers(h *host.Host, given settings) ([]api.Layer, error) {
	stored, err := a.stored(h)
	if err != nil {
		return nil, err
	}
	var layers []api.Layer
	if stored.Origin != "" {
		layers = append(layers, stored)
	} else if found, err := lifecycle.Found(context.Background(), h); err != nil {
		return nil, err
	} else if found != nil {
		layers = append(layers, *found)
	}
	if a.configFile != "" {
		data, err := a.readInput(a.configFile)
		if err != nil {
			return nil, errs.New(errs.Usage, "configuration file: %w", err).Hint("etcdadm config print > etcdadm.yaml")
		}
		file, err := parse(api.FromFile, a.configFile, data)
		if err != nil {
			return nil, err
		}
		layers = append(layers, file)
	}
	env, err := api.Environment(a.environ)
	if err != nil {
		return nil, err
	}
	flags := api.Layer{Origin: api.FromFlag}
	for _, s := range api.Settings {
		if v := given[s.Key]; v != nil && *v != nil {
			if err := flags.Put(s, *v...); err != nil {
				return nil, errs.New(errs.Usage, "--%s: %w", s.Flag, err)
			}
		}
	}
	return append(layers, env, flags), nil
}

// stored reads the stored configuration; without one, its layer has no origin. One that cannot be read is in the way of
// every command that changes anything: who this node is, and where its data lies, is not to be guessed.
func (a *app) stored(h *host.Host) (api.Layer, error) {
	data, err := h.ReadFile(constants.ConfigFile)
	if errors.Is(err, fs.ErrNotExist) || a.unstored {
		return api.Layer{}, nil
	}
	var layer api.Layer
	if err == nil {
		layer, err = api.Parse(api.FromStored, h.Path(constants.ConfigFile), data)
	}
	if err == nil || errors.Is(err, fs.ErrPermission) {
		return layer, err
	}
	real := h.Path(constants.ConfigFile)
	return layer, errs.New(errs.Usage, "%w", err).
		Hint("mend that file; or set it aside, and give what is not a default by flags: mv %s %s.aside", real, real).
		Hint("what this node is, without that file: etcdadm status")
}

// parse reads a configuration. Where the error has no hint of its own, there is an example to follow.
func parse(origin api.Origin, name string, data []byte) (api.Layer, error) {
	layer, err := api.Parse(origin, name, data)
	if err != nil && len(errs.HintsOf(err)) == 0 {
		err = errs.New(errs.Usage, "%w", err).Hint("for a file with every key: etcdadm --root \"$(mktemp -d)\" config print")
	}
	return layer, err
}

// readInput reads a file of the caller, or standard input for "-".
func (a *app) readInput(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(io.LimitReader(a.In, 2<<20))
	}
	return host.ReadInput(path)
}

// configuration merges the layers and fills the defaults. Only what the command has a flag for is judged: reset works
// on a node whose name cannot be found any more.
func (a *app) configuration(h *host.Host, command string, layers ...api.Layer) (api.Config, map[string]api.Origin, error) {
	c, origins := api.Merge(layers...)
	facts := api.Facts{}
	if dir, err := os.Getwd(); err == nil {
		facts.WorkDir = dir
		if strings.HasPrefix(dir+"/", strings.TrimSuffix(h.Root(), "/")+"/") {
			facts.WorkDir = h.Logical(dir)
		}
	}
	facts.Hostname, _ = os.Hostname()
	if c.BindAddress == "" {
		if address, err := host.DefaultAddress(); err == nil {
			facts.Address = address
		}
	}
	api.Default(&c, facts)
	var problems []api.Problem
	judged := api.For(command)
	for _, p := range c.Validate() {
		key, _, _ := strings.Cut(strings.ReplaceAll(p.Field, "[", "."), ".")
		switch {
		case !slices.ContainsFunc(judged, func(s api.Setting) bool { return s.Key == key }) && origins[key] == api.FromDefault:
		case p.Warning:
			a.console.Warn(p.String())
		default:
			problems = append(problems, p)
		}
	}
	return c, origins, api.Verdict(problems)
}

// versionKey is the key of the setting that stays open until a release is installed.
const versionKey = "version"

// node returns the node that a command works on.
func (a *app) node(command string, given settings, opts ...host.Option) (*lifecycle.Node, error) {
	h := host.New(a.root, append(slices.Clone(a.hostOptions), opts...)...)
	layers, err := a.layers(h, given)
	if err != nil {
		return nil, err
	}
	if layers[0].Origin != api.FromStored && layers[0].Origin != api.FromRetired && (command == "status" || command == "reset") {
		// Others begin anew then, and what an image was made with is not what its copies are called.
		layers = append([]api.Layer{lifecycle.Remembered(h)}, layers...)
	}
	config, origins, err := a.configuration(h, command, layers...)
	if err != nil {
		return nil, err
	}
	if layers[0].Origin == api.FromRetired && origins["version"] == api.FromDefault && (command == "init" || command == "join") {
		return nil, errs.New(errs.Precondition, "the version of the etcd that is to be taken over cannot be told").
			Hint("start it: systemctl start %s", constants.Unit).Hint("or say its version: --version X.Y.Z")
	}
	n := &lifecycle.Node{Config: config, Host: h, Log: a.console.Logger(), Now: time.Now}
	if o := layers[0].Origin; o == api.FromStored || o == api.FromRetired {
		n.StoredDataDir = layers[0].Config.DataDir
	}
	for _, found := range []string{"name", "bindAddress", versionKey} {
		if origins[found] == api.FromDefault {
			n.Transient = append(n.Transient, found)
		}
	}
	return n, nil
}

// readSums reads the file of --sha256sums.
func (a *app) readSums(path string) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	data, err := a.readInput(path)
	if err != nil {
		return nil, errs.New(errs.Usage, "--sha256sums: %w", err).Hint("leave --sha256sums out for the digests that are compiled in")
	}
	sums, err := binary.ParseSums(strings.NewReader(string(data)))
	if err != nil {
		return nil, errs.New(errs.Usage, "--sha256sums %s: %w", path, err).Hint("write lines of the form: <sha256 in hex>  <file name>")
	}
	return sums, nil
}
