package kafka

import (
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// consumerGroupHeartbeat joins, keeps or leaves a group of the consumer protocol (KIP-848).
func consumerGroupHeartbeat(r *request, m *kmsg.ConsumerGroupHeartbeatRequest) {
	resp := m.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
	req := &broker.ConsumerHeartbeat{Group: m.Group, MemberID: m.MemberID, InstanceID: str(m.InstanceID), ClientID: string(r.clientID),
		ClientHost: r.c.peer(), Rack: m.RackID, Epoch: m.MemberEpoch, RebalanceTimeout: -1, Names: m.SubscribedTopicNames,
		HasNames: m.SubscribedTopicNames != nil, Regex: m.SubscribedTopicRegex, Assignor: m.ServerAssignor, HasOwned: m.Topics != nil}
	if m.RebalanceTimeoutMillis >= 0 {
		req.RebalanceTimeout = millis(m.RebalanceTimeoutMillis)
	}
	for i := range m.Topics {
		for _, p := range m.Topics[i].Partitions {
			req.Owned = append(req.Owned, broker.TopicPartition{Topic: m.Topics[i].TopicID, Partition: p})
		}
	}
	if code := r.c.subscriptionFault(m); code != wire.None {
		resp.ErrorCode = int16(code)
		r.respond(resp)
		return
	}
	if m.Version >= 1 && m.MemberID == "" { // its client makes it, since that version
		resp.ErrorCode = int16(wire.InvalidRequest)
		r.respond(resp)
		return
	}
	if authz, id := r.c.l.h.authz, r.c.id; authz != nil {
		req.Visible = func(topic *broker.Topic) bool {
			return authz.Allows(id, broker.OperationDescribe, broker.ResourceTopic, topic.NameBytes())
		}
	}
	l, t := r.c.l, r.ticket()
	l.h.broker.ConsumerGroupHeartbeat(r.c.tenant(), req, func(res broker.ConsumerResult) {
		t.later(l, func(r *request) {
			resp.ErrorCode = coordinatorCode(res.Err)
			if res.Err != nil {
				resp.ErrorMessage = &res.Message
				r.respond(resp)
				return
			}
			resp.MemberID, resp.MemberEpoch, resp.HeartbeatIntervalMillis = &res.MemberID, res.Epoch, int32(res.Interval/time.Millisecond)
			if res.HasAssignment {
				resp.Assignment = &kmsg.ConsumerGroupHeartbeatResponseAssignment{}
				for _, run := range byTopic(res.Assignment) {
					o := kmsg.NewConsumerGroupHeartbeatResponseAssignmentTopic()
					o.TopicID, o.Partitions = run.topic, run.partitions
					resp.Assignment.Topics = append(resp.Assignment.Topics, o)
				}
			}
			r.respond(resp)
		})
	})
}

// subscriptionFault says why the client may not be in the group, or not with what it subscribes to.
func (c *conn) subscriptionFault(m *kmsg.ConsumerGroupHeartbeatRequest) wire.ErrorCode {
	if code := c.groupFault(broker.OperationRead, m.Group); code != wire.None {
		return code
	}
	for _, name := range m.SubscribedTopicNames {
		if !c.mayName(name) {
			return wire.TopicAuthorizationFailed
		}
	}
	return wire.None
}

// topicRun is the partitions of one topic.
type topicRun struct {
	topic      broker.TopicID
	partitions []int32
}

// byTopic gathers the partitions of each topic.
func byTopic(list []broker.TopicPartition) (runs []topicRun) {
	at := make(map[broker.TopicID]int)
	for _, tp := range list {
		i, ok := at[tp.Topic]
		if !ok {
			i = len(runs)
			at[tp.Topic] = i
			runs = append(runs, topicRun{topic: tp.Topic})
		}
		runs[i].partitions = append(runs[i].partitions, tp.Partition)
	}
	return runs
}

// consumerGroupDescribe shows groups of the consumer protocol.
func consumerGroupDescribe(r *request, m *kmsg.ConsumerGroupDescribeRequest) {
	resp := m.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
	tenant := r.c.tenant()
	resp.Groups = make([]kmsg.ConsumerGroupDescribeResponseGroup, len(m.Groups))
	b, c := r.c.l.h.broker, r.c
	gather(r, resp, len(m.Groups), func(i int, done func()) {
		if code := c.groupFault(broker.OperationDescribe, m.Groups[i]); code != wire.None {
			resp.Groups[i] = kmsg.NewConsumerGroupDescribeResponseGroup()
			resp.Groups[i].Group, resp.Groups[i].ErrorCode = m.Groups[i], int16(code)
			done()
			return
		}
		operations := int32(math.MinInt32)
		if m.IncludeAuthorizedOperations {
			operations = c.operationsOf(broker.ResourceGroup, m.Groups[i])
		}
		b.DescribeConsumerGroup(tenant, m.Groups[i], func(d broker.ConsumerDescription) {
			resp.Groups[i] = c.describedConsumers(b, &d)
			resp.Groups[i].AuthorizedOperations = operations
			done()
		})
	})
}

func (c *conn) describedConsumers(b *broker.Broker, d *broker.ConsumerDescription) kmsg.ConsumerGroupDescribeResponseGroup {
	tenant := c.tenant()
	out := kmsg.NewConsumerGroupDescribeResponseGroup()
	out.Group, out.State, out.Epoch, out.AssignmentEpoch, out.AssignorName = d.ID, d.State, d.Epoch, d.AssignmentEpoch, d.Assignor
	if d.Err != nil {
		why := "group " + d.ID + " is not a consumer group"
		out.ErrorCode, out.ErrorMessage = int16(wire.GroupIDNotFound), &why
	}
	named := func(list []broker.TopicPartition) (a kmsg.Assignment) {
		for _, run := range byTopic(list) {
			o := kmsg.NewAssignmentTopicPartition()
			o.TopicID, o.Partitions = run.topic, run.partitions
			if t := b.TopicByID(tenant, run.topic); t != nil {
				o.Topic = t.Name()
			}
			a.TopicPartitions = append(a.TopicPartitions, o)
		}
		return a
	}
	if !c.mayNameAll(b, d) {
		why := "the group uses topics that the client may not describe"
		out.ErrorCode, out.ErrorMessage = int16(wire.TopicAuthorizationFailed), &why
		return out
	}
	for i := range d.Members {
		md := &d.Members[i]
		o := kmsg.NewConsumerGroupDescribeResponseGroupMember()
		o.MemberID, o.MemberEpoch, o.ClientID, o.ClientHost, o.SubscribedTopics = md.ID, md.Epoch, md.ClientID, md.ClientHost, md.Names
		if md.InstanceID != "" {
			o.InstanceID = &md.InstanceID
		}
		if md.Rack != "" {
			o.RackID = &md.Rack
		}
		if md.Regex != "" {
			o.SubscribedTopicRegex = &md.Regex
		}
		o.Assignment, o.TargetAssignment, o.MemberType = named(md.Assigned), named(md.Target), 1
		out.Members = append(out.Members, o)
	}
	return out
}

// mayNameAll says whether the client may know of every topic that a group has to do with.
func (c *conn) mayNameAll(b *broker.Broker, d *broker.ConsumerDescription) bool {
	tenant := c.tenant()
	mayAll := func(list []broker.TopicPartition) bool {
		for _, run := range byTopic(list) {
			if t := b.TopicByID(tenant, run.topic); t != nil && !c.mayName(t.Name()) {
				return false
			}
		}
		return true
	}
	for i := range d.Members {
		md := &d.Members[i]
		for _, name := range md.Names {
			if !c.mayName(name) {
				return false
			}
		}
		if !mayAll(md.Assigned) || !mayAll(md.Target) {
			return false
		}
	}
	return true
}
