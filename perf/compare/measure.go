package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/sluicemq/sluice/bench"
)

// source gives a peer to measure: one that runs, or one that is started for it.
type source struct {
	name    string
	running *peer
	starter starter
	place   place // where it is started
	keep    bool  // until the end, not for one run
	broker  *broker
}

// acquire gives the peer, started if need be.
func (s *source) acquire(ctx context.Context) (peer, error) {
	if s.running != nil {
		return *s.running, nil
	}
	if s.broker == nil {
		b, err := launch(ctx, s.starter, s.place)
		if err != nil {
			return peer{}, err
		}
		s.broker = b
	}
	return s.broker.peer(), nil
}

// release stops what acquire has started, if it is not kept.
func (s *source) release() {
	if !s.keep {
		s.stop()
	}
}

func (s *source) stop() {
	if s.broker != nil {
		s.broker.end()
		s.broker = nil
	}
}

// measurement runs each row against the sources in turn.
type measurement struct {
	out, progress io.Writer
	sources       []*source
	rounds        int
	retries       int     // void rounds of a row that are run again
	loud          float64 // which part of the machine others may have
	run           runner
	listen        func(pids []string, run func()) noise // what others do meanwhile

	doubts []string
	voids  []string
}

func (m *measurement) stop() {
	for _, s := range m.sources {
		s.stop()
	}
}

// measure prints the table. When ctx ends it stops with the rows it has.
func (m *measurement) measure(ctx context.Context, rows []row) error {
	printHeader(m.out, m.sources, m.rounds)
	for _, r := range rows {
		results, err := m.row(ctx, r)
		if err != nil {
			return err
		}
		printRow(m.out, r, results, len(m.sources))
	}
	m.printList("Void rounds, not in the table", m.voids)
	m.printList("Runs to be doubted or left out", m.doubts)
	if len(m.doubts) > 0 {
		return errors.New("some runs are to be doubted; see below the table")
	}
	return nil
}

func (m *measurement) printList(title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(m.out, "\n%s:\n\n", title)
	for _, l := range lines {
		fmt.Fprintf(m.out, "- %s\n", l)
	}
}

// row runs rounds of r until as many as asked for are not void, or no more may be tried.
func (m *measurement) row(ctx context.Context, r row) (results [][]*bench.Result, err error) {
	for try := 1; len(results) < m.rounds && try <= m.rounds+m.retries; try++ {
		round, doubts, loudest, err := m.round(ctx, r, try)
		if err != nil {
			return nil, err
		}
		if why := loudest.tooLoud(m.loud); why != "" {
			m.voids = append(m.voids, fmt.Sprintf("%s, round %d: %s", r.name, try, why))
			fmt.Fprintf(m.progress, "%s, round %d is void: %s\n", r.name, try, why)
			continue
		}
		results = append(results, round)
		m.doubts = append(m.doubts, doubts...)
	}
	if n := len(results); n < m.rounds {
		m.doubts = append(m.doubts, fmt.Sprintf("%s: %d rounds of %d: the machine was not quiet often enough", r.name, n, m.rounds))
	}
	return results, nil
}

// round measures each source once: a nil result is one that is left out.
func (m *measurement) round(ctx context.Context, r row, number int) (round []*bench.Result, doubts []string, loudest noise, err error) {
	round = make([]*bench.Result, len(m.sources))
	for i, s := range m.sources {
		fmt.Fprintf(m.progress, "%s, round %d: %s\n", r.name, number, s.name)
		p, err := s.acquire(ctx)
		if err != nil {
			return nil, nil, loudest, err
		}
		var res *bench.Result
		n := m.listen(p.pids, func() { res, err = m.run(ctx, p, r) })
		s.release()
		if ctx.Err() != nil {
			return nil, nil, loudest, ctx.Err()
		}
		loudest = loudest.worse(n)
		where := fmt.Sprintf("%s, round %d, %s", r.name, number, s.name)
		switch {
		case err != nil:
			doubts = append(doubts, fmt.Sprintf("%s: no result: %v", where, err))
		case !res.OK && res.Void != "":
			doubts = append(doubts, fmt.Sprintf("%s, void: %s", where, res.Void))
		case !res.OK:
			doubts = append(doubts, fmt.Sprintf("%s: %s", where, strings.Join(res.Violations, "; ")))
		default:
			if b := res.Generator.Bottleneck; b != "" {
				doubts = append(doubts, fmt.Sprintf("%s, generator: %s", where, b))
			}
			round[i] = res
		}
	}
	return round, doubts, loudest, nil
}

// listen measures what the machine did beside run and the processes pids.
func listen(pids []string, run func()) noise {
	before, ok := machineTimes()
	if !ok {
		run()
		return noise{}
	}
	own := ownTimes() + processTimes(pids)
	run()
	own = ownTimes() + processTimes(pids) - own
	after, _ := machineTimes()
	return noiseBetween(before, after, own)
}

// ownTimes is the CPU time of this process and of those that it has waited for: the generators.
func ownTimes() (sum time.Duration) {
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return sum
}
