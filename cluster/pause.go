package cluster

import (
	"context"
	"sync"

	"github.com/sluicemq/sluice/meta"
)

// pause keeps a node from leading and following a set.
type pause struct {
	asked int             // how many keep it so
	acks  []chan struct{} // closed once run has taken it over
}

// Pause has the node neither lead nor follow the set's shards until resume is called, also if the set is yet to come. It goes on to say that it is there, and to decide
// who leads, as far as it is the one who does; that it leaves the lead to others, so that it is not asked again and again as long as one can lead that drains. When Pause returns, what it led it
// has let go of, and no stream is open or will be. Errors: that of ctx, or of the Controller's end, and then nothing is paused.
func (c *Controller) Pause(ctx context.Context) (resume func(), err error) {
	ack := make(chan struct{})
	c.mu.Lock()
	c.mu.pause.asked++
	runs := c.mu.runs
	if runs {
		c.mu.pause.acks = append(c.mu.pause.acks, ack)
	}
	c.mu.Unlock()
	c.wake()
	resume = sync.OnceFunc(func() {
		c.mu.Lock()
		c.mu.pause.asked--
		c.mu.Unlock()
		c.wake()
	})
	if !runs { // its first turn sees it
		return resume, nil
	}
	select {
	case <-ack:
		return resume, nil
	case <-c.ctx.Done():
		err = c.ctx.Err()
	case <-ctx.Done():
		err = ctx.Err()
	}
	resume()
	return nil, err
}

// takePause has the node be nothing to the set while somebody keeps it so.
func (c *Controller) takePause(sh *meta.Shard) {
	c.mu.Lock()
	c.paused = c.mu.pause.asked > 0
	acks := c.mu.pause.acks
	c.mu.pause.acks = nil
	c.mu.Unlock()
	if c.paused {
		c.resign("it gets a copy")
		if sh != nil && sh.Leader == c.o.Node { // another one is to lead
			c.resigned = max(c.resigned, sh.Epoch)
		}
		if c.follows.leader != 0 {
			c.follows.leader, c.follows.epoch = 0, 0
			c.o.Streams.Rest()
		}
	}
	for _, ack := range acks {
		close(ack)
	}
}
