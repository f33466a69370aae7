package backup

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sluicemq/sluice/journal/tier"
)

// How long a store may fail before a backup, or its reading, is given up.
const (
	retryFirst = 100 * time.Millisecond
	retryMost  = 15 * time.Second
	retryTimes = 12 // two minutes or so
)

// retry calls fn until it succeeds, fails for good, or has failed too often.
func retry(ctx context.Context, fn func() error) error {
	wait := retryFirst
	for i := 1; ; i++ {
		err := fn()
		if err == nil || i == retryTimes || !tier.Temporary(err) || ctx.Err() != nil {
			return err
		}
		if pause(ctx, wait/2+rand.N(wait)) != nil {
			return err
		}
		wait = min(2*wait, retryMost)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pacer keeps a flow of bytes below a rate.
type pacer struct {
	rate func() int64 // bytes a second; 0 or less: no bound
	mu   sync.Mutex
	due  time.Time // when all that was let through has had its time
}

// burst is how far a pacer may be behind and still catch up.
const burst = 100 * time.Millisecond

// wait returns when n more bytes have had their time.
func (p *pacer) wait(ctx context.Context, n int) error {
	rate := p.rate()
	if rate <= 0 {
		return ctx.Err()
	}
	p.mu.Lock()
	now := time.Now()
	if early := now.Add(-burst); p.due.Before(early) {
		p.due = early
	}
	p.due = p.due.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	d := p.due.Sub(now)
	p.mu.Unlock()
	if d <= 0 {
		return ctx.Err()
	}
	return pause(ctx, d)
}
