package offload

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/tier"
)

// How long is waited between tries.
const (
	tryFirst = 200 * time.Millisecond // between two Puts of one object
	tryMost  = 15 * time.Second
	tries    = 8

	turnFirst = time.Second // between two turns
	turnMost  = time.Minute
	slowFirst = 30 * time.Second // where somebody has to do something about it
	slowMost  = 5 * time.Minute
)

// backoff doubles the wait with each failure, and takes off up to half of it by chance, so that nodes that fail together do not come back
// together.
type backoff struct{ n int }

func jitter(first, most time.Duration, n int) time.Duration {
	d := most
	if n < 30 {
		d = min(first<<n, most)
	}
	return d - time.Duration(rand.Int64N(int64(d)/2+1))
}

// next is the wait after a turn that failed with err.
func (b *backoff) next(err error) time.Duration {
	n := b.n
	b.n++
	if tier.Temporary(err) {
		return jitter(turnFirst, turnMost, n)
	}
	return jitter(slowFirst, slowMost, n)
}

// tryAgain is the wait after so many tries of a call failed, the last with err.
func tryAgain(n int, err error) time.Duration {
	first := tryFirst
	if k, _ := tier.KindOf(err); k == tier.Throttled || k == tier.Full {
		first *= 5
	}
	return jitter(first, tryMost, n)
}

// limiter bounds bytes a second, over all that is uploaded.
type limiter struct {
	rate int64 // 0: no bound
	clk  clock.Clock
	next time.Duration // when what was let through will be paid for
}

// burst is how long an idle limiter saves up.
const burst = 250 * time.Millisecond

// step is how much may be read at once, so that no wait is long.
func (l *limiter) step(n int) int {
	if l.rate <= 0 {
		return n
	}
	return int(min(int64(n), max(l.rate/4, 1)))
}

// take counts n bytes and waits until they may go.
func (l *limiter) take(ctx context.Context, n int, sleep func(context.Context, time.Duration) error) error {
	if l.rate <= 0 || n == 0 {
		return nil
	}
	now := l.clk.Mono()
	l.next = max(l.next, now-burst) + time.Duration(float64(n)/float64(l.rate)*float64(time.Second))
	if l.next <= now {
		return nil
	}
	return sleep(ctx, l.next-now)
}
