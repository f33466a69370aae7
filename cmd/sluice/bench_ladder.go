package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/ladder"
	"github.com/sluicemq/sluice/bench/scenarios"
)

const benchLadderLong = `Find the highest rate at which a broker holds an objective: rungs up by a factor until one does not hold, then bisection to the knee,
each rung near it several times (--repeats). Load goes out by a timetable, and latency counts from the time at which a message
was meant to go, so that a broker that falls behind shows it. That nothing is lost goes without saying.

The answer is an interval: the highest rate that held and the lowest that did not. It says by which rule it ended: objective, max
rate, max time, generator (the generator could not make more load: no failure of the broker), violation (the broker doubled,
reordered or corrupted: no rate excuses that), broken, or interrupted; what was found until then is printed in each case.

The scenario file has the objective and the bounds of the ladder; the flags change them. --json writes all rungs with a whole
result for each run.`

// ladderFlags are the flags of sluice bench ladder.
type ladderFlags struct {
	benchFlags
	set     []string
	changed []string // KEY=VALUE of ladder settings given as flags
}

// ladderFlag makes a flag of a ladder's setting.
type ladderFlag struct {
	scenarios.Setting
	f *ladderFlags
}

// String gives the default.
func (f ladderFlag) String() string {
	if f.Show == nil {
		return ""
	}
	return f.Show()
}

// Set keeps the value for the file that is opened later.
func (f ladderFlag) Set(text string) error {
	f.f.changed = append(f.f.changed, "ladder."+f.Name+"="+text)
	return nil
}

// Type names it in the help.
func (f ladderFlag) Type() string { return f.Setting.Type }

func newBenchLadderCommand() *cobra.Command {
	f := &ladderFlags{}
	c := &cobra.Command{Use: "ladder FILE|NAME", Short: "Find the rate up to which a broker holds an objective", Long: benchLadderLong,
		Args: exactly("SCENARIO"), ValidArgsFunction: completeScenarios,
		RunE: func(cmd *cobra.Command, args []string) error { return f.climb(cmd, args[0]) }}
	f.addRun(c)
	f.addURLs(c)
	c.Flags().StringArrayVar(&f.set, "set", nil, "KEY=VALUE of a setting, or PART.KEY=VALUE; may be given again")
	for _, s := range scenarios.NewLadder().Settings() {
		c.Flags().Var(ladderFlag{s, f}, s.Name, s.About)
	}
	return c
}

func (f *ladderFlags) climb(cmd *cobra.Command, name string) error {
	file, err := scenarios.Open(name, append(f.changed, f.set...))
	if err != nil {
		return benchError(err)
	}
	if err := file.Climbable(); err != nil {
		return misused("%s: %v", name, err)
	}
	to, err := f.target(cmd)
	if err != nil {
		return err
	}
	l := file.Ladder
	objective, err := bench.ParseObjective(l.Objective)
	if err != nil {
		return misuse{err}
	}
	defer interruptible(cmd)()
	progress := to.Progress
	to.Progress = nil // of the runs: a line for each is enough
	a, err := ladder.Climb(cmd.Context(), ladder.Options{
		Scenario: file.Name, Objective: objective, From: l.From, To: l.To, Growth: l.Growth, Precision: l.Precision, Repeats: l.Repeats,
		MaxTime: l.MaxTime, Each: file.Duration(), Progress: progress,
		Run: func(ctx context.Context, rate float64) (*bench.Result, error) {
			file.SetRate(rate)
			return file.Run(ctx, to)
		},
	})
	if err != nil {
		return benchError(err)
	}
	if err := f.files.writeAny(file.Name, a); err != nil {
		return err
	}
	if f.json != "" {
		done, err := writeJSON(cmd, f.json, a)
		if err != nil {
			return err
		}
		if done {
			return ladderError(a)
		}
	}
	if err := writeLadder(cmd.OutOrStdout(), a); err != nil {
		return err
	}
	return ladderError(a)
}

// ladderError makes an error of a ladder that says nothing, or that found the broker wrong.
func ladderError(a *ladder.Answer) error {
	switch {
	case a.Rule == ladder.RuleViolation:
		return fmt.Errorf("the broker failed %s", a.Reason)
	case a.Rule == ladder.RuleBroken:
		return fmt.Errorf("the ladder broke: %s", a.Reason)
	case a.Held == 0 && a.Rule == ladder.RuleGenerator:
		return noResult{fmt.Errorf("no result: %s", a.Reason)}
	}
	return nil
}

// writeLadder prints the answer and its rungs.
func writeLadder(w io.Writer, a *ladder.Answer) error {
	var b strings.Builder
	if a.Partial {
		b.WriteString("PARTIAL: the ladder was not climbed to its end\n")
	}
	fmt.Fprintf(&b, "%s: %s\n", a.Ladder, interval(a))
	fmt.Fprintf(&b, "ended by rule %s: %s\n\n", a.Rule, a.Reason)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "messages/s\tverdict\truns\tmedian µs (lowest to highest)\tserver CPU µs a message\twhy")
	for _, r := range a.Rungs {
		var bounds []string
		for _, s := range r.Bounds {
			bounds = append(bounds, fmt.Sprintf("%s %.0f (%.0f to %.0f)", s.Of, s.Median, s.Low, s.High))
		}
		why := ""
		if len(r.Reasons) > 0 {
			why = r.Reasons[0]
		}
		fmt.Fprintf(t, "%.0f\t%s\t%d\t%s\t%s\t%s\n", r.Rate, r.Verdict, len(r.Runs), strings.Join(bounds, ", "), serverCPU(r), why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// interval says what was found in a line.
func interval(a *ladder.Answer) string {
	text := fmt.Sprintf("%s holds at %.0f messages a second", a.Objective, a.Held)
	if a.Held == 0 {
		text = a.Objective + " held at no rate"
	}
	switch {
	case a.Missed > 0 && a.Voided > 0 && a.Voided < a.Missed:
		text += fmt.Sprintf(" and is missed at %.0f; between them, from %.0f on, the generator fell short", a.Missed, a.Voided)
	case a.Missed > 0:
		text += fmt.Sprintf(" and is missed at %.0f", a.Missed)
	case a.Voided > 0:
		text += fmt.Sprintf("; at %.0f the generator fell short, which says nothing of the broker", a.Voided)
	}
	return text
}

// serverCPU gives the lowest and highest CPU time a message of a rung's runs.
func serverCPU(r *ladder.Rung) string {
	low, high := 0.0, 0.0
	for _, x := range r.Runs {
		if x.Result == nil || x.Result.Server == nil || x.Result.Server.CPUPerMessage == 0 {
			continue
		}
		v := x.Result.Server.CPUPerMessage
		if low == 0 || v < low {
			low = v
		}
		high = max(high, v)
	}
	if high == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f to %.2f", low, high)
}
