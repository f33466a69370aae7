package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/bench/compare"
)

const benchCompareLong = `Set two results side by side with their ratios: files that --json of its other commands has written. Several runs of one
side are given as one argument, joined by commas: median, lowest and highest are shown.

Where two results should not be compared (another scenario, another setting, another machine, another version, a run that was
interrupted, failed, or has no result) it says so first.`

func newBenchCompareCommand() *cobra.Command {
	return &cobra.Command{Use: "compare A.json[,A2.json] B.json[,B2.json]", Short: "Ratios of two results, with warnings", Long: benchCompareLong,
		Args: exactly("A.json", "B.json"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := compare.Read(strings.Split(args[0], ","))
			if err != nil {
				return err
			}
			b, err := compare.Read(strings.Split(args[1], ","))
			if err != nil {
				return err
			}
			return compare.Write(cmd.OutOrStdout(), a, b)
		}}
}
