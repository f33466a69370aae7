package history

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// patience says how often a read of the store is tried.
type patience struct {
	tries int           // without progress, errors that are temporary
	wait  time.Duration // before the second; then twice as long each time, to maxWait
	count *atomic.Int64 // tries after the first
}

// maxWait bounds the wait between two tries: a consumer hears of a store that stays away before his own request times out.
const maxWait = 2 * time.Second

// attempts counts the tries of one read.
type attempts struct {
	patience
	failed, wrong int
}

// progress begins to count anew: the read has brought something.
func (a *attempts) progress() { a.failed, a.wrong = 0, 0 }

// again tells whether the read that has ended with err is to be tried once more, and waits before it answers true. Bytes that are wrong or too few are read once
// more, as they may have been spoilt on their way.
func (a *attempts) again(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	switch {
	case tier.Temporary(err):
		a.failed++
		if a.failed >= a.tries || !pause(ctx, a.wait, a.failed) {
			return false
		}
	case errors.Is(err, object.ErrCorrupt), errors.Is(err, io.ErrUnexpectedEOF):
		a.wrong++
		if a.wrong > 1 {
			return false
		}
	default:
		return false
	}
	if a.count != nil {
		a.count.Add(1)
	}
	return true
}

// pause waits before try n+1, half of it at random; false: the context has ended.
func pause(ctx context.Context, wait time.Duration, n int) bool {
	wait = min(wait<<min(n-1, 16), maxWait)
	t := time.NewTimer(wait/2 + rand.N(wait/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
