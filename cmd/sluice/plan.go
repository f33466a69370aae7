package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/bench/plan"
	"github.com/sluicemq/sluice/bench/plan/measure"
)

func init() { register(newPlanCommand) }

const planLong = `Say how many nodes a fleet needs: for its load at the peak, and with the failures that it is to survive; which resource decides,
what head-room is left, with a 90 % interval, and a warning wherever the answer goes beyond what was measured.

The fleet is a YAML file (docs/capacity.md; examples/fleet-100k.yaml). What a node costs comes from a model: without --model, the one in the
program, which was measured on the machine that it names. sluice plan measure and sluice plan fit make one of another machine.`

type planFlags struct {
	fleet, model, output string
}

func newPlanCommand() *cobra.Command {
	f := &planFlags{}
	c := &cobra.Command{Use: "plan", Short: "Say how many nodes a fleet needs, from measurements", Long: planLong,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return misused("there is no sluice plan %s; see sluice plan --help", args[0])
			}
			if f.fleet == "" {
				return cmd.Help()
			}
			return f.run(cmd)
		}}
	fs := c.Flags()
	fs.StringVar(&f.fleet, "fleet", "", "file that describes the fleet")
	fs.StringVar(&f.model, "model", "", "file of a model, from sluice plan fit (default: the one in the program)")
	fs.StringVar(&f.output, "output", "table", "table, json or yaml")
	c.AddCommand(newPlanMeasureCommand(), newPlanFitCommand())
	return c
}

func (f *planFlags) run(cmd *cobra.Command) error {
	if f.output != "table" && f.output != "json" && f.output != "yaml" {
		return misused("--output %q is none of table, json, yaml", f.output)
	}
	text, err := os.ReadFile(filepath.Clean(f.fleet))
	if err != nil {
		return fmt.Errorf("read the fleet: %w", err)
	}
	fleet, err := plan.ParseFleet(f.fleet, text)
	if err != nil {
		return err
	}
	model, about, err := f.load()
	if err != nil {
		return err
	}
	a, err := model.Ask(fleet, about)
	if err != nil {
		return err
	}
	if f.model == "" {
		a.Warnings = append([]string{fmt.Sprintf("the model is the one in the program, of another machine than yours: %v; measure your own with "+
			"sluice plan measure", model.Machine)}, a.Warnings...)
	}
	return writeAnswer(cmd.OutOrStdout(), f.output, a)
}

func (f *planFlags) load() (m *plan.Model, about string, err error) {
	if f.model == "" {
		if m, err = plan.Default(); err != nil {
			return nil, "", err
		}
		return m, "in the program, " + m.About(), nil
	}
	if m, err = plan.LoadModel(f.model); err != nil {
		return nil, "", fmt.Errorf("read the model: %w", err)
	}
	return m, f.model + ", " + m.About(), nil
}

func writeAnswer(w io.Writer, format string, a *plan.Answer) error {
	if format == "table" {
		return a.WriteTable(w)
	}
	b, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	if format == "yaml" {
		var v yaml.Node // JSON is YAML; the keys keep their order
		if err := yaml.Unmarshal(b, &v); err != nil {
			return err
		}
		plainStyle(&v)
		enc := yaml.NewEncoder(w)
		enc.SetIndent(2)
		return errors.Join(enc.Encode(&v), enc.Close())
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// plainStyle takes the braces and quotes of JSON away.
func plainStyle(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plainStyle(c)
	}
}

const planFitLong = `Make a model of results of sluice plan measure; and of runs and ladders of sluice bench, if they were made with --pid and kept with --json: what each kind of event costs in CPU time, each kind of thing in memory, by least
squares with no cost below zero; and how wake-ups, system calls and flushes are shared as rates grow.

It then says what the model is worth: half of the rungs is predicted from the other half, and the errors are printed.`

func newPlanFitCommand() *cobra.Command {
	var out string
	var replicas int
	c := &cobra.Command{Use: "fit RESULTS…", Short: "Make a model of measurements", Long: planFitLong,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return misused("no file of results is named")
			}
			if replicas < 10 || replicas > 1000 {
				return misused("--replicas %d is not between 10 and 1000", replicas)
			}
			list, err := measure.ReadFiles(args)
			if err != nil {
				return err
			}
			m, err := plan.Fit(list, plan.FitOptions{Replicas: replicas})
			if err != nil {
				return err
			}
			b, err := m.Append(nil)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Clean(out), b, 0o644); err != nil {
				return fmt.Errorf("write the model: %w", err)
			}
			return m.WriteTable(cmd.OutOrStdout())
		}}
	c.Flags().StringVarP(&out, "output", "o", "model.json", "file of the model")
	c.Flags().IntVar(&replicas, "replicas", 100, "how often the fit is repeated on resampled rungs, for the intervals")
	return c
}
