package bench

import "time"

// openConns makes n connections without publishers or subscribers and waits until they stand.
func (r *run) openConns(n int) error {
	if err := raiseFileLimit(n + 64); err != nil { // before the memory for them is taken
		return err
	}
	cs := make([]*conn, n)
	for i := range cs {
		cs[i] = r.newConn("c", i)
		if r.cfg.Durable {
			cs[i].makeDurable()
		}
	}
	return r.connect(cs)
}

// runIdle: resident memory of the server before the first CONNECT and some time after the last one.
func runIdle(r *run) error {
	n := or(r.cfg.Conns, 15_000)
	before, err := r.sample()
	if err != nil {
		return err
	}
	start := r.clock()
	if err := r.openConns(n); err != nil {
		return err
	}
	if r.gate != nil {
		err := r.hold()
		r.disconnect()
		return err
	}
	r.progress("%d connections stand; their memory is looked at in %v", n, r.cfg.Settle)
	connected := r.clock()
	if err := r.sleep(connected + int64(r.cfg.Settle)); err != nil {
		return err
	}
	after, err := r.sample()
	if err != nil {
		return err
	}
	r.result.setUsage(before, after, time.Duration(r.clock()-start))
	if v := r.result.Server; v != nil {
		v.BytesPerConnection = float64(after.RSS-before.RSS) / float64(n)
	}
	r.result.step("idle", uint64(n), before, after, time.Duration(connected-start))
	r.disconnect()
	return nil
}

// runStorm: connections as fast as they come, all of which stay until the last one stands.
func runStorm(r *run) error {
	n := or(r.cfg.Conns, 10_000)
	before, err := r.sample()
	if err != nil {
		return err
	}
	start := r.clock()
	if err := r.openConns(n); err != nil {
		return err
	}
	took := time.Duration(r.clock() - start)
	after, err := r.sample()
	if err != nil {
		return err
	}
	r.result.setUsage(before, after, took)
	if v := r.result.Server; v != nil {
		v.CPUPerConnection = v.CPUSeconds * 1e6 / float64(n)
		v.BytesPerConnection = float64(after.RSS-before.RSS) / float64(n)
	}
	r.result.step("connect", uint64(n), before, after, took)
	r.disconnect()
	return nil
}
