package broker

import (
	"encoding/binary"
	"maps"
	"regexp"
	"slices"
	"time"
)

// groupStores lets many changes of one group share a write: one is on its way, and at most one more waits for it, with all that came
// meanwhile.
type groupStores struct {
	running bool
	waiting []func(error)
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

// encode appends the state of the consumer protocol.
func (cg *consumerGroup) encode(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(uint32(cg.epoch)))
	dst = binary.AppendUvarint(dst, uint64(uint32(cg.targetEpoch)))
	dst = binary.AppendUvarint(dst, uint64(len(cg.members)))
	for _, id := range slices.Sorted(maps.Keys(cg.members)) {
		m := cg.members[id]
		for _, s := range []string{m.id, m.instance, m.clientID, m.clientHost, m.rack, m.regex, m.assignor} {
			dst = appendString(dst, s)
		}
		dst = binary.AppendUvarint(dst, uint64(m.rebalanceTimeout/time.Millisecond))
		dst = binary.AppendUvarint(dst, uint64(uint32(m.epoch)))
		dst = binary.AppendUvarint(dst, uint64(uint32(m.previous)))
		dst = append(dst, byte(m.state), byte(boolBit(m.left)))
		dst = binary.AppendUvarint(dst, uint64(len(m.names)))
		for _, s := range m.names {
			dst = appendString(dst, s)
		}
		for _, list := range [][]TopicPartition{m.assigned, m.revoking, m.target} {
			dst = binary.AppendUvarint(dst, uint64(len(list)))
			for _, tp := range list {
				dst = appendTopicPartition(dst, tp)
			}
		}
	}
	return dst
}

func (d *decoder) topicPartitions() (list []TopicPartition) {
	for n := d.count(); n > 0 && d.ok(); n-- {
		list = append(list, d.topicPartition())
	}
	return list
}

// decodeConsumer is encode's other way.
func (g *group) decodeConsumer(b []byte) bool {
	d := decoder{b: b}
	cg := &consumerGroup{members: make(map[string]*consumerMember), owners: make(map[TopicPartition]consumerOwner)}
	cg.epoch, cg.targetEpoch = int32(uint32(d.uvarint())), int32(uint32(d.uvarint()))
	for n := d.count(); n > 0 && d.ok(); n-- {
		m := &consumerMember{id: d.string(), instance: d.string(), clientID: d.string(), clientHost: d.string(), rack: d.string(),
			regex: d.string(), assignor: d.string()}
		m.rebalanceTimeout = time.Duration(d.uvarint()) * time.Millisecond
		m.epoch, m.previous = int32(uint32(d.uvarint())), int32(uint32(d.uvarint()))
		m.state, m.left = memberState(d.byte()), d.byte() == 1
		for k := d.count(); k > 0 && d.ok(); k-- {
			m.names = append(m.names, d.string())
		}
		m.assigned, m.revoking, m.target = d.topicPartitions(), d.topicPartitions(), d.topicPartitions()
		if m.regex != "" {
			var err error
			if m.pattern, err = regexp.Compile("^(?:" + m.regex + ")$"); err != nil {
				return false
			}
		}
		cg.members[m.id] = m
		if m.instance != "" {
			if cg.static == nil {
				cg.static = make(map[string]string)
			}
			cg.static[m.instance] = m.id
		}
	}
	if !d.ok() || len(d.b) > 0 {
		return false
	}
	g.consumer, g.protocolType = cg, "consumer"
	return true
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
