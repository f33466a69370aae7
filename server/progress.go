package server

import (
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/journal/tier/backup"
	"github.com/sluicemq/sluice/meta"
)

// seedStep is a step of a copy for another node: it is made, or it is sent.
type seedStep struct {
	phase control.Phase
	meter *pace.Meter
	made  *backupState // of the one that is made
	sent  atomic.Int64 // of the one that is sent
	total int64        // likewise
}

// progress measures how far the step is.
func (t *seedStep) progress() control.Progress {
	done, total := t.sent.Load(), t.total
	if t.made != nil {
		now := t.made.now()
		done, total = now.Done, now.Total
	} else {
		done = min(done, total) // a piece may have been sent twice
	}
	t.meter.See(done, total)
	return control.Progress{Phase: t.phase, Progress: t.meter.Progress()}
}

// making begins the first step of a copy.
func (s *seeds) making(w *backup.Writer) *backupState {
	p := new(backupState)
	p.from(w)
	s.mu.Lock()
	s.mu.step = &seedStep{phase: control.PhasePreparing, meter: pace.NewMeter(s.m.clock()), made: p}
	s.mu.Unlock()
	return p
}

// sendingLocked begins the second one.
func (s *seeds) sendingLocked(total int64) {
	s.mu.step = &seedStep{phase: control.PhaseCopying, meter: pace.NewMeter(s.m.clock()), total: total}
	s.mu.step.meter.See(0, total)
}

// progress is how far the copy is that is made for another node or sent to it, or with which that starts anew; false: there is none.
func (s *seeds) progress() (node link.NodeID, p control.Progress, ok bool) {
	s.mu.Lock()
	step, there := s.mu.step, s.mu.busy || s.mu.id != "" || s.mu.look != nil
	node = s.mu.peer
	s.mu.Unlock()
	if step == nil || !there {
		return 0, p, false
	}
	return node, step.progress(), true
}

// progress is how far the nodes are that have the shards of a set, or are to have them. It is known to the node that leads.
func (m *member) progress(set *setMember, p *control.Placement) map[meta.NodeID]control.Progress {
	all := make(map[meta.NodeID]control.Progress)
	for _, id := range set.control.Placed() {
		all[id] = control.Progress{Phase: control.PhaseAway, Progress: pace.Progress{Left: pace.Unknown}}
	}
	for _, f := range set.replicas.Followers() {
		id := meta.NodeID(f.Node)
		p.Followers[id] = f.Lag
		if _, ok := all[id]; ok {
			all[id] = control.Progress{Phase: control.PhaseCatchingUp, Progress: f.Progress}
		}
	}
	if node, at, ok := m.seeds.progress(); ok {
		if now, placed := all[meta.NodeID(node)]; placed && now.Phase == control.PhaseAway {
			all[meta.NodeID(node)] = at
		}
	}
	for id := range all {
		if slices.Contains(p.Shard.ISR, id) {
			all[id] = control.Progress{Phase: control.PhaseInSync}
		}
	}
	return all
}

// collectProgress tells how far nodes are with a set, by names that begin with prefix, and of which set it is first; nil: nobody is.
func collectProgress(k sink, prefix string, of []string, all map[meta.NodeID]control.Progress) {
	count := make(map[control.Phase]int)
	with := func(label string) []string { return append(slices.Clone(of), label) }
	for id, p := range all {
		count[p.Phase]++
		if p.Phase == control.PhaseInSync {
			continue
		}
		node := with(strconv.FormatUint(uint64(id), 10))
		k.gauge(prefix+"behind_bytes", float64(p.Total-p.Done), node...)
		k.gauge(prefix+"catchup_bytes_per_second", float64(p.Rate), node...)
		if p.Left >= 0 {
			k.gauge(prefix+"catchup_seconds", p.Left.Seconds(), node...)
		}
	}
	for _, phase := range control.Phases[1:] {
		k.gauge(prefix+"nodes", float64(count[phase]), with(string(phase))...)
	}
}
