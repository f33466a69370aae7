package broker

import (
	"maps"
	"slices"
)

// groupStores lets many changes of one group share a write: one is on its way, and at most one more waits for it, with all that came
// meanwhile.
type groupStores struct {
	running  bool
	waiting  []func(error)
	failures int // writes that the log did not take
}

// storeSoon writes the group's state as it is now, or is when the write before has ended; done runs on the group's loop when that is in
// the log.
func (g *group) storeSoon(done func(error)) {
	g.stores.waiting = append(g.stores.waiting, done)
	if !g.stores.running {
		g.storeNext()
	}
}

func (g *group) storeNext() {
	waiting := g.stores.waiting
	g.stores.waiting = nil
	if g.stores.running = len(waiting) > 0; !g.stores.running {
		return
	}
	g.store(func(err error) {
		for _, done := range waiting {
			done(err)
		}
		g.storeNext()
	})
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.bad = true
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

// reviveConsumers gives the members of a consumer group that was read their partitions, and their session's time to be heard of.
func (g *group) reviveConsumers() {
	if g.consumer == nil {
		return
	}
	for _, m := range g.consumer.members {
		for _, tp := range m.assigned {
			g.consumer.owners[tp] = consumerOwner{m, m.epoch}
		}
		for _, tp := range m.revoking {
			g.consumer.owners[tp] = consumerOwner{m, m.epoch}
		}
		g.l.timers.set(&m.seen, consumerSessionTimeout, func() { g.consumerExpire(m) })
		if m.state == memberUnrevoked {
			g.l.timers.set(&m.revoke, m.rebalanceTimeout, func() { g.consumerExpire(m) })
		}
	}
}

// ConsumerDescription is a consumer group as administrators see it (ConsumerGroupDescribe).
type ConsumerDescription struct {
	ID, State, Assignor    string
	Epoch, AssignmentEpoch int32
	Members                []ConsumerMemberDescription
	Err                    error
}

// ConsumerMemberDescription is a member of one.
type ConsumerMemberDescription struct {
	ID, InstanceID, Rack, ClientID, ClientHost, Regex string
	Epoch                                             int32
	Names                                             []string
	Assigned, Target                                  []TopicPartition
}

// DescribeConsumerGroup shows a consumer group; ErrGroupNotFound for one that is none.
func (b *Broker) DescribeConsumerGroup(tenant uint32, groupID string, done func(ConsumerDescription)) {
	b.onGroup(tenant, groupID, func(l *Local, _ *shard) {
		d := ConsumerDescription{ID: groupID, State: "Dead", Err: ErrGroupNotFound}
		if g := l.group(groupKey{tenant, groupID}); g != nil && g.consumer != nil {
			cg := g.consumer
			d = ConsumerDescription{ID: groupID, State: cg.state(), Assignor: defaultAssignor, Epoch: cg.epoch, AssignmentEpoch: cg.targetEpoch}
			for _, id := range slices.Sorted(maps.Keys(cg.members)) {
				m := cg.members[id]
				d.Assignor = m.assignor
				d.Members = append(d.Members, ConsumerMemberDescription{ID: m.id, InstanceID: m.instance, Rack: m.rack, ClientID: m.clientID,
					ClientHost: m.clientHost, Regex: m.regex, Epoch: m.epoch, Names: m.names,
					Assigned: append(slices.Clone(m.assigned), m.revoking...), Target: slices.Clone(m.target)})
			}
		}
		done(d)
	})
}

// CheckMember says whether a reader of offsets is a member of its epoch (OffsetFetch from version 9 on).
func (b *Broker) CheckMember(tenant uint32, groupID, memberID string, epoch int32, done func(error)) {
	b.onGroup(tenant, groupID, func(l *Local, _ *shard) {
		g := l.group(groupKey{tenant, groupID})
		switch {
		case g == nil || g.consumer == nil:
			done(nil)
		case g.consumer.members[memberID] == nil:
			done(ErrUnknownMember)
		case g.consumer.members[memberID].epoch != epoch:
			done(ErrStaleMemberEpoch)
		default:
			done(nil)
		}
	})
}
