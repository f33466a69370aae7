package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// times are what the machine's processors have done since it started.
type times struct {
	busy, idle, stolen time.Duration
}

// parseMachineTimes reads "cpu user nice system idle iowait irq softirq steal guest guest_nice", in ticks of a hundredth of a second.
func parseMachineTimes(line string) (m times, ok bool) {
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return m, false
	}
	for i, s := range f[1:9] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return m, false
		}
		d := time.Duration(n) * 10 * time.Millisecond
		switch i {
		case 3, 4:
			m.idle += d
		case 7:
			m.stolen += d
		default:
			m.busy += d
		}
	}
	return m, true
}

// noise is which part of the machine's time others have had while something was measured.
type noise struct {
	other, stolen float64
}

// noiseBetween takes what the machine did and what of it was the measurement's own.
func noiseBetween(before, after times, own time.Duration) noise {
	busy, idle, stolen := after.busy-before.busy, after.idle-before.idle, after.stolen-before.stolen
	all := float64(busy + idle + stolen)
	if all <= 0 {
		return noise{}
	}
	return noise{other: max(0, float64(busy-own)) / all, stolen: float64(stolen) / all}
}

// tooLoud says why a measurement is void; empty: it is not.
func (n noise) tooLoud(bound float64) string {
	switch {
	case n.other > bound:
		return fmt.Sprintf("other work took %.0f %% of the machine, more than the %.0f %% allowed", 100*n.other, 100*bound)
	case n.stolen > bound:
		return fmt.Sprintf("the host took %.0f %% of the machine away, more than the %.0f %% allowed", 100*n.stolen, 100*bound)
	}
	return ""
}

// worse is the worse of two in each respect.
func (n noise) worse(o noise) noise { return noise{max(n.other, o.other), max(n.stolen, o.stolen)} }
