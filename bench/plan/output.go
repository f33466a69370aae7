package plan

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// WriteTable prints an answer for people.
func (a *Answer) WriteTable(w io.Writer) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	if a.Fleet != "" {
		row("fleet", "%s", a.Fleet)
	}
	row("model", "%s", a.Model)
	row("nodes", "%d (90 %% interval: %d to %d); %s binds", a.Nodes, a.Low, a.High, a.Binds)
	if a.Survive > 0 {
		row("to survive", "%d with %s", a.Surviving, plural(a.Survive, "failure", "failures at the same time"))
		if a.Return > 0 {
			row("", "the clients of a lost node take at least %s to come back, at all the CPU that is left", seconds(a.Return))
		}
	}
	if a.Price > 0 {
		row("price", "%s (%s to %s)", money(a.Price, a.Currency), money(a.PriceLow, ""), money(a.PriceHigh, a.Currency))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\nOne of %s at the peak:\n\n", plural(a.Nodes, "node", "nodes"))
	t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "resource\tneeds\t90 % interval\tmay use\thead-room")
	for _, r := range a.Resources {
		may, spare := "not given", ""
		if r.May > 0 {
			may, spare = r.amount(r.May), fmt.Sprintf("%.0f %%", r.Spare*100)
		}
		fmt.Fprintf(t, "%s\t%s\t%s to %s\t%s\t%s\n", r.Name, r.amount(r.Needs), r.amount(r.Low), r.amount(r.High), may, spare)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	b.WriteString("\nCPU goes to:")
	for i, s := range a.Spent {
		if i == 8 {
			break
		}
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, " %s %.0f %%", plain(s.Event), s.Share*100)
	}
	b.WriteString(".\n")
	for _, x := range a.Warnings {
		fmt.Fprintf(&b, "\nWarning: %s.\n", x)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func money(v float64, currency string) string {
	return strings.TrimSpace(fmt.Sprintf("%.2f %s", v, currency))
}

func seconds(s float64) string {
	if s >= 10 {
		return fmt.Sprintf("%.0f s", s)
	}
	return fmt.Sprintf("%.1f s", s)
}

// amount writes a figure in its unit.
func (r *Resource) amount(v float64) string {
	switch r.Unit {
	case "cores":
		return fmt.Sprintf("%.2f cores", v)
	case "bytes":
		return bytesText(v)
	}
	return bytesText(v) + "/s"
}

func bytesText(v float64) string {
	for _, u := range []struct {
		name string
		size float64
	}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if v >= u.size {
			return fmt.Sprintf("%.3g %s", v/u.size, u.name)
		}
	}
	return fmt.Sprintf("%.0f B", v)
}

// WriteTable prints how good a model is.
func (m *Model) WriteTable(w io.Writer) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "machine\t%v\n", m.Machine)
	m.Check.CPU.write(t, "CPU", 0.15)
	m.Check.Driven.write(t, "driven", 0)
	m.Check.Memory.write(t, "memory", 0.10)
	p := &m.Parameters
	fmt.Fprintf(t, "loops\tat most %.0f wake-ups a second each\n", p.Wake.Max)
	fmt.Fprintf(t, "disk\tat most %.0f flushes a second\n", p.Flush.Max)
	if err := t.Flush(); err != nil {
		return err
	}
	for _, x := range []struct {
		title string
		costs Terms
	}{{"CPU, µs", p.CPU}, {"Memory, bytes", p.Memory}} {
		fmt.Fprintf(&b, "\n%s\n", x.title)
		t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, name := range x.costs.names() {
			if v := x.costs[name]; v > 0 {
				fmt.Fprintf(t, "  %s\t%.4g\n", plain(name), v)
			}
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// write prints how far predictions were off. bound is what is asked of the median; 0: nothing is.
func (e *Errors) write(w io.Writer, name string, bound float64) {
	if e.Rungs == 0 {
		if bound > 0 {
			fmt.Fprintf(w, "%s\tnothing was measured\n", name)
		}
		return
	}
	verdict := ""
	switch {
	case bound > 0 && e.Median <= bound:
		verdict = fmt.Sprintf(" (within %.0f %%)", bound*100)
	case bound > 0:
		verdict = fmt.Sprintf(" (NOT within %.0f %%)", bound*100)
	}
	fmt.Fprintf(w, "%s\t%d rungs, each predicted by the half it is not in: median error %.1f %%%s, 90 %% of them below %.1f %%, worst %.1f %% (%s)\n",
		name, e.Rungs, e.Median*100, verdict, e.P90*100, e.Worst*100, e.WorstOf)
	if bound > 0 {
		fmt.Fprintf(w, "\t%.0f %% of the errors are within %.0f %%; %.0f %% of the measured values lie in their 90 %% interval\n", e.within(bound)*100, bound*100, e.Coverage*100)
	} else {
		fmt.Fprintf(w, "\t%.0f %% of the measured values lie in their 90 %% interval\n", e.Coverage*100)
	}
	if r := &e.Repeat; r.Rungs > 0 {
		fmt.Fprintf(w, "\tthe floor: two measurements of one rung differ by %.1f %% at the median, 90 %% of them by less than %.1f %% (%d rungs measured again)\n",
			r.Median*100, r.P90*100, r.Rungs)
	}
}
