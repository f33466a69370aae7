package bench

import (
	"fmt"
	"time"
)

// lateMax is Config.LateMax by default.
const lateMax = time.Millisecond

// void says why the result says nothing of the broker, or nothing. A timetable that the generator itself did not keep makes latency its
// own; what a publisher without one sends is paced by what comes back, and is said by bottleneck.
func (r *run) void() string {
	s, t := r.result, &r.result.total
	why := func(text string) string {
		if s.Generator.WaitSeconds > 0.05*s.Seconds {
			text += fmt.Sprintf("; its threads waited %.1f s for a processor", s.Generator.WaitSeconds)
		}
		return text
	}
	late := s.Generator.Late
	if late != nil && late.P99 > micros(int64(r.cfg.LateMax)/histUnit) && (s.Latency == nil || late.P99 > s.Latency.P99/4) {
		return why(fmt.Sprintf("the generator lacked CPU: its sends were late by %.0f µs at p99 through no fault of the broker", late.P99))
	}
	want := r.cfg.Rate * s.Seconds
	if r.cfg.Messages == 0 && !s.Partial && r.ctx.Err() == nil && !r.over.Load() && s.Seconds > 0 && float64(t.sentMeasured) < 0.98*want &&
		float64(t.held) < 0.02*want && r.count(countFailed) == 0 {
		return why(fmt.Sprintf("the generator lacked CPU: %.0f messages were to be sent in the measured part and %d were", want, t.sentMeasured))
	}
	return ""
}

// bottleneck says why the generator may have been what held the figures down, or nothing.
func (r *run) bottleneck() string {
	s, t := r.result, &r.result.total
	if late := s.Generator.Late; late != nil && late.P99 > micros(int64(r.cfg.LateMax)/histUnit) {
		return fmt.Sprintf("sends were late by %.0f µs at p99 through no fault of the broker", late.P99)
	}
	if busy := s.Generator.BusyCores / float64(r.cfg.Threads); r.gate == nil && r.cfg.Rate == 0 && t.sentMeasured > 0 && busy > 0.97 {
		return fmt.Sprintf("the generator's threads were %.0f %% busy: the rate is theirs, not the broker's (CPU per message stands)", busy*100)
	}
	return ""
}
