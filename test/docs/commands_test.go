package docs

import (
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"etcdadm/cmd"
	"etcdadm/pkg/api"
)

// call finds the commands in a line of shell; what follows ends at the next command, a comment or a redirection.
var call = regexp.MustCompile(`(?:^|^\$ |^sudo |^until |&& )etcdadm((?: +[^ |;&#>)]+)*)`)

// calls are the command lines of etcdadm that a page shows.
func (d document) calls() []string {
	lines := d.spans()
	for _, b := range d.blocks() {
		if b.language == "" || b.language == "sh" {
			lines = append(lines, strings.Split(strings.ReplaceAll(b.text, "\\\n", " "), "\n")...)
		}
	}
	var list []string
	for _, l := range lines {
		for _, m := range call.FindAllStringSubmatch(l, -1) {
			list = append(list, strings.TrimSpace(m[1]))
		}
	}
	return list
}

func TestEveryCommandExists(t *testing.T) {
	seen := 0
	for _, d := range documents(t) {
		for _, c := range d.calls() {
			seen++
			if problem := judge(cmd.Commands(), strings.Fields(c)); problem != "" {
				t.Errorf("%s: etcdadm %s: %s", d.path, c, problem)
			}
		}
	}
	if seen < 60 {
		t.Errorf("only %d commands were found", seen)
	}
}

func TestJudgeFindsEachKind(t *testing.T) {
	for line, good := range map[string]bool{
		"":                                true,
		"init":                            true,
		"init phase install --name a":     true,
		"join https://10.0.0.7:2379 -o x": true,
		"join phase NAME":                 true,
		"COMMAND --help":                  true,
		"initialise":                      false,
		"init phase nothing":              false,
		"reset --bind-adress 10.0.0.7":    false,
		"status --snapshot":               false,
	} {
		if problem := judge(cmd.Commands(), strings.Fields(line)); (problem == "") != good {
			t.Errorf("etcdadm %s: %q", line, problem)
		}
	}
}

// judge tells what is wrong with a command line, or "". Words in capitals and in brackets stand for something.
func judge(c *cobra.Command, args []string) string {
	for len(args) > 0 && c.HasSubCommands() && !strings.HasPrefix(args[0], "-") {
		if strings.ToUpper(args[0]) == args[0] || strings.HasPrefix(args[0], "[") {
			return ""
		}
		if c.Args != nil && c.Args(c, args[:1]) == nil {
			break
		}
		below, _, err := c.Find(args[:1])
		if err != nil || below == c {
			return args[0] + " is no command"
		}
		c, args = below, args[1:]
	}
	c.InitDefaultHelpFlag()
	for _, a := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		switch {
		case strings.HasPrefix(a, "--") && c.Flag(name) == nil:
			return a + " is no flag"
		case len(a) == 2 && a[0] == '-' && c.Flags().ShorthandLookup(a[1:]) == nil && c.InheritedFlags().ShorthandLookup(a[1:]) == nil:
			return a + " is no flag"
		}
	}
	return ""
}

// foreign are flags of other programs that the pages mention.
var foreign = map[string]bool{"heartbeat-interval": true}

var flag = regexp.MustCompile(`(?:^|[ ,])--([a-z][a-z0-9-]*)`)

func TestEveryFlagExists(t *testing.T) {
	known := map[string]bool{"help": true}
	var collect func(*cobra.Command)
	collect = func(c *cobra.Command) {
		for _, line := range strings.Split(c.Flags().FlagUsages()+c.PersistentFlags().FlagUsages(), "\n") {
			for _, m := range flag.FindAllStringSubmatch(line, 1) {
				known[m[1]] = true
			}
		}
		for _, s := range c.Commands() {
			collect(s)
		}
	}
	collect(cmd.Commands())
	for _, d := range documents(t) {
		for _, s := range d.spans() {
			for _, m := range flag.FindAllStringSubmatch(s, -1) {
				if !known[m[1]] && !foreign[m[1]] {
					t.Errorf("%s: --%s is no flag of any command", d.path, m[1])
				}
			}
		}
	}
}

var (
	makes  = regexp.MustCompile(`(?:^|[ (])make ([a-z]+)`)
	target = regexp.MustCompile(`(?m)^([a-z]+):`)
)

func TestEveryMakeTargetExists(t *testing.T) {
	targets := map[string]bool{}
	for _, m := range target.FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets[m[1]] = true
	}
	for _, d := range documents(t) {
		lines := d.spans()
		for _, b := range d.blocks() {
			lines = append(lines, strings.Split(b.text, "\n")...)
		}
		for _, l := range lines {
			for _, m := range makes.FindAllStringSubmatch(l, -1) {
				if !targets[m[1]] {
					t.Errorf("%s: make %s is no target", d.path, m[1])
				}
			}
		}
	}
}

func TestConfigurationsAreValid(t *testing.T) {
	seen := 0
	for _, d := range documents(t) {
		for _, b := range d.blocks() {
			if b.language != "yaml" || !strings.HasPrefix(b.text, "apiVersion: etcdadm/") {
				continue
			}
			seen++
			layer, err := api.Parse(api.FromFile, d.path, []byte(b.text))
			if err != nil {
				t.Error(err)
				continue
			}
			c, _ := api.Merge(layer)
			api.Default(&c, api.Facts{})
			for _, p := range c.Validate() {
				t.Errorf("%s: %s", d.path, p)
			}
		}
	}
	if seen == 0 {
		t.Error("no configuration was found")
	}
}
