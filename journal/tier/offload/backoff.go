package offload

import (
	"time"

	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/journal/tier"
)

// tries is how often a call is tried.
const tries = 8

// How long is waited between tries.
var (
	betweenTries     = pace.Backoff{First: 200 * time.Millisecond, Most: 15 * time.Second} // of one call
	betweenThrottled = pace.Backoff{First: time.Second, Most: 15 * time.Second}            // which the store wants less of
	betweenTurns     = pace.Backoff{First: time.Second, Most: time.Minute}
	betweenRepairs   = pace.Backoff{First: 30 * time.Second, Most: 5 * time.Minute} // somebody has to do something about it
)

// backoff counts turns that failed in a row.
type backoff struct{ n int }

// next is the wait after a turn that failed with err. What does not come from the store is the node's own, and passes by itself: who has just got the lead is told of it
// before the shards take commands, and would not offload for half a minute or more.
func (b *backoff) next(err error) time.Duration {
	b.n++
	if _, store := tier.KindOf(err); !store || tier.Temporary(err) {
		return betweenTurns.Wait(b.n)
	}
	return betweenRepairs.Wait(b.n)
}

// tryAgain is the wait after the n-th try of a call in a row that failed, with err.
func tryAgain(n int, err error) time.Duration {
	if k, _ := tier.KindOf(err); k == tier.Throttled || k == tier.Full {
		return betweenThrottled.Wait(n)
	}
	return betweenTries.Wait(n)
}
