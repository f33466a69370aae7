package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

func offset(n int64) record.Offset { return record.Offset(n) }

// offsetFetch tells where groups go on. Up to version 7 it is one group, and null topics are all of them.
func offsetFetch(r *request, m *kmsg.OffsetFetchRequest) {
	resp := m.ResponseKind().(*kmsg.OffsetFetchResponse)
	tenant := r.c.tenant()
	if m.Version >= 8 {
		resp.Groups = make([]kmsg.OffsetFetchResponseGroup, len(m.Groups))
		l := r.c.l
		c := r.c
		gather(r, resp, len(m.Groups), func(i int, done func()) {
			g := &m.Groups[i]
			if g.MemberID == nil || *g.MemberID == "" || c.groupFault(broker.OperationDescribe, g.Group) != wire.None {
				resp.Groups[i] = c.fetchGroup(g, m.Version, m.RequireStable)
				done()
				return
			}
			l.h.broker.CheckMember(tenant, g.Group, *g.MemberID, g.MemberEpoch, func(err error) {
				if err == nil {
					resp.Groups[i] = c.fetchGroup(g, m.Version, m.RequireStable)
				} else {
					resp.Groups[i] = kmsg.NewOffsetFetchResponseGroup()
					resp.Groups[i].Group, resp.Groups[i].ErrorCode = g.Group, coordinatorCode(err)
				}
				done()
			})
		})
		return
	}
	ask := kmsg.NewOffsetFetchRequestGroup()
	ask.Group = m.Group
	for i := range m.Topics {
		t := kmsg.NewOffsetFetchRequestGroupTopic()
		t.Topic, t.Partitions = m.Topics[i].Topic, m.Topics[i].Partitions
		ask.Topics = append(ask.Topics, t)
	}
	if m.Topics != nil && ask.Topics == nil {
		ask.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	}
	got := r.c.fetchGroup(&ask, m.Version, m.RequireStable)
	resp.ErrorCode = got.ErrorCode
	for i := range got.Topics {
		t := kmsg.NewOffsetFetchResponseTopic()
		t.Topic = got.Topics[i].Topic
		for _, p := range got.Topics[i].Partitions {
			t.Partitions = append(t.Partitions, kmsg.OffsetFetchResponseTopicPartition{Partition: p.Partition, Offset: p.Offset,
				LeaderEpoch: p.LeaderEpoch, Metadata: p.Metadata, ErrorCode: p.ErrorCode})
		}
		resp.Topics = append(resp.Topics, t)
	}
	r.respond(resp)
}

// fetchGroup answers for one group.
func (c *conn) fetchGroup(ask *kmsg.OffsetFetchRequestGroup, version int16, stable bool) kmsg.OffsetFetchResponseGroup {
	tenant := c.tenant()
	out := kmsg.NewOffsetFetchResponseGroup()
	out.Group = ask.Group
	if ask.Group == "" {
		out.ErrorCode = int16(wire.InvalidGroupID)
		return out
	}
	if code := c.groupFault(broker.OperationDescribe, ask.Group); code != wire.None {
		return refusedGroup(ask, version, code)
	}
	b := c.l.h.broker
	if ask.Topics == nil {
		places := make(map[broker.TopicID]int)
		for _, o := range b.FetchOffsets(tenant, ask.Group, nil) {
			t := b.TopicByID(tenant, o.Topic)
			if t == nil || !c.mayName(t.Name()) {
				continue
			}
			at, ok := places[o.Topic]
			if !ok {
				at = len(out.Topics)
				places[o.Topic] = at
				topic := kmsg.NewOffsetFetchResponseGroupTopic()
				topic.Topic, topic.TopicID = t.Name(), o.Topic
				out.Topics = append(out.Topics, topic)
			}
			out.Topics[at].Partitions = append(out.Topics[at].Partitions, fetchedOffset(&o, stable))
		}
		return out
	}
	for i := range ask.Topics {
		out.Topics = append(out.Topics, c.fetchTopic(ask.Group, &ask.Topics[i], version, stable))
	}
	return out
}

// refusedGroup answers for a group of which the client is told nothing here. Before version 2 only partitions have an error.
func refusedGroup(ask *kmsg.OffsetFetchRequestGroup, version int16, code wire.ErrorCode) kmsg.OffsetFetchResponseGroup {
	out := kmsg.NewOffsetFetchResponseGroup()
	out.Group, out.ErrorCode = ask.Group, int16(code)
	for i := range ask.Topics {
		if version >= 2 {
			break
		}
		t := kmsg.NewOffsetFetchResponseGroupTopic()
		t.Topic = ask.Topics[i].Topic
		for _, n := range ask.Topics[i].Partitions {
			none := broker.FetchedOffset{TopicPartition: broker.TopicPartition{Partition: n}, CommittedOffset: broker.CommittedOffset{Offset: -1, LeaderEpoch: -1}}
			o := fetchedOffset(&none, false)
			o.ErrorCode = out.ErrorCode
			t.Partitions = append(t.Partitions, o)
		}
		out.Topics = append(out.Topics, t)
	}
	return out
}

func (c *conn) fetchTopic(group string, ask *kmsg.OffsetFetchRequestGroupTopic, version int16, stable bool) kmsg.OffsetFetchResponseGroupTopic {
	tenant := c.tenant()
	out := kmsg.NewOffsetFetchResponseGroupTopic()
	out.Topic, out.TopicID = ask.Topic, ask.TopicID
	b := c.l.h.broker
	t, code := b.TopicByID(tenant, ask.TopicID), wire.UnknownTopicID
	if version < topicIDVersion {
		t, code = b.Topic(tenant, ask.Topic), wire.None // no offset is no error
		if !c.mayName(ask.Topic) {
			t, code = nil, wire.TopicAuthorizationFailed
		}
	} else if t != nil && !c.mayName(t.Name()) {
		t, code = nil, wire.TopicAuthorizationFailed
	}
	var parts []broker.TopicPartition
	for _, p := range ask.Partitions {
		if t != nil {
			parts = append(parts, broker.TopicPartition{Topic: t.ID(), Partition: p})
			continue
		}
		none := broker.FetchedOffset{TopicPartition: broker.TopicPartition{Partition: p}, CommittedOffset: broker.CommittedOffset{Offset: -1, LeaderEpoch: -1}}
		o := fetchedOffset(&none, stable)
		o.ErrorCode = int16(code)
		out.Partitions = append(out.Partitions, o)
	}
	if len(parts) == 0 {
		return out
	}
	for _, o := range b.FetchOffsets(tenant, group, parts) {
		out.Partitions = append(out.Partitions, fetchedOffset(&o, stable))
	}
	return out
}

func fetchedOffset(o *broker.FetchedOffset, stable bool) kmsg.OffsetFetchResponseGroupTopicPartition {
	p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = o.Partition, int64(o.Offset), o.LeaderEpoch, &o.Metadata
	if stable && o.Unstable {
		p.Offset, p.LeaderEpoch, p.ErrorCode = -1, -1, int16(wire.UnstableOffsetCommit)
	}
	return p
}
