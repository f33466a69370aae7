package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/cli.md")

// TestCLIUpToDate compares docs/cli.md with what the commands say of themselves.
func TestCLIUpToDate(t *testing.T) {
	const page = "../../docs/cli.md"
	want := commandPage(newRoot())
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Errorf("%s is not what the commands say: run make generate", page)
	}
}

// TestDocumentedCommands: what the pages tell a reader to type, there is: each command, and each flag of it.
func TestDocumentedCommands(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../../docs/operate/*.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile("(?:^|[\\s`(])(?:bin/)?sluice ((?:[a-z]|--?[a-z])[^\n`|&;]*)")
	seen := 0
	for _, page := range append(append(pages, more...), "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range line.FindAllStringSubmatch(string(text), -1) {
			typed, _, _ := strings.Cut(m[1], " #")
			words := strings.Fields(typed)
			c, rest, err := newRoot().Find(words)
			if err != nil || c == nil || !c.HasParent() {
				continue // prose
			}
			seen++
			for _, w := range rest {
				name, isFlag := strings.CutPrefix(w, "--")
				name, _, _ = strings.Cut(strings.TrimRight(name, ".,)"), "=")
				if isFlag && name != "" && name != "help" && c.Flag(name) == nil {
					t.Errorf("%s: sluice %s has no flag --%s", page, c.Name(), name)
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d commands were found", seen)
	}
}

func commandPage(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("# The command line\n\n<!-- Generated from cmd/sluice by `make generate`. Do not edit. -->\n\n" +
		"Exit codes: 0 done, 1 failed, 2 misused, and of `sluice bench` 3: no result. Every command takes `--help`.\n\n" +
		"Completion: `sluice completion bash|zsh|fish` prints a script. For the whole machine:\n\n```\n" +
		"sluice completion bash > /etc/bash_completion.d/sluice\n" +
		"sluice completion zsh  > /usr/local/share/zsh/site-functions/_sluice\n" +
		"sluice completion fish > /usr/share/fish/vendor_completions.d/sluice.fish\n```\n")
	describe(&b, root)
	return b.String()
}

// describe writes a section for each command below c. Neighbours with the same flags share one table.
func describe(b *strings.Builder, c *cobra.Command) {
	var above, first string
	for _, sub := range c.Commands() {
		if sub.Hidden || sub.Name() == "help" || sub.Name() == "completion" {
			continue
		}
		text := sub.Long
		if text == "" {
			text = sub.Short + "."
		}
		fmt.Fprintf(b, "\n## `%s`\n\n%s\n", sub.UseLine(), text)
		if sub.Example != "" {
			fmt.Fprintf(b, "\n```\n%s\n```\n", strings.TrimRight(sub.Example, "\n"))
		}
		if table := flagTable(sub); table != "" && table == above {
			fmt.Fprintf(b, "\nFlags: those of `%s`.\n", first)
		} else {
			b.WriteString(table)
			above, first = table, sub.CommandPath()
		}
		describe(b, sub)
	}
}

func flagTable(c *cobra.Command) string {
	var b strings.Builder
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if b.Len() == 0 {
			b.WriteString("\n| flag | default | |\n|---|---|---|\n")
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name += ", `-" + f.Shorthand + "`"
		}
		def := f.DefValue
		if def != "" && def != "[]" && def != "false" {
			def = "`" + def + "`"
		} else {
			def = ""
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, def, strings.ReplaceAll(f.Usage, "|", "\\|"))
	})
	return b.String()
}
