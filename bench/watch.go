package bench

import (
	"fmt"
	"net"
	"time"
)

const (
	// watchEvery is how often the watch looks at the loops and at what they hear.
	watchEvery = 100 * time.Millisecond
	// diedDialMax is how long a broker that has ended all connections may take to take another one.
	diedDialMax = time.Second
	// silenceMin is the shortest silence that is one, however short Config.Stall is.
	silenceMin = time.Second
)

// watch looks at a run from outside its loops, on a goroutine of its own: it gathers their seconds, looks at the server's process in
// each, and notices when the broker falls silent or is gone.
type watch struct {
	r    *run
	stop chan struct{}
	done chan struct{}
	// From here on the watch's own; after its end, the run's.
	sampledAt int64 // of the last look at the processes
	sampled   usage
	own       time.Duration
	looked    int64 // of the last look at the loops
	heard     uint64
	heardAt   int64
	probed    bool
	failed    uint64 // connections, when one still stood
	marks     [faultKinds]mark
}

func (r *run) startWatch() *watch {
	w := &watch{r: r, stop: make(chan struct{}), done: make(chan struct{})}
	w.sampled, _ = sampleCheap(r.cfg.PIDs)
	w.own = ownCPU()
	go w.main()
	return w
}

func (w *watch) main() {
	defer close(w.done)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			w.sample(w.r.clock())
			return
		case <-tick.C:
		}
		now := w.r.clock()
		if now/1e9 != w.sampledAt/1e9 {
			w.sample(now)
		}
		if len(w.r.loops) == 0 { // of a mixed run: its parts have watches of their own
			continue
		}
		w.r.recorder.gather()
		w.listen(now)
		w.look(now)
	}
}

// halt stops the watch and waits for it.
func (w *watch) halt() {
	close(w.stop)
	<-w.done
}

// sample writes what the processes used into the second that has ended.
func (w *watch) sample(now int64) {
	took := float64(now - w.sampledAt)
	if took < 1e8 {
		return // too short to tell
	}
	p := w.r.recorder.at(w.sampledAt / 1e9)
	own := ownCPU()
	p.GeneratorCores = float64(own-w.own) / took
	w.own = own
	if len(w.r.cfg.PIDs) > 0 {
		if s, err := sampleCheap(w.r.cfg.PIDs); err == nil {
			p.ServerCores, p.ServerRSS = float64(s.CPU-w.sampled.CPU)/took, s.RSS
			w.sampled = s
		} else if w.sampled.Threads > 0 && len(w.r.loops) > 0 && !w.r.over.Load() {
			w.died(now, fmt.Sprintf("the server's process is gone: %v", err))
		}
	}
	w.sampledAt = now
}

// sending tells whether the run's load goes on.
func (w *watch) sending(now int64) bool {
	return w.r.count(countSent) > 0 && now < w.r.stopAt.Load() && !w.r.quit.Load()
}

// owed tells whether something must come back.
func (w *watch) owed() bool {
	r := w.r
	sent := r.count(countSent)
	if r.answered && r.count(countAcked) < sent {
		return true
	}
	if f := r.expect.Load(); f != nil && r.count(countFresh) < (*f)(sent) {
		return true
	}
	return r.count(countBlocked) > 0
}

// listen notices when the broker sends nothing at all for Config.Stall although it owes something. Half way, it is asked for a sign
// of life: a broker that has only lost what it owes gives one.
func (w *watch) listen(now int64) {
	heard := w.r.count(countHeard)
	stall := int64(w.r.silence())
	late := now-w.looked > stall/2+2*int64(watchEvery) // the watch itself did not run: no silence was heard
	w.looked = now
	if heard != w.heard || late || !w.sending(now) || !w.owed() || w.r.following.Load() {
		if w.heard > 0 && w.probed && !late && now-w.heardAt > stall {
			w.silent(now)
		}
		w.heard, w.heardAt, w.probed = heard, now, false
		return
	}
	if !w.probed && now-w.heardAt > stall/2 {
		w.probed = true
		for _, l := range w.r.loops {
			l.post(func(l *loop) { l.probe() })
		}
	}
}

// silence is how long nothing may come.
func (r *run) silence() time.Duration { return max(r.cfg.Stall, silenceMin) }

// silent notes a silence.
func (w *watch) silent(now int64) {
	w.marks[faultStalled].add(w.heardAt, 1)
	w.marks[faultStalled].last = now
	w.r.note("the broker sent nothing at all for longer than "+w.r.silence().String(), w.heardAt)
}

// look notices when no connection is left of those that stood.
func (w *watch) look(now int64) {
	r := w.r
	failed := r.count(countFailed)
	if r.count(countLive) > 0 {
		w.failed = failed
		return
	}
	if r.over.Load() || failed == w.failed || !w.sending(now) || r.following.Load() {
		return
	}
	c, err := net.DialTimeout(r.target.Network, r.target.Addr, diedDialMax)
	if err == nil {
		_ = c.Close()
		w.end(now, "all connections were ended, though the broker takes new ones")
		return
	}
	w.died(now, fmt.Sprintf("all connections were ended, and the broker takes no new one: %v", err))
}

// died notes that the broker is gone.
func (w *watch) died(now int64, why string) {
	w.marks[faultDied].add(now, 1)
	w.r.death.Store(&why)
	w.end(now, why)
}

// end ends the load: there is nothing left to be measured.
func (w *watch) end(now int64, why string) {
	w.r.note(why, now)
	w.r.stopAt.Store(min(w.r.stopAt.Load(), now))
	w.r.measureUntil.Store(min(w.r.measureUntil.Load(), now))
	w.r.over.Store(true)
}

// probe asks the broker for a sign of life on one connection of the loop.
func (l *loop) probe() {
	for _, c := range l.conns {
		if c != nil && c.phase == phaseReady && c.kafka == nil && !c.leaving {
			c.probes++
			c.ping()
			return
		}
	}
}

// endWatch adds what the watch and the recorder found to the result. The loops have stopped, and so has the watch.
func (r *run) endWatch(w *watch) {
	r.recorder.finish()
	t, c := &r.result.total, &r.recorder.total
	t.delivery, t.acks, t.lateness = c.delivery[1], c.acks[1], c.lateness
	for k := range w.marks {
		t.marks[k].merge(&w.marks[k])
	}
	if p := r.death.Load(); p != nil {
		r.result.death = *p
	}
}
