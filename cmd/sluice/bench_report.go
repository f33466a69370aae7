package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/report"
)

const benchReportLong = `Make a page of results that --json has kept: one alone in full, or up to eight side by side. A page is one file that needs no network.

Results of different machines, versions, scenarios or settings are put side by side with a warning. What a broker did wrong comes first.`

// reportFiles are the files that a result is written to.
type reportFiles struct{ csv, html string }

func (f *reportFiles) add(c *cobra.Command) {
	c.Flags().StringVar(&f.csv, "csv", "", "write the figures and the seconds of the run to this file")
	c.Flags().StringVar(&f.html, "html", "", "write a page with plots to this file")
}

// write writes what is asked for.
func (f *reportFiles) write(items []report.Item) error {
	if f.html != "" {
		if err := writeFile(f.html, func(w io.Writer) error { return report.WriteHTML(w, items) }); err != nil {
			return err
		}
	}
	if f.csv == "" {
		return nil
	}
	if len(items) != 1 || items[0].Result == nil {
		return misused("--csv is for the result of one run")
	}
	return writeFile(f.csv, func(w io.Writer) error { return report.WriteCSV(w, items[0].Result) })
}

// writeResult writes a run's result.
func (f *reportFiles) writeResult(r *bench.Result) error {
	name := r.Name
	if name == "" {
		name = r.Scenario
	}
	return f.write([]report.Item{{Name: name, Result: r}})
}

// writeAny writes what has a form of JSON that a report knows: a ladder's answer.
func (f *reportFiles) writeAny(name string, v any) error {
	if f.html == "" && f.csv == "" {
		return nil
	}
	it, err := report.Of(name, v)
	if err != nil {
		return err
	}
	return f.write([]report.Item{it})
}

func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(filepath.Clean(name))
	if err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return fmt.Errorf("write the result to %s: %w", name, err)
	}
	return nil
}

func newBenchReportCommand() *cobra.Command {
	f := &reportFiles{}
	c := &cobra.Command{Use: "report RESULT.json...", Short: "Make a page of results that were kept", Long: benchReportLong,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return misused("no result is named")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if f.html == "" && f.csv == "" {
				return misused("--html or --csv says where the report goes")
			}
			var items []report.Item
			for _, name := range args {
				it, err := report.Read(name)
				if err != nil {
					return err
				}
				items = append(items, it)
			}
			return f.write(items)
		}}
	f.add(c)
	return c
}
