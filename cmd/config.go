package cmd

import (
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"etcdadm/pkg/api"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/pkg/report"
)

func newConfig(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Print and validate configurations",
		Args:  noArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newConfigPrint(a), newConfigValidate(a))
	return c
}

func newConfigPrint(a *app) *cobra.Command {
	var given settings
	var effective bool
	c := &cobra.Command{
		Use:   "print",
		Short: "Print the configuration that these flags make",
		Example: `  etcdadm config print > etcdadm.yaml
  etcdadm config print --effective`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			h := host.New(a.root, host.ReadOnly())
			layers, err := a.layers(h, given)
			if err != nil {
				return err
			}
			config, origins, err := a.configuration(h, "config", layers...)
			if err != nil {
				return err
			}
			if a.format != report.Text {
				if effective {
					return report.Write(a.Out, a.format, withOrigin{config, origins}, nil)
				}
				return report.Write(a.Out, a.format, config, nil)
			}
			text := string(config.Marshal())
			if effective {
				text = withOrigins(text, origins)
			}
			_, err = io.WriteString(a.Out, text)
			return err
		},
	}
	c.Flags().BoolVar(&effective, "effective", false, "tell where each value comes from: default, retired, stored, file, environment or flag")
	given = addSettings(c, "config")
	return c
}

// withOrigin is a configuration with the origin of every value, by key.
type withOrigin struct {
	api.Config
	Origins map[string]api.Origin `json:"origins"`
}

// withOrigins adds the origin of each value as a comment, so that the output remains a configuration.
func withOrigins(yaml string, origins map[string]api.Origin) string {
	var b strings.Builder
	for line := range strings.Lines(yaml) {
		key, _, _ := strings.Cut(line, ":")
		if origin, ok := origins[key]; ok {
			line = fmt.Sprintf("%s # %s\n", strings.TrimSuffix(line, "\n"), origin)
		}
		b.WriteString(line)
	}
	return b.String()
}

func newConfigValidate(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "validate",
		Short: "Judge the file of --config, or the stored configuration",
		Example: `  etcdadm config validate --config etcdadm.yaml
  etcdadm config validate`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			h := host.New(a.root, host.ReadOnly())
			layers, err := a.layers(h, nil)
			if err != nil {
				return err
			}
			if a.configFile == "" && layers[0].Origin != api.FromStored {
				return errs.New(errs.Usage, "there is no configuration to validate: %w", fs.ErrNotExist).Hint("etcdadm config validate --config FILE")
			}
			_, _, err = a.configuration(h, "config", layers...)
			if err != nil {
				return err
			}
			valid := report.New("config validate", &converge.Result{})
			valid.Msg = "the configuration is valid"
			return report.Write(a.Out, a.format, valid, valid.Text)
		},
	}
}
