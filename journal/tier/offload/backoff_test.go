package offload

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/tier"
)

// A turn that the node itself has refused, as its shards do not take commands yet, is tried again soon; one that the store refuses for good waits for somebody.
func TestWaitAfterTurn(t *testing.T) {
	for _, c := range []struct {
		err   error
		least time.Duration
		most  time.Duration
	}{
		{fmt.Errorf("offload: keep epoch 3: %w", errors.New("this node does not lead the shard")), 0, 2 * time.Second},
		{storeError(tier.Unavailable), 0, 2 * time.Second},
		{storeError(tier.Permanent), 10 * time.Second, time.Minute},
	} {
		var fails backoff
		if d := fails.next(c.err); d < c.least || d > c.most {
			t.Errorf("%v after %v", d, c.err)
		}
	}
}
