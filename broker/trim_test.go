package broker

import (
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/broker/topics"
)

// Readers are listed in parts, and leave meanwhile. Who stays is in one of the parts.
func TestReadersInParts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var table filterTable
		table.init(topics.New(topics.Options{}))
		stays, seen := map[*Session]bool{}, map[*Session]bool{}
		var all []*Session
		for range rapid.IntRange(1, 3*usersMany).Draw(rt, "readers") {
			s := new(Session)
			all, stays[s] = append(all, s), true
			table.use(1, 1, 0, "", "t", s)
		}
		for before := readersEnd; before > 0; {
			var part []*Session
			part, before = table.readers(nil, 1, before, rapid.IntRange(1, usersMany).Draw(rt, "part"))
			for _, s := range part {
				seen[s] = true
			}
			for range rapid.IntRange(0, 10).Draw(rt, "leave") {
				s := all[rapid.IntRange(0, len(all)-1).Draw(rt, "who")]
				table.leave(1, s)
				delete(stays, s)
			}
		}
		for i, s := range all {
			if stays[s] && !seen[s] {
				rt.Errorf("reader %d of %d was missed", i, len(all))
			}
		}
	})
}

// Two loops trim their shards' queues of a filter that many read, while readers come and go. In each shard another reader is the one that
// has not come far: neither may be missed.
func TestTrimMissesNobody(t *testing.T) {
	const readers, refs, number = 3*readersTurn + 10, 2 * blockRefs, 1
	tb := newTestBroker(t, 2, nil)
	sess := make([]*Session, readers)
	for i := range sess {
		d := &durable{id: uint64(i + 1), position: []shardSeq{{0, refs}, {1, refs}}}
		d.subs.Store(&[]durableSubscription{{filter: "t", number: number, opts: optDurable | 1}})
		sess[i] = &Session{shard: tb.b.homes[i%modelShards], d: d}
		tb.b.filters.use(number, 1, 0, "", "t", sess[i])
	}
	sess[readers/2].d.position[0].seq, sess[readers-1].d.position[1].seq = 0, 0
	for _, s := range tb.b.homes[:2] {
		q := s.queueLocked(number)
		for seq := range uint64(refs) {
			q.add(seq+1, 10, 1)
		}
		s.mu.appliedSeq = refs + 1
	}
	var loops sync.WaitGroup
	stop := make(chan struct{})
	for i := range 2 {
		loops.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					tb.b.locals[i].trimQueue(tb.b.homes[i], number, tb.b.limits.Load(), 1)
				}
			}
		})
	}
	for range 100 {
		for _, came := range sess[:readers/2] { // those at the end take their places
			tb.b.filters.leave(number, came)
		}
		for _, came := range sess[:readers/2] {
			tb.b.filters.use(number, 1, 0, "", "t", came)
		}
	}
	close(stop)
	loops.Wait()
	for _, s := range tb.b.homes[:2] {
		check(t, "the first reference is there", s.mu.queues[number].first(), uint64(1))
	}
	// Nobody holds anything: then all of it goes.
	sess[readers/2].d.position[0].seq, sess[readers-1].d.position[1].seq = refs, refs
	for i, s := range tb.b.homes[:2] {
		tb.b.locals[i].trimQueue(s, number, tb.b.limits.Load(), 1)
		check(t, "trimmed", len(s.mu.queues[number].blocks), 0)
	}
}
