package server

import (
	"context"
	"crypto/x509"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
)

// againSlice is how many places of connections one turn of a loop looks at.
const againSlice = 256

// askers ask servers of users anew about clients that they have let in.
type askers struct {
	s      *Server
	counts map[string]*[auth.Outcomes]atomic.Uint64 // by source
	stop   context.CancelFunc                       // nil: they do not run
	done   sync.WaitGroup
}

func newAskers(s *Server) *askers {
	return &askers{s: s, counts: map[string]*[auth.Outcomes]atomic.Uint64{auth.SourceHTTP: {}, auth.SourceLDAP: {}}}
}

// start asks as often as the configuration says, until close.
func (a *askers) start() {
	ctx, cancel := context.WithCancel(context.Background())
	a.stop = cancel
	a.done.Go(func() {
		a.run(ctx, auth.SourceHTTP, func(c *config.Auth) (time.Duration, int) { return c.HTTP.Recheck, c.HTTP.Concurrency })
	})
	a.done.Go(func() {
		a.run(ctx, auth.SourceLDAP, func(c *config.Auth) (time.Duration, int) { return c.LDAP.Recheck, c.LDAP.Concurrency })
	})
}

func (a *askers) close() {
	if a.stop != nil {
		a.stop()
		a.stop = nil
		a.done.Wait()
	}
}

// run goes round after round through the clients of one source.
func (a *askers) run(ctx context.Context, source string, settings func(*config.Auth) (time.Duration, int)) {
	began := time.Now()
	for {
		if !sleep(ctx, keepPause) {
			return
		}
		every, concurrency := settings(&a.s.cfg.Load().Auth)
		if every <= 0 || every == config.Never {
			began = time.Now()
			continue
		}
		if time.Since(began) < every {
			continue
		}
		began = time.Now()
		a.round(ctx, source, every, max(1, concurrency/4))
	}
}

// round asks about all clients of a source, so many at once. What is asked is spread over the time of a round, which takes longer if the server is slow.
func (a *askers) round(ctx context.Context, source string, every time.Duration, atOnce int) {
	again := a.s.gate.NewAgain()
	all := connections{a.s.node.engine.Loops()}
	slices := len(all.loops) + int(a.s.node.mqtt.Snapshot().Open+a.s.node.kafka.Snapshot().Open)/againSlice
	pause := every / time.Duration(2*slices)
	for at, end := (broker.RowPlace{}), false; !end; {
		var list []auth.Standing
		list, at, end = a.slice(ctx, all, at, source)
		if ctx.Err() != nil {
			return
		}
		began := time.Now()
		if a.ask(ctx, again, list, atOnce) > 0 {
			a.s.node.users.soon()
		}
		if rest := pause - time.Since(began); !end && rest > 0 && len(list) > 0 && !sleep(ctx, rest) {
			return
		}
	}
}

// slice are the clients of a source among the next places.
func (a *askers) slice(ctx context.Context, all connections, at broker.RowPlace, source string) (list []auth.Standing, next broker.RowPlace, end bool) {
	type found struct {
		list []auth.Standing
		next broker.RowPlace
		end  bool
	}
	got := make(chan found, 1)
	var f found
	all.visit(at, againSlice, func(state any) {
		c, ok := state.(interface {
			Shown() (broker.Identity, []*x509.Certificate, string, bool)
		})
		if !ok {
			return
		}
		if id, certs, listener, ok := c.Shown(); ok && id.Source == source {
			f.list = append(f.list, auth.Standing{Identity: id, Certificates: certs, Listener: listener})
		}
	}, func(next broker.RowPlace, end bool) {
		f.next, f.end = next, end
		got <- f
	})
	select {
	case f := <-got:
		return f.list, f.next, f.end
	case <-ctx.Done():
		return nil, at, true
	}
}

// ask asks about a list of clients, and says how many were refused.
func (a *askers) ask(ctx context.Context, again *auth.Again, list []auth.Standing, atOnce int) (refused int64) {
	var next, gone atomic.Int64
	var asking sync.WaitGroup
	for range min(atOnce, len(list)) {
		asking.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(list)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				out := again.Ask(ctx, &list[i])
				a.counts[list[i].Identity.Source][out].Add(1)
				if out == auth.Refused {
					gone.Add(1)
				}
			}
		})
	}
	asking.Wait()
	return gone.Load()
}

// sleep waits for d; false: ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// collectAgain has what came of asking.
func (c *collector) collectAgain(k sink) {
	for source, counts := range c.s.askers.counts {
		for out := range counts {
			k.counter("sluice_auth_rechecks_total", counts[out].Load(), source, auth.Outcome(out).String())
		}
	}
}
