package backup

import (
	"context"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/journal/tier"
)

// How long a store may fail before a backup, or its reading, is given up: a minute to two.
var betweenTries = pace.Backoff{First: 100 * time.Millisecond, Most: 15 * time.Second}

const tries = 12

// retry calls fn until it succeeds, fails for good, or has failed too often.
func retry(ctx context.Context, fn func() error) error {
	return betweenTries.Retry(ctx, clock.Real{}, tries, tier.Temporary, fn)
}

func pause(ctx context.Context, d time.Duration) error { return pace.Sleep(ctx, clock.Real{}, d) }
