package kafka

import (
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// anywhere has the requests that any node answers by itself.
var anywhere = [apiKeys]bool{wire.APIVersions: true, wire.SASLHandshake: true, wire.SASLAuthenticate: true, wire.Metadata: true, wire.FindCoordinator: true, wire.DescribeCluster: true}

// LeaderChanged tells the Handler that View may name another leader of a set of shards, another epoch, or fewer replicas in sync: fetches that wait are answered if
// this node may not answer them any more, and sessions of fetches from there are forgotten; who waits for more replicas than are in sync is told. Any goroutine.
func (h *Handler) LeaderChanged() {
	for _, l := range h.loops {
		l.run(l.leaderChanged)
	}
}

// leaderChanged takes over who leads.
func (l *loopState) leaderChanged() {
	v := l.h.view()
	l.await(v)
	for c := l.first; c != nil; {
		next := c.next
		if c.fetches != nil && c.fetches.over(l.h, v) {
			c.fetches = nil
		}
		if r := c.first; r != nil && r.fetch != nil && r.fetch.waiting && !r.fetch.over && r.fetch.cold == 0 { // what is being read is committed
			r.fetch.reconsider(v)
		}
		c.reconsider(v)
		c = next
	}
}

// reconsider is produceState's, of all requests under way.
func (c *conn) reconsider(v *View) {
	for r := c.last; r != nil && !c.closing; {
		prev := r.prev // answering lets go of the first ones alone, and so of none before r
		if r.produce != nil && !r.done && !r.silent {
			r.produce.reconsider(r, v)
		}
		r = prev
	}
}

// leadsSet says whether this node takes requests for a set of shards.
func (h *Handler) leadsSet(v *View, n int) bool {
	if n == 0 {
		return h.leads(v)
	}
	return v.set(n).Leads && h.broker.Leads(record.ShardID(v.Shards+(n-1)*broker.SetShards), broker.SetShards)
}

// await finds the sets of shards whose requests wait: as long as nobody leads one, or this node is about to, new requests for it are not read, for a while. A client
// that was refused would ask for metadata, find what it knows, and be slow to ask again. What has been waited for is waited for again if something has changed of it. Each set
// has a bound of its own: however many have no leader, nobody waits longer for one of them.
func (l *loopState) await(v *View) {
	old, had := l.seen, l.awaiting
	l.awaiting, l.seen = 0, v
	for n := range len(v.Sets) + 1 {
		pl, bit := v.set(n), uint16(1)<<n
		if pl.Leader >= 0 && pl.Leader != l.h.nodeID || l.h.leadsSet(v, n) {
			continue
		}
		fresh := old == nil || !samePlace(old.set(n), pl)
		if fresh {
			l.core.SetTimer(&l.awaited[n], l.h.leaderWait, func() { l.stopAwaiting(bit) })
		}
		if fresh || had&bit != 0 {
			l.awaiting |= bit
		}
	}
	for n := range l.awaited {
		if l.awaiting>>n&1 == 0 {
			l.core.StopTimer(&l.awaited[n])
		}
	}
	if had&^l.awaiting != 0 {
		l.readOn()
	}
}

// samePlace says whether nothing has changed for which the door is told.
func samePlace(a, b *Placement) bool {
	return a.Leader == b.Leader && a.Epoch == b.Epoch && a.Leads == b.Leads && a.Follows == b.Follows && len(a.ISR) == len(b.ISR)
}

// stopAwaiting reads the requests that wait for the leader of a set of shards.
func (l *loopState) stopAwaiting(bit uint16) {
	l.awaiting &^= bit
	l.readOn()
}

// readOn reads what waits for leaders: what waits for one that is not there comes again.
func (l *loopState) readOn() {
	for c := l.first; c != nil; {
		next := c.next
		c.unblock(blockLeader)
		c = next
	}
}

// awaits says whether a request waits for the leader of a set of shards, while there are such. Those for partitions of several sets wait as far as they have to:
// see produce, and fetchAwaits. Others for partitions wait for the first set alone, as all for groups, transactional ids and topics do.
func (c *conn) awaits(q *wire.Request) bool {
	if v := c.l.h.view(); len(v.Sets) > 0 {
		switch q.Key {
		case wire.Produce:
			return false
		case wire.Fetch:
			return c.fetchAwaits(v, q)
		default: // for the first set alone
		}
	}
	return c.l.awaiting&1 != 0
}

// fetchAwaits says whether there is nothing in a fetch but what waits for a leader. One that goes on with a session does not: its session would have ended.
func (c *conn) fetchAwaits(v *View, q *wire.Request) bool {
	m, err := wire.DecodeFetchRequest(q.Body, q.Version)
	if err != nil || m.SessionEpoch > wire.InitialEpoch {
		return false // it is answered
	}
	some := false
	for p := m.Data(); p.Next(); {
		topic, set := c.topicOf(p.Topic, p.TopicID, q.Version >= 13), 0
		if topic != nil {
			if part := topic.Partition(p.Index); part != nil {
				set = v.setOf(part)
			}
		}
		if !c.l.awaitsSet(set) {
			return false
		}
		some = true
	}
	return some
}

// awaitsSet says whether requests for a set of shards wait.
func (l *loopState) awaitsSet(n int) bool { return l.awaiting>>n&1 != 0 }
