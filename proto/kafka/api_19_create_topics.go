package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// createTopics creates topics. What can be seen to be wrong here is answered here, the rest by the catalog.
func createTopics(r *request, m *kmsg.CreateTopicsRequest) {
	resp := m.ResponseKind().(*kmsg.CreateTopicsResponse)
	named := make(map[string]int, len(m.Topics))
	for i := range m.Topics {
		named[m.Topics[i].Topic]++
	}
	var wanted []TopicCreation
	var place []int // in resp
	for i := range m.Topics {
		t := &m.Topics[i]
		switch n := named[t.Topic]; {
		case n == 0:
			continue // a duplicate that has been answered
		case n > 1:
			named[t.Topic] = 0
		}
		out := kmsg.NewCreateTopicsResponseTopic()
		out.Topic = t.Topic
		spec, code, why := r.c.l.h.creation(t)
		if !r.c.mayCreate(t.Topic) {
			code, why = wire.TopicAuthorizationFailed, "not authorized to create the topic"
		}
		if named[t.Topic] == 0 {
			code, why = wire.InvalidRequest, "the topic is named more than once"
		}
		if !r.c.controls() {
			code, why = wire.NotController, notController
		}
		if code == wire.None && !m.ValidateOnly && !r.mayMutate(r.c.l.partitions(&spec), m.Version >= 6) {
			code, why = wire.ThrottlingQuotaExceeded, mutationsExceeded
		}
		if code != wire.None {
			out.ErrorCode, out.ErrorMessage = int16(code), &why
		} else {
			wanted, place = append(wanted, spec), append(place, len(resp.Topics))
		}
		resp.Topics = append(resp.Topics, out)
	}
	if len(wanted) == 0 {
		r.respond(resp)
		return
	}
	l, t := r.c.l, r.ticket()
	for i := range wanted {
		if wanted[i].Partitions == -1 {
			wanted[i].Partitions = l.h.settings.Load().Partitions
		}
	}
	l.h.catalog.CreateTopics(r.c.tenant(), wanted, m.ValidateOnly, func(results []TopicResult) {
		t.later(l, func(r *request) {
			for k, i := range place {
				r.c.created(&resp.Topics[i], &results[k])
			}
			r.respond(resp)
		})
	})
}

// partitions is how many a topic that is made will have.
func (l *loopState) partitions(t *TopicCreation) int {
	if t.Partitions < 0 {
		return int(l.h.settings.Load().Partitions)
	}
	return int(t.Partitions)
}

// creation reads a topic of the request.
func (h *Handler) creation(t *kmsg.CreateTopicsRequestTopic) (spec TopicCreation, code wire.ErrorCode, why string) {
	if !ValidTopicName(t.Topic) {
		return spec, wire.InvalidTopicException, "a topic's name has 1 to 249 letters, digits, dots, underscores and dashes"
	}
	spec = TopicCreation{Name: t.Topic, Partitions: t.NumPartitions, ReplicationFactor: t.ReplicationFactor}
	if len(t.ReplicaAssignment) > 0 {
		if t.NumPartitions != -1 || t.ReplicationFactor != -1 {
			return spec, wire.InvalidRequest, "an assignment of replicas excludes numbers of partitions and replicas"
		}
		seen := make([]bool, len(t.ReplicaAssignment))
		for _, a := range t.ReplicaAssignment {
			if a.Partition < 0 || int(a.Partition) >= len(seen) || seen[a.Partition] || !h.placed(a.Replicas) {
				return spec, wire.InvalidReplicaAssignment, "each partition, from 0 on, " + placedSo
			}
			seen[a.Partition] = true
		}
		spec.Partitions, spec.ReplicationFactor = int32(len(seen)), -1
	}
	switch {
	case spec.Partitions == 0 || spec.Partitions < -1:
		return spec, wire.InvalidPartitions, "a topic has at least one partition"
	case spec.ReplicationFactor == 0 || spec.ReplicationFactor < -1:
		return spec, wire.InvalidReplicationFactor, "a partition has at least one replica"
	}
	for _, c := range t.Configs {
		spec.Configs = append(spec.Configs, ConfigEntry{c.Name, c.Value})
	}
	return spec, wire.None, ""
}

func (c *conn) created(out *kmsg.CreateTopicsResponseTopic, res *TopicResult) {
	out.ErrorCode = int16(res.Code)
	if res.Message != "" {
		out.ErrorMessage = &res.Message
	}
	if res.Topic == nil {
		return
	}
	out.TopicID = res.Topic.ID
	if !c.mayTopic(broker.OperationDescribeConfigs, out.Topic) {
		out.ConfigErrorCode = int16(wire.TopicAuthorizationFailed)
		return
	}
	out.NumPartitions, out.ReplicationFactor = int32(len(res.Topic.Partitions)), int16(len(c.l.h.view().of(nil).Replicas))
	for _, v := range c.l.h.catalog.DescribeTopic(res.Topic) {
		e := kmsg.NewCreateTopicsResponseTopicConfig()
		e.Name, e.Value, e.ReadOnly, e.Source, e.IsSensitive = v.Key, v.Value, v.ReadOnly, int8(v.Source), v.Sensitive
		out.Configs = append(out.Configs, e)
	}
}
