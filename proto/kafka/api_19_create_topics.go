package kafka

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// creating is a CreateTopics request under way.
type creating struct {
	m      *kmsg.CreateTopicsRequest
	named  map[string]int // how often; 0: it was answered for
	excess bool           // it asks for more than creationMost partitions
	made   wire.CreatedTopics
	out    []kmsg.CreateTopicsResponseTopic // of this part
	wanted []TopicCreation
	place  []int // of those in out
	last   describedTopic
}

// describedTopic is what was told of a topic's configuration: the next one is often like it.
type describedTopic struct {
	spec    *broker.TopicSpec
	configs []kmsg.CreateTopicsResponseTopicConfig
}

// createTopics creates topics. What can be seen to be wrong here is answered here, the rest by the catalog.
func createTopics(r *request, m *kmsg.CreateTopicsRequest) {
	b := &creating{m: m, named: make(map[string]int, len(m.Topics))}
	partitions := 0
	for i := range m.Topics {
		t := &m.Topics[i]
		b.named[t.Topic]++
		switch n := t.NumPartitions; {
		case len(t.ReplicaAssignment) > 0:
			partitions += len(t.ReplicaAssignment)
		case n == -1:
			partitions += int(r.c.l.h.settings.Load().Partitions)
		default:
			partitions += int(max(n, 0))
		}
	}
	b.excess = partitions > creationMost || len(m.Topics) > creationMost
	b.made.Begin(r.buffer(), r.call, len(b.named))
	r.inParts(len(m.Topics), b)
}

func (b *creating) look(r *request, i int) int {
	t := &b.m.Topics[i]
	n := b.named[t.Topic]
	if n == 0 {
		return 0 // a duplicate that has been answered
	}
	b.named[t.Topic] = 0
	out := kmsg.NewCreateTopicsResponseTopic()
	out.Topic = t.Topic
	spec, code, why := r.c.l.h.creation(t)
	if b.excess {
		code, why = wire.PolicyViolation, creationTooMany
	}
	if !r.c.mayCreate(t.Topic) {
		code, why = wire.TopicAuthorizationFailed, "not authorized to create the topic"
	}
	if n > 1 {
		code, why = wire.InvalidRequest, "the topic is named more than once"
	}
	if !r.c.controls() {
		code, why = wire.NotController, notController
	}
	partitions := r.c.l.partitions(&spec)
	if code == wire.None && !b.m.ValidateOnly && !r.mayMutate(partitions, b.m.Version >= 6) {
		code, why = wire.ThrottlingQuotaExceeded, mutationsExceeded
	}
	if code != wire.None {
		out.ErrorCode, out.ErrorMessage = int16(code), &why
		partitions = 0
	} else {
		spec.Partitions = int32(partitions)
		b.wanted, b.place = append(b.wanted, spec), append(b.place, len(b.out))
	}
	b.out = append(b.out, out)
	return partitions
}

func (b *creating) change(r *request, done func([]TopicResult)) bool {
	if len(b.wanted) == 0 {
		return false
	}
	r.c.l.h.catalog.CreateTopics(r.c.tenant(), b.wanted, b.m.ValidateOnly, done)
	return true
}

func (b *creating) changed(r *request, results []TopicResult) {
	for k := range results {
		r.c.created(&b.out[b.place[k]], &results[k], &b.last)
	}
	b.made.Append(b.out)
	clear(b.out)
	b.out, b.place, b.wanted = b.out[:0], b.place[:0], nil // the catalog may hold it yet
}

func (b *creating) end(r *request) {
	r.out = b.made.Finish(r.throttleMS())
	r.finish()
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
		seen, v, spread := make([]bool, len(t.ReplicaAssignment)), h.view(), wantsSpread(t)
		for _, a := range t.ReplicaAssignment {
			if a.Partition < 0 || int(a.Partition) >= len(seen) || seen[a.Partition] || !v.placesNew(spread, a.Replicas) {
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

// wantsSpread says whether the topic's leaders are to be spread over sets of shards.
func wantsSpread(t *kmsg.CreateTopicsRequestTopic) bool {
	return slices.ContainsFunc(t.Configs, func(c kmsg.CreateTopicsRequestTopicConfig) bool {
		return c.Name == "leader.spread" && c.Value != nil && *c.Value == "true"
	})
}

func (c *conn) created(out *kmsg.CreateTopicsResponseTopic, res *TopicResult, last *describedTopic) {
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
	v, at := c.l.h.view(), 0
	if len(res.Topic.Partitions) > 0 {
		at = v.setOfShard(res.Topic.Partitions[0].Shard)
	}
	out.NumPartitions, out.ReplicationFactor = int32(len(res.Topic.Partitions)), int16(len(v.set(at).Replicas))
	if n := res.Topic.Replicas; n > 0 {
		out.ReplicationFactor = int16(n)
	}
	if last.spec == nil || !slices.Equal(last.spec.Settings, res.Topic.Settings) {
		*last = describedTopic{spec: res.Topic}
		for _, v := range c.l.h.catalog.DescribeTopic(res.Topic) {
			e := kmsg.NewCreateTopicsResponseTopicConfig()
			e.Name, e.Value, e.ReadOnly, e.Source, e.IsSensitive = v.Key, v.Value, v.ReadOnly, int8(v.Source), v.Sensitive
			last.configs = append(last.configs, e)
		}
	}
	out.Configs = last.configs
}
