package bench

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// runReconnect: pairs as runPairs has them, whose subscribers have durable sessions. Every DropEvery a share of the subscribers loses
// its connection without a goodbye and comes back at once, while the publishers go on: what was sent meanwhile must come.
func runReconnect(r *run) error {
	subs, pubs := r.newPairs("c")
	r.cfg.Durable = true
	if err := r.connectBoth(subs, pubs); err != nil {
		return err
	}
	d := &dropper{r: r, subs: subs, quit: make(chan struct{})}
	d.done.Go(d.main)
	err := r.load(func(sent uint64) uint64 { return sent })
	close(d.quit)
	d.done.Wait()
	if d.storms > 0 {
		r.result.step("reconnect", d.count, usage{}, usage{}, d.took)
	}
	if err == nil {
		err = d.err
	}
	return r.finishLoad(err)
}

// dropper cuts connections while load runs, from the beginning of the measured part to its end. After main its fields belong to
// whom waits for it.
type dropper struct {
	r    *run
	subs []*conn
	quit chan struct{}
	done sync.WaitGroup

	storms int
	count  uint64        // connections that came back
	took   time.Duration // until the last one of each storm stood
	err    error
}

// main cuts every DropEvery, and not before all of the last time are back.
func (d *dropper) main() {
	r := d.r
	tick := time.NewTicker(r.cfg.DropEvery)
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-d.quit:
			return
		case <-tick.C:
		}
		if !r.measured(r.clock()) {
			continue
		}
		if err := d.storm(n); err != nil {
			if !errors.Is(err, errIdle) && r.ctx.Err() == nil {
				d.err = err
			}
			return
		}
		n++
	}
}

// storm cuts a share of the subscribers, another one each time, and waits until they are back.
func (d *dropper) storm(n int) error {
	r := d.r
	cut := max(int(float64(len(d.subs))*r.cfg.DropShare), 1)
	want := r.count(countReady) + uint64(cut)
	failed := r.count(countFailed)
	start := r.clock()
	for i := range cut {
		c := d.subs[(n*cut+i)%len(d.subs)]
		c.l.post(func(l *loop) {
			c.cut()
			l.open(c)
		})
	}
	ready := func() uint64 { return r.count(countReady) }
	err := r.await(r.cfg.ConnectTimeout, ready, func() bool { return ready() >= want || r.count(countFailed) > failed })
	if errors.Is(err, errIdle) {
		r.fail(fmt.Errorf("of %d connections that were dropped, %d are not back and nothing has happened for %v", cut, want-ready(), r.cfg.ConnectTimeout))
	}
	if err == nil && r.count(countFailed) == failed {
		d.storms++
		d.count += uint64(cut)
		d.took += time.Duration(r.clock() - start)
	}
	return err
}

// cut ends the connection without a word, as a network does, and makes c ready to be dialed again: the session at the client's end
// (what is acknowledged, what QoS 2 has not finished) stays as it is.
func (c *conn) cut() {
	if c.phase < phaseReady {
		c.l.opening--
	}
	c.close()
	c.phase = phaseDialing
	c.armed, c.leaving, c.sent, c.layer, c.back = false, false, 0, nil, true
}
