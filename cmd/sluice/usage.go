package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// finish gives the whole tree what its commands share: help and completion, and exit code 2 for every misuse, with the nearest
// command named. It comes after all commands are in.
func finish(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if c.HasSubCommands() {
			// `sluice stat --config x` is a wrong command before it is a wrong flag.
			if err := knownCommand(c, c.Flags().Args()); err != nil {
				return err
			}
		}
		return misused("%w; see %s --help", err, c.CommandPath())
	})
	strict(root)
}

// strict goes through the tree.
func strict(c *cobra.Command) {
	check := c.Args
	switch {
	case c.HasSubCommands():
		c.Args = knownCommand
		if !c.Runnable() {
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
	case c.Name() == "help":
		c.Args = func(c *cobra.Command, args []string) error {
			at, rest, err := c.Root().Find(args)
			if err != nil {
				return misuse{err}
			}
			return knownCommand(at, rest)
		}
	case check != nil:
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return misused("%w; see %s --help", err, c.CommandPath())
			}
			return nil
		}
	}
	if c.ValidArgsFunction == nil && !c.HasSubCommands() {
		c.ValidArgsFunction = cobra.NoFileCompletions // no command takes a file as its argument
	}
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

// knownCommand refuses what is left where a command was wanted.
func knownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := nearest(c, args[0]); near != "" {
		return misused("unknown command %q for %q; did you mean %q? (%s --help lists all)", args[0], c.CommandPath(), near, c.CommandPath())
	}
	return misused("unknown command %q for %q; %s --help lists all", args[0], c.CommandPath(), c.CommandPath())
}

// nearest is the command below c that is most like name, and empty if none shares half of it.
func nearest(c *cobra.Command, name string) string {
	for d := 1; d <= max(2, len(name)/2); d++ {
		c.SuggestionsMinimumDistance = d
		if list := c.SuggestionsFor(name); len(list) > 0 {
			return list[0]
		}
	}
	return ""
}

// exactly wants n arguments, which are named in the error.
func exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return misused("%s is missing", strings.Join(names[len(args):], " "))
		case len(args) > len(names):
			return misused("too many arguments: %s", strings.Join(args[len(names):], " "))
		}
		return nil
	}
}

// output is the flag --output of every listing.
type output string

func (o *output) add(c *cobra.Command) {
	c.Flags().StringVarP((*string)(o), "output", "o", "table", "table, json or yaml")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
}

func (o *output) check() error {
	switch *o {
	case "table", "json", "yaml":
		return nil
	}
	return misused("want --output table, json or yaml, found %q", *o)
}

// write prints v, whose fields have json and yaml names, or rows with their columns in line.
func (o *output) write(w io.Writer, v any, rows [][]string) error {
	switch *o {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(v)
	case "yaml":
		e := yaml.NewEncoder(w)
		e.SetIndent(2)
		if err := e.Encode(v); err != nil {
			return err
		}
		return e.Close()
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		if _, err := fmt.Fprintln(t, strings.Join(r, "\t")); err != nil {
			return err
		}
	}
	return t.Flush()
}
