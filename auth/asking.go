package auth

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/broker"
)

// Bounds of who is asked about clients.
const (
	breakerFailures = 5 // one after the other, until nobody is asked
	breakerPauseMin = time.Second
	breakerPauseMax = 30 * time.Second
)

// asking is how somebody outside of the node is asked: so many questions at once, so many clients wait, and one who does not answer is left alone for
// a while.
type asking struct {
	what    string // for the log
	timeout time.Duration
	now     func() time.Time
	log     *slog.Logger
	turns   chan struct{}
	waiting atomic.Int64
	queue   int64
	mu      struct {
		sync.Mutex
		failed int           // questions one after the other
		until  time.Time     // nobody is asked before
		pause  time.Duration // what until was made of
		trying bool          // one question finds out whether the server is there again
	}
}

func (k *asking) begin(o *Options, what string, timeout time.Duration, concurrency int) {
	k.what, k.timeout, k.now, k.log, k.queue = what, timeout, o.Now, o.Logger, int64(o.Queue)
	k.turns = make(chan struct{}, max(1, concurrency))
}

// try has put ask a question within the time-out. So many are asked at once, so many wait, the next are told ErrAuthBusy; so is everybody while the server
// does not answer. An error of put says that it did not answer.
func (k *asking) try(ctx context.Context, put func(ctx context.Context) error) error {
	if k.waiting.Add(1) > k.queue+int64(cap(k.turns)) {
		k.waiting.Add(-1)
		return broker.ErrAuthBusy
	}
	defer k.waiting.Add(-1)
	select {
	case k.turns <- struct{}{}:
		defer func() { <-k.turns }()
	case <-ctx.Done():
		return ctx.Err()
	}
	open, trial := k.open()
	if !open {
		return broker.ErrAuthBusy
	}
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	err := put(ctx)
	k.settle(err, errors.Is(ctx.Err(), context.Canceled), trial)
	if err != nil {
		return refuse(broker.ErrAuthBusy, err)
	}
	return nil
}

// open says whether the server may be asked now; trial: to find out whether it is there again.
func (k *asking) open() (ok, trial bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.failed < breakerFailures {
		return true, false
	}
	if k.mu.trying || k.now().Before(k.mu.until) {
		return false, false
	}
	k.mu.trying = true
	return true, true
}

// settle takes what came of a question. One that the client gave up says nothing about the server, and those that were under way when the pause
// began and fail behind that say nothing new: only a trial makes the pause longer.
func (k *asking) settle(err error, gaveUp, trial bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if trial {
		k.mu.trying = false
	}
	switch {
	case err == nil:
		if k.mu.failed >= breakerFailures {
			k.log.Info("a server of users answers again", "of", k.what)
		}
		k.mu.failed, k.mu.pause = 0, 0
		return
	case gaveUp, k.mu.failed >= breakerFailures && !trial:
		return
	}
	if k.mu.failed++; k.mu.failed >= breakerFailures {
		k.mu.pause = min(max(2*k.mu.pause, breakerPauseMin), breakerPauseMax)
		k.mu.until = k.now().Add(k.mu.pause)
		k.log.Warn("a server of users does not answer: it is not asked for a while", "of", k.what, "pause", k.mu.pause, "err", err)
	}
}
