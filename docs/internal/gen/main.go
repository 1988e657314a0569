// Command gen writes what the code knows best into the documentation: the command reference, docs/commands.md, and the
// man pages, docs/man, from the command tree, and the table of docs/configuration.md from the settings. With -check it
// writes nothing, and fails when they are not what it would write.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"etcdadm/cmd"
	"etcdadm/pkg/api"
)

func main() {
	check := flag.Bool("check", false, "compare only")
	dir := flag.String("dir", "docs", "the directory of the documentation")
	flag.Parse()
	if err := run(*dir, *check); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(dir string, check bool) error {
	files, err := generate()
	if err != nil {
		return err
	}
	if files["configuration.md"], err = withSettings(filepath.Join(dir, "configuration.md")); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, "man", "*.1"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if name, err := filepath.Rel(dir, path); err == nil && files[name] == nil {
			files[name] = []byte{} // of a command that is gone
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, name)
		have, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		switch {
		case bytes.Equal(have, files[name]) && len(files[name]) > 0:
		case check:
			return fmt.Errorf("%s is not in step with the code: run make docs", path)
		case len(files[name]) == 0:
			err = os.Remove(path)
		default:
			err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, files[name], 0o644))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// generate returns the files about the commands by their name below the directory of the documentation.
func generate() (map[string][]byte, error) {
	files := map[string][]byte{}
	var reference bytes.Buffer
	reference.WriteString("# Commands\n\nWritten by `make docs`; the same text is in `etcdadm COMMAND --help` and in the man pages.\n")
	for _, c := range commands(cmd.Commands()) {
		describe(&reference, c)
		name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
		page, err := man(c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		files[filepath.Join("man", name)] = page
	}
	files["commands.md"] = reference.Bytes()
	return files, nil
}

// commands lists a command and what is below it. Commands that differ in a name alone, the phases and the shells, are
// listed in the text of the one above them.
func commands(c *cobra.Command) []*cobra.Command {
	c.DisableAutoGenTag = true
	c.InitDefaultHelpFlag()
	below := slices.DeleteFunc(slices.Clone(c.Commands()), func(s *cobra.Command) bool { return !s.IsAvailableCommand() || s.Name() == "help" })
	if c.Name() == "phase" || c.Name() == "completion" {
		c.Long = c.Short + ":\n\n"
		for _, s := range below {
			c.Long += fmt.Sprintf("  %-24s%s\n", s.Name(), s.Short)
		}
		if c.Name() == "phase" {
			c.Long += fmt.Sprintf("\nEach takes the flags of `%s`.", c.Parent().CommandPath())
		}
		c.Use += " NAME"
		c.Run, c.RunE = func(*cobra.Command, []string) {}, nil
		c.RemoveCommand(below...)
		below = nil
	}
	all := []*cobra.Command{c}
	for _, s := range below {
		all = append(all, commands(s)...)
	}
	return all
}

// describe writes the section of a command.
func describe(w *bytes.Buffer, c *cobra.Command) {
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	fmt.Fprintf(w, "\n## %s\n\n%s\n\n```\n%s\n```\n", c.CommandPath(), block(text), c.UseLine())
	if c.Example != "" {
		fmt.Fprintf(w, "\nExamples:\n\n```\n%s\n```\n", dedent(c.Example))
	}
	flags := c.NonInheritedFlags().FlagUsages()
	if c.HasParent() && strings.Count(flags, "\n") <= 1 { // --help alone
		return
	}
	fmt.Fprintf(w, "\nFlags:\n\n```\n%s```\n", flags)
}

// block fences the indented lines of a text.
func block(text string) string {
	var lines []string
	fenced := false
	for _, l := range append(strings.Split(strings.TrimSpace(text), "\n"), "") {
		if indented := strings.HasPrefix(l, "  "); indented != fenced {
			lines, fenced = append(lines, "```"), indented
		}
		lines = append(lines, strings.TrimPrefix(l, "  "))
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

func dedent(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, "  ")
	}
	return strings.Join(lines, "\n")
}

// man returns the page of a command. It carries no date: the same commands give the same page.
func man(c *cobra.Command) ([]byte, error) {
	var page bytes.Buffer
	never := time.Time{}
	if err := doc.GenMan(c, &doc.GenManHeader{Section: "1", Source: "etcdadm", Date: &never}, &page); err != nil {
		return nil, err
	}
	return bytes.Replace(page.Bytes(), []byte(never.Format(`"Jan 2006"`)), []byte(`""`), 1), nil
}

// The lines between which the table of settings stands.
const (
	tableBegins = "<!-- settings: written by make docs -->\n"
	tableEnds   = "<!-- end of settings -->\n"
)

// withSettings returns a file with the table of settings in its place.
func withSettings(path string) ([]byte, error) {
	have, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	before, rest, begins := strings.Cut(string(have), tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		return nil, fmt.Errorf("%s has no place for the table of settings, between %q and %q", path, tableBegins, tableEnds)
	}
	return []byte(before + tableBegins + settingsTable() + tableEnds + after), nil
}

func settingsTable() string {
	var b strings.Builder
	b.WriteString("\n| key | flag | environment | form | default | meaning |\n|---|---|---|---|---|---|\n")
	for _, s := range api.Settings {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", s.Key, code("--", s.Flag), code("", s.Env), s.Kind, s.Default, s.Usage)
	}
	return b.String() + "\n"
}

func code(prefix, s string) string {
	if s == "" {
		return ""
	}
	return "`" + prefix + s + "`"
}
