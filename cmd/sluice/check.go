package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/server"
)

func init() { register(newCheckConfig) }

func newCheckConfig() *cobra.Command {
	var f startFlags
	c := &cobra.Command{
		Use: "check-config --config FILE", Short: "Say what is wrong with a configuration", Args: atMost(0),
		Long: "Read a configuration and the files that it names (certificates, users, rules), with line and column of everything that\n" +
			"is wrong. Nothing is opened and nothing is written. Exit code 0: a node would take it; 1: it would not.",
		Example: "  sluice check-config --config sluice.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return checkConfig(cmd.OutOrStdout(), cmd.ErrOrStderr(), &f)
		},
	}
	f.addConfig(c)
	return c
}

func checkConfig(out, problemsTo io.Writer, f *startFlags) error {
	if f.file == "" {
		return misused("want --config FILE")
	}
	loaded, err := f.load()
	var problems config.Problems
	if errors.As(err, &problems) {
		for _, p := range problems {
			_, _ = fmt.Fprintln(problemsTo, p)
		}
		return silent{err}
	}
	if err != nil {
		return err
	}
	if _, err := server.New(loaded.Config, server.Options{Version: version}); err != nil {
		return fmt.Errorf("%s: %w", f.file, err)
	}
	_, err = fmt.Fprintf(out, "%s: ok\n", f.file)
	return err
}
