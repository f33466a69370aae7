package kafka

import (
	"slices"
	"sort"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// autoCreateMost is how many topics one request has made: it is answered when they are there.
const autoCreateMost = 1000

// metadata names the brokers and the topics asked for: all of them for a null list (an empty one in version 0). A topic that is not there
// is created if the client and the settings allow it.
func metadata(r *request, m *kmsg.MetadataRequest) {
	resp := m.ResponseKind().(*kmsg.MetadataResponse)
	tenant := r.c.tenant()
	r.c.describeBrokers(resp)
	if m.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = r.c.clusterOperations()
	}
	tell := m.IncludeTopicAuthorizedOperations
	if m.Topics == nil || m.Version == 0 && len(m.Topics) == 0 {
		b := r.c.l.h.broker
		b.Topics(tenant, func(t *broker.Topic) bool {
			if r.c.mayName(t.Name()) {
				resp.Topics = append(resp.Topics, r.c.describeTopic(t, m.Version, tell))
			}
			return true
		})
		sort.Slice(resp.Topics, func(i, j int) bool { return *resp.Topics[i].Topic < *resp.Topics[j].Topic })
		r.respond(resp)
		return
	}
	missing := r.c.nameTopics(m, resp)
	if r.c.l.h.settings.Load().AutoCreateTopics && (m.Version < 4 || m.AllowAutoTopicCreation) {
		missing = slices.DeleteFunc(missing, func(i int) bool {
			if !r.c.mayCreate(*resp.Topics[i].Topic) {
				resp.Topics[i].ErrorCode = int16(wire.TopicAuthorizationFailed)
				return true
			}
			return !r.mayMutate(int(r.c.l.h.settings.Load().Partitions), true) // it asks again
		})
	} else {
		missing = nil
	}
	if len(missing) > autoCreateMost {
		for _, i := range missing[autoCreateMost:] {
			resp.Topics[i].ErrorCode = int16(wire.LeaderNotAvailable) // it asks again
		}
		missing = missing[:autoCreateMost]
	}
	if len(missing) == 0 {
		r.respond(resp)
		return
	}
	r.autoCreate(resp, missing, tell)
}

func (c *conn) describeBrokers(resp *kmsg.MetadataResponse) {
	v := c.l.h.view()
	for _, at := range c.endpoints(v) {
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = at.ID, at.Host, at.Port
		if at.Rack != "" {
			b.Rack = &at.Rack
		}
		resp.Brokers = append(resp.Brokers, b)
	}
	cluster := c.l.h.catalog.ClusterID()
	controller, _ := c.leaderOf(v, v.controller(), true)
	resp.ClusterID, resp.ControllerID = &cluster, controller.ID
}

