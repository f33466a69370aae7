package brokertest

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// kafkaPartition names a partition in a group's assignment.
type kafkaPartition struct {
	topic [16]byte
	index int32
}

// kafkaGroup is a group of the consumer protocol whose members subscribe to every topic there is.
type kafkaGroup struct {
	members []string
	owner   map[kafkaPartition]string // until that member has said that it has let go
}

// heartbeatLocked has one member's exchange: who joins, who leaves, and what belongs to whom. A partition changes hands when its owner
// has let go of it.
func (k *Kafka) heartbeatLocked(q *kmsg.ConsumerGroupHeartbeatRequest) kmsg.Response {
	p := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	p.MemberID, p.MemberEpoch, p.HeartbeatIntervalMillis = &q.MemberID, q.MemberEpoch+1, 5
	f := &k.faults
	k.mu.heartbeats++
	switch n := k.mu.heartbeats; {
	case f.StallAfter > 0 && n > f.StallAfter, f.CloseAfter > 0 && n > f.CloseAfter:
		return k.strikeLocked()
	case f.DieAfter > 0 && n > f.DieAfter:
		k.dieLocked()
		return nil
	case every(f.RefuseEvery, n):
		p.ErrorCode = 29 // TOPIC_AUTHORIZATION_FAILED
		return p
	}
	g := k.mu.groups[q.Group]
	if g == nil {
		g = &kafkaGroup{owner: map[kafkaPartition]string{}}
		k.mu.groups[q.Group] = g
	}
	if q.MemberEpoch < 0 {
		g.members = slices.DeleteFunc(g.members, func(id string) bool { return id == q.MemberID })
		return p
	}
	if !slices.Contains(g.members, q.MemberID) {
		g.members = append(g.members, q.MemberID)
	}
	p.Assignment = g.assign(k, q)
	return p
}

func (g *kafkaGroup) assign(k *Kafka, q *kmsg.ConsumerGroupHeartbeatRequest) *kmsg.ConsumerGroupHeartbeatResponseAssignment {
	has := map[kafkaPartition]bool{}
	for _, t := range q.Topics {
		for _, i := range t.Partitions {
			has[kafkaPartition{t.TopicID, i}] = true
		}
	}
	f := &k.faults
	a := &kmsg.ConsumerGroupHeartbeatResponseAssignment{}
	n := 0
	for _, name := range k.topicNamesLocked() {
		t := k.mu.topics[name]
		x := kmsg.NewConsumerGroupHeartbeatResponseAssignmentTopic()
		x.TopicID = t.id
		for i := range t.logs {
			at := kafkaPartition{t.id, int32(i)}
			mine := g.members[n%len(g.members)] == q.MemberID
			if n++; every(f.DropEvery, n) {
				continue
			}
			if g.owner[at] == q.MemberID && !mine && q.Topics != nil && !has[at] {
				delete(g.owner, at)
			}
			if mine && g.owner[at] == "" {
				g.owner[at] = q.MemberID
			}
			if f.ShareAll || every(f.DoubleEvery, n) || mine && g.owner[at] == q.MemberID {
				if every(f.CorruptEvery, n) {
					at.index += 1 << 20 // a partition that the topic lacks
				}
				x.Partitions = append(x.Partitions, at.index)
			}
		}
		a.Topics = append(a.Topics, x)
	}
	return a
}

// topicNamesLocked gives the names of all topics in order.
func (k *Kafka) topicNamesLocked() []string {
	names := make([]string, 0, len(k.mu.topics))
	for name := range k.mu.topics {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// dieLocked ends the broker: no connection, no listener.
func (k *Kafka) dieLocked() {
	_ = k.listener.Close()
	for c := range k.mu.conns {
		_ = c.Close()
	}
}
