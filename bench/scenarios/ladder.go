package scenarios

import (
	"errors"
	"fmt"
	"time"

	"github.com/sluicemq/sluice/bench"
)

// Ladder says how sluice bench ladder climbs with a scenario.
type Ladder struct {
	Objective string        // what must hold, see bench.ParseObjective
	From      float64       // messages a second of the first rung
	To        float64       // of the last one that is tried
	Growth    float64       // from rung to rung, until one does not hold
	Precision float64       // the interval is closed in to this share of its upper end
	Repeats   int           // of each rung near the knee
	MaxTime   time.Duration // after which no rung is begun

	settings []Setting
	given    bool
}

// NewLadder gives a ladder with the settings that files have by default.
func NewLadder() *Ladder {
	l := &Ladder{}
	l.settings = []Setting{
		text("objective", &l.Objective, "p99 < 10ms", "what must hold: p99 < 5ms, or several joined by and; of p50, p90, p99, p99.9, p99.99, max, mean", func(s string) error {
			_, err := bench.ParseObjective(s)
			return err
		}),
		number("from", &l.From, 1000, 1, bench.RateMax, "messages per second of the first rung"),
		number("to", &l.To, 1_000_000, 1, bench.RateMax, "messages per second of the last rung that is tried"),
		number("growth", &l.Growth, 2, 1.05, 10, "from rung to rung, until one does not hold"),
		number("precision", &l.Precision, 0.05, 0.005, 0.5, "the interval is closed in until it is this share of its upper end"),
		number("repeats", &l.Repeats, 3, 1, 15, "how often a rung near the knee is run"),
		duration("max-time", &l.MaxTime, 20*time.Minute, time.Second, "no rung is begun after that"),
	}
	return l
}

// Settings gives the ladder's settings with their present values.
func (l *Ladder) Settings() []Setting { return l.settings }

// Set gives one of them a value.
func (l *Ladder) Set(name, value string) error {
	s := find(l.settings, name)
	if s == nil {
		return unknownKey(name, names(l.settings), "")
	}
	return s.set(value)
}

// check refuses a ladder that cannot be climbed. A file without one is not asked.
func (l *Ladder) check(f *File) error {
	if l.From > l.To {
		return fmt.Errorf("from %v is more than to %v", l.From, l.To)
	}
	if l.given {
		return f.Climbable()
	}
	return nil
}

// Climbable refuses a file that no ladder can be made of.
func (f *File) Climbable() error {
	if len(f.Parts) == 1 {
		if !f.Parts[0].HasTimetable() {
			return fmt.Errorf("load %s sends by no timetable, or says nothing of the time it took: there is no ladder of it", f.Parts[0].Kind)
		}
		return nil
	}
	for _, p := range f.Parts {
		if p.HasTimetable() && p.Rate() > 0 {
			return nil
		}
	}
	return errors.New("no part has a rate that a ladder could raise")
}
