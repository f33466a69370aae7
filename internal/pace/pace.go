// Package pace is waiting with a measure: between tries of what has failed, and for bytes to have their time. It owns no goroutine, and does not
// know what an error means: who calls says which is worth another try. Time is a clock.Clock.
package pace

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
)

// Backoff is how long is waited after a failure: First, twice as long with each further one in a row, and never longer than Most. Both are
// positive. Up to half of a wait is taken off by chance, so that nodes that fail together do not come back together.
type Backoff struct{ First, Most time.Duration }

// Wait is how long to wait after the n-th failure in a row; the first one is 1.
func (b Backoff) Wait(n int) time.Duration {
	d := b.Most
	if n < 30 {
		d = min(b.First<<max(n-1, 0), b.Most)
	}
	return d - time.Duration(rand.Int64N(int64(d)/2+1))
}

// Retry calls fn until it succeeds, has failed as often as tries, or with an error that again is false for. It gives fn's last error, and
// beside it that of ctx, if that ends while it waits.
func (b Backoff) Retry(ctx context.Context, clk clock.Clock, tries int, again func(error) bool, fn func() error) error {
	for n := 1; ; n++ {
		err := fn()
		if err == nil || n >= tries || !again(err) {
			return err
		}
		if end := Sleep(ctx, clk, b.Wait(n)); end != nil {
			return fmt.Errorf("%w, after: %w", end, err)
		}
	}
}

// Sleep returns after d, or with the error of ctx, if that ends before.
func Sleep(ctx context.Context, clk clock.Clock, d time.Duration) error {
	over := make(chan struct{})
	t := clk.AfterFunc(d, func() { close(over) })
	defer t.Stop()
	select {
	case <-over:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// Limiter keeps a flow of bytes below a rate. It is safe for concurrent use.
type Limiter struct {
	clk  clock.Clock
	rate func() int64
	mu   struct {
		sync.Mutex
		paid time.Duration // when what was let through will have had its time
	}
}

// burst is how long an idle Limiter saves up.
const burst = 100 * time.Millisecond

// NewLimiter makes one. rate is asked each time for bytes a second; 0 or less is no bound.
func NewLimiter(clk clock.Clock, rate func() int64) *Limiter { return &Limiter{clk: clk, rate: rate} }

// Step is how many of n bytes may be read at once, so that no wait is long.
func (l *Limiter) Step(n int) int {
	rate := l.rate()
	if rate <= 0 {
		return n
	}
	return int(min(int64(n), max(rate/4, 1)))
}

// Take counts n bytes, and gives how long their caller has to wait before they go on; 0 or less: not at all.
func (l *Limiter) Take(n int) time.Duration {
	rate := l.rate()
	if rate <= 0 || n <= 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clk.Mono()
	l.mu.paid = max(l.mu.paid, now-burst) + time.Duration(float64(n)/float64(rate)*float64(time.Second))
	return l.mu.paid - now
}
