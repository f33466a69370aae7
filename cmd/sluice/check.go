package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/server"
)

func init() { register(newCheckConfig) }

func newCheckConfig() *cobra.Command {
	var file string
	var set []string
	c := &cobra.Command{
		Use: "check-config", Short: "Say what is wrong with a configuration", Args: atMost(0),
		Long: "Read a configuration and the files that it names (certificates, users, rules), with line and column of everything that\n" +
			"is wrong. Nothing is opened and nothing is written. Exit code 0: a node would take it; 1: it would not.",
		Example: "  sluice check-config --config sluice.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return checkConfig(cmd.OutOrStdout(), cmd.ErrOrStderr(), file, set)
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "configuration file, YAML")
	c.Flags().StringArrayVar(&set, "set", nil, "set one key: KEY=VALUE; may be repeated")
	_ = c.MarkFlagFilename("config", "yaml", "yml")
	return c
}

func checkConfig(out, problemsTo io.Writer, file string, set []string) error {
	if file == "" {
		return misused("want --config FILE")
	}
	loaded, err := config.Load(config.LoadOptions{File: file, Environ: os.Environ(), Set: set})
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
		return fmt.Errorf("%s: %w", file, err)
	}
	_, err = fmt.Fprintf(out, "%s: ok\n", file)
	return err
}
