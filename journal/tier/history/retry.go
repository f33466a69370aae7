package history

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/pace"
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
		if a.failed >= a.tries || pace.Sleep(ctx, clock.Real{}, pace.Backoff{First: a.wait, Most: maxWait}.Wait(a.failed)) != nil {
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