// nameTopics answers for the topics that are named, and tells the places of those that are not there.
func (c *conn) nameTopics(m *kmsg.MetadataRequest, resp *kmsg.MetadataResponse) (missing []int) {
	tenant := c.tenant()
	for i := range m.Topics {
		ask := &m.Topics[i]
		b := c.l.h.broker
		var t *broker.Topic
		code := wire.UnknownTopicOrPartition
		switch {
		case ask.Topic == nil:
			code = wire.UnknownTopicID
			t = b.TopicByID(tenant, ask.TopicID)
		case !ValidTopicName(*ask.Topic):
			code = wire.InvalidTopicException
		case !c.mayName(*ask.Topic):
			code = wire.TopicAuthorizationFailed
		default:
			if t = b.Topic(tenant, *ask.Topic); t == nil {
				missing, code = append(missing, len(resp.Topics)), c.l.h.unknownTopic()
			}
		}
		if t != nil && !c.mayName(t.Name()) {
			t = nil // known by its id alone
		}
		if t != nil {
			resp.Topics = append(resp.Topics, c.describeTopic(t, m.Version, m.IncludeTopicAuthorizedOperations))
			continue
		}
		out := kmsg.NewMetadataResponseTopic()
		out.Topic, out.TopicID, out.ErrorCode = ask.Topic, ask.TopicID, int16(code)
		if out.Topic == nil && m.Version < 12 {
			out.Topic = new(string)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return missing
}

// unknownTopic is what is said of a topic that is not there. A follower that has just started, or gets a copy, may not have heard of it yet: clients ask again
// then, and do not take it for deleted.
func (h *Handler) unknownTopic() wire.ErrorCode {
	if !h.broker.TopicsCurrent() {
		return wire.LeaderNotAvailable
	}
	return wire.UnknownTopicOrPartition
}

// describeTopic is a topic with its partitions and where they lie, for a request of this version. tell: with what the client may do with it.
func (c *conn) describeTopic(t *broker.Topic, version int16, tell bool) kmsg.MetadataResponseTopic {
	spec := t.Spec()
	out := kmsg.NewMetadataResponseTopic()
	out.Topic, out.TopicID, out.IsInternal = &spec.Name, spec.ID, spec.Internal
	if tell {
		out.AuthorizedOperations = c.operationsOf(broker.ResourceTopic, spec.Name)
	}
	out.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(spec.Partitions))
	told := c.tellPlaces(version >= metadataListeners)
	for i := range out.Partitions {
		at := told.of(spec.Partitions[i].Shard)
		p := kmsg.NewMetadataResponseTopicPartition()
		p.Partition, p.ErrorCode, p.Leader, p.LeaderEpoch = int32(i), int16(at.code), at.leader, at.Epoch
		p.Replicas, p.ISR, p.OfflineReplicas = at.Replicas, at.ISR, at.offline
		out.Partitions[i] = p
	}
	return out
}

// metadataListeners is from when on clients know LISTENER_NOT_FOUND.
const metadataListeners = 6

// autoCreating is a Metadata request whose topics are being made.
type autoCreating struct {
	resp    *kmsg.MetadataResponse
	missing []int // those topics
	tell    bool
	wanted  []TopicCreation
	place   []int // of those
}

// autoCreate makes the topics that are missing and answers when they are there.
func (r *request) autoCreate(resp *kmsg.MetadataResponse, missing []int, tell bool) {
	r.inParts(len(missing), &autoCreating{resp: resp, missing: missing, tell: tell})
}

func (b *autoCreating) look(r *request, i int) int {
	partitions := r.c.l.h.settings.Load().Partitions
	b.wanted = append(b.wanted, creationOf(*b.resp.Topics[b.missing[i]].Topic, partitions))
	b.place = append(b.place, b.missing[i])
	return int(partitions)
}

func (b *autoCreating) change(r *request, done func([]TopicResult)) bool {
	r.c.l.h.autoCreateTopics(r.c.tenant(), b.wanted, done)
	return true
}

func (b *autoCreating) changed(r *request, results []TopicResult) {
	for k, i := range b.place {
		made, code := r.c.l.h.broker.Topic(r.c.tenant(), b.wanted[k].Name), results[k].Code
		switch {
		case made != nil:
			b.resp.Topics[i] = r.c.describeTopic(made, b.resp.Version, b.tell)
		case code == wire.NotController, !r.c.controls() && (code == wire.None || code == wire.TopicAlreadyExists):
			b.resp.Topics[i].ErrorCode = int16(wire.LeaderNotAvailable) // it asks again, and the topic may have come here by then
		case code != wire.TopicAlreadyExists:
			b.resp.Topics[i].ErrorCode = int16(code)
		}
	}
	b.wanted, b.place = nil, b.place[:0]
}

func (b *autoCreating) end(r *request) { r.respond(b.resp) }

// autoCreateTopics makes topics, here or where the leader is. It may be done before this node has them.
func (h *Handler) autoCreateTopics(tenant uint32, list []TopicCreation, done func([]TopicResult)) {
	if h.leader == nil || h.leads(h.view()) {
		h.catalog.CreateTopics(tenant, list, false, done)
		return
	}
	h.leader.CreateTopics(tenant, list, done)
}

// topicNameMax is Kafka's bound of a topic's name.
const topicNameMax = 249

// ValidTopicName follows Kafka's rules: 1 to 249 of letters, digits, dot, underscore and dash, and neither of "." and "..".
func ValidTopicName(name string) bool {
	if name == "" || name == "." || name == ".." || len(name) > topicNameMax {
		return false
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
