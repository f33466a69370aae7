package bench

import "fmt"

// faultKind is one thing that a broker can do wrong. The order is that of a result: the worst first.
type faultKind uint8

const (
	faultLost faultKind = iota
	faultShown
	faultDuplicate
	faultReordered
	faultCorrupt
	faultStray
	faultDoubled
	faultDied
	faultStalled
	faultNotConnected
	faultDisconnected
	faultRefused
	faultUnanswered
	faultPaused
	faultKinds
)

var faultNames = [faultKinds]string{"LOST", "ABORTED", "DUPLICATES", "REORDERED", "CORRUPT", "STRAY", "DOUBLE", "DIED", "STALLED",
	"NOT CONNECTED", "DISCONNECTED", "REFUSED", "UNANSWERED", "PAUSED"}

// mark is how often a fault was met, and when: in ns of the run's clock.
type mark struct {
	count       uint64
	first, last int64
}

func (m *mark) add(at int64, n uint64) {
	if m.count == 0 || at < m.first {
		m.first = at
	}
	m.last = max(m.last, at)
	m.count += n
}

func (m *mark) merge(o *mark) {
	if o.count > 0 {
		m.add(o.first, o.count)
		m.last = max(m.last, o.last)
	}
}

// fault notes that the broker did wrong at a moment. It is called where that is seen, which is rare.
func (s *stats) fault(k faultKind, at int64) { s.marks[k].add(at, 1) }

// Fault is one kind of wrong that the broker did in a run, with the seconds, counted from the run's start, in which it happened:
// of a loss, when what was lost was to be sent; of what was never answered, likewise; of everything else, when it was seen.
type Fault struct {
	Part  string  `json:"part,omitempty"` // of a mixed run
	Kind  string  `json:"kind"`           // the word that its violation begins with
	Count uint64  `json:"count"`
	First float64 `json:"first_second"`
	Last  float64 `json:"last_second"`
	Text  string  `json:"text"`
}

// charge adds a fault to the result, which is a violation then.
func (s *Result) charge(k faultKind, n uint64, format string, args ...any) {
	if n == 0 {
		return
	}
	m := &s.total.marks[k]
	f := Fault{Kind: faultNames[k], Count: n, First: seconds(m.first), Last: seconds(m.last), Text: fmt.Sprintf(format, args...)}
	when := ""
	switch {
	case m.count == 0: // no moment is known
	case f.Last-f.First < 0.1:
		when = fmt.Sprintf("; second %.1f", f.First)
	default:
		when = fmt.Sprintf("; seconds %.1f to %.1f", f.First, f.Last)
	}
	s.Faults = append(s.Faults, f)
	s.Violations = append(s.Violations, f.Kind+": "+f.Text+when)
}

// seconds turns the run's clock into seconds, to a millisecond.
func seconds(ns int64) float64 { return float64(ns/1e6) / 1e3 }
