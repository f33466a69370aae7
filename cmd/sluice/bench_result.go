package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/scenarios"
)

// run makes the load of a file and reports what it found.
func (f *benchFlags) run(cmd *cobra.Command, file *scenarios.File) error {
	to, err := f.target(cmd)
	if err != nil {
		return err
	}
	defer interruptible(cmd)()
	res, err := file.Run(cmd.Context(), to)
	return f.report(cmd, res, err)
}

// noResult marks a run that says nothing of the broker: exit code 3.
type noResult struct{ error }

// Unwrap gives the cause.
func (n noResult) Unwrap() error { return n.error }

// benchError makes of what is wrong with a scenario an error of the command line.
func benchError(err error) error {
	var bad *bench.MisuseError
	var problems scenarios.Problems
	if errors.As(err, &bad) || errors.As(err, &problems) {
		return misuse{err}
	}
	return err
}

// report writes a result, and makes an error of what the broker did wrong.
func (f *benchFlags) report(cmd *cobra.Command, res *bench.Result, err error) error {
	if err = benchError(err); errors.As(err, new(misuse)) {
		return err
	}
	if res != nil && (err == nil || res.Counts.Sent > 0 || len(res.Violations) > 0 || res.Void != "") {
		if werr := f.writeResult(cmd, res); werr != nil {
			return werr
		}
	}
	var lacks *bench.LackError
	switch {
	case errors.As(err, &lacks):
		return noResult{fmt.Errorf("no result: %w", err)}
	case err != nil && res != nil:
		return fmt.Errorf("%s on %s: %w", res.Scenario, res.URL, err)
	case err != nil:
		return err
	case len(res.Violations) > 0:
		return fmt.Errorf("the broker at %s failed: %s", res.URL, res.Violations[0])
	case res.Void != "":
		return noResult{fmt.Errorf("no result: %s", res.Void)}
	}
	return nil
}

func (f *benchFlags) writeResult(cmd *cobra.Command, res *bench.Result) error {
	if err := f.files.writeResult(res); err != nil {
		return err
	}
	if f.json != "" {
		done, err := writeJSON(cmd, f.json, res)
		if err != nil || done {
			return err
		}
	}
	return res.WriteTable(cmd.OutOrStdout())
}

// writeJSON writes v to a file, or to standard output if that is -, which is then all the output there is.
func writeJSON(cmd *cobra.Command, file string, v any) (all bool, err error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return false, err
	}
	b = append(b, '\n')
	if file == "-" {
		_, err := cmd.OutOrStdout().Write(b)
		return true, err
	}
	if err := os.WriteFile(filepath.Clean(file), b, 0o644); err != nil {
		return false, fmt.Errorf("write the result: %w", err)
	}
	return false, nil
}
