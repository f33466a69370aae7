package replica

import (
	"context"
	"errors"
	"sync"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/cluster/link"
)

// acker tells a leader how far a follower's log is, in one message for all shards that have moved. It does so on the goroutine that has written the log,
// unless there is no room: then on its own, which begins with where the log is now.
type acker struct {
	f  *fetcher
	ch *link.Channel
	mu struct {
		sync.Mutex
		waits bool     // run sends, and nobody else: acknowledgements stay in order
		left  bool     // msg was not sent
		acked []uint64 // of each slot
		msg   []byte
	}
}

func newAcker(f *fetcher, ch *link.Channel) *acker {
	a := &acker{f: f, ch: ch}
	a.mu.waits = true
	a.mu.acked = make([]uint64, f.r.set.Shards)
	f.moved.bell.ring()
	return a
}

// flushed acknowledges what has moved. It never blocks, and wakes nobody if nothing has: the group was of another set.
func (a *acker) flushed() {
	if !a.f.moved.any() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.mu.waits {
		if !a.gatherLocked() || !errors.Is(a.ch.TrySend(a.mu.msg), link.ErrBusy) { // another error has ended the stream
			return
		}
		a.mu.waits, a.mu.left = true, true
	}
	a.f.moved.bell.ring()
}

// gatherLocked makes a message of what has moved; false: nothing has.
func (a *acker) gatherLocked() bool {
	f := a.f
	msg := append(a.mu.msg[:0], msgAcks)
	f.moved.take(func(slot int) {
		shard := f.r.set.shard(slot)
		st := f.r.o.Core.Replica(shard)
		if st.Role == broker.RoleFollower && st.Synced && st.Epoch == f.epoch && st.Durable > a.mu.acked[slot] {
			a.mu.acked[slot] = st.Durable
			msg = appendPair(msg, shard, st.Durable)
		}
	})
	a.mu.msg = msg
	return len(msg) > 1
}

// next is what run is to send, which stays as it is until the next call; nil: nothing, and whoever writes the log sends from now on.
func (a *acker) next() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.left {
		a.mu.left = false
		return a.mu.msg
	}
	if a.mu.waits = a.gatherLocked(); a.mu.waits {
		return a.mu.msg
	}
	return nil
}

// run sends what has to wait for room.
func (a *acker) run(ctx context.Context) {
	for {
		select {
		case <-a.f.moved.bell:
		case <-ctx.Done():
			return
		}
		for msg := a.next(); msg != nil; msg = a.next() {
			if a.ch.Send(msg) != nil {
				return
			}
		}
	}
}
