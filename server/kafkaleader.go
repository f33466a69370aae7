package server

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/proto/kafka"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// Requests between nodes by which a node asks the leader for what its Kafka clients want. Their numbers are on the wire.
const (
	methodProducerID   = 0x4b01 // {} -> {id i64}
	methodCreateTopics = 0x4b02 // JSON: {tenant, topics} -> {results}
	methodAlterConfigs = 0x4b03 // JSON: {tenant, topics, validate only} -> {results}
)

// leaderWait bounds how long the leader may take.
const leaderWait = 10 * time.Second

// kafkaLeader asks the node that leads on behalf of this one's clients, and answers when it is this one.
type kafkaLeader struct {
	mesh    *link.Mesh
	cluster kafka.Cluster
	broker  *broker.Broker
	topics  *topicCatalog
}

var _ kafka.Leader = (*kafkaLeader)(nil)

// createTopics and alterConfigs are bodies of requests, topicResults that of their answer.
type createTopics struct {
	Tenant uint32
	Topics []kafka.TopicCreation
}

type alterConfigs struct {
	Tenant       uint32
	Topics       []kafka.TopicAlteration
	ValidateOnly bool
}

type topicResults struct{ Results []kafka.TopicResult }

// serve registers what this node does for others, and has its topics know how many nodes there are. Before the link has connections, and the door.
func (k *kafkaLeader) serve() {
	k.topics.nodes = k.cluster
	k.mesh.Serve(methodProducerID, k.serveProducerID)
	k.mesh.Serve(methodCreateTopics, k.serveCreateTopics)
	k.mesh.Serve(methodAlterConfigs, k.serveAlterConfigs)
	k.mesh.Serve(methodTxnJoin, k.serveJoin)
}

func (k *kafkaLeader) serveProducerID(r *link.Request) {
	k.broker.InitProducer(0, "", 0, broker.ProducerIdentity{ID: -1, Epoch: -1}, func(who broker.ProducerIdentity, err error) {
		if err != nil {
			r.Fail(err.Error())
			return
		}
		r.Reply(binary.LittleEndian.AppendUint64(nil, uint64(who.ID)))
	})
}

func (k *kafkaLeader) serveCreateTopics(r *link.Request) {
	var q createTopics
	if err := json.Unmarshal(r.Body.Bytes(), &q); err != nil {
		r.Fail("topics to create: " + err.Error())
		return
	}
	k.topics.CreateTopics(q.Tenant, q.Topics, false, answerTopics(r))
}

func (k *kafkaLeader) serveAlterConfigs(r *link.Request) {
	var q alterConfigs
	if err := json.Unmarshal(r.Body.Bytes(), &q); err != nil {
		r.Fail("configurations to change: " + err.Error())
		return
	}
	k.topics.AlterConfigs(q.Tenant, q.Topics, q.ValidateOnly, answerTopics(r))
}

// answerTopics answers a request with what came of it for each topic.
func answerTopics(r *link.Request) func([]kafka.TopicResult) {
	return func(results []kafka.TopicResult) {
		for i := range results {
			results[i].Topic = nil // it comes with the shard
		}
		b, err := json.Marshal(topicResults{results})
		if err != nil {
			r.Fail(err.Error())
			return
		}
		r.Reply(b)
	}
}

// ask sends a request to the leader; done is told what its answer says while that is held.
func (k *kafkaLeader) ask(method uint16, body []byte, done func(answer []byte, err error)) {
	leader := k.cluster.View().All.Leader
	if leader <= 0 {
		done(nil, broker.ErrNotLeader)
		return
	}
	_, err := k.mesh.Go(link.NodeID(leader), method, body, leaderWait, func(m link.Message, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		defer m.Release()
		done(m.Bytes(), nil)
	})
	if err != nil {
		done(nil, err)
	}
}

var errLeaderAnswer = errors.New("server: the leader's answer is not one")

// ProducerID makes it a kafka.Leader.
func (k *kafkaLeader) ProducerID(done func(int64, error)) {
	k.ask(methodProducerID, nil, func(b []byte, err error) {
		switch {
		case err != nil:
			done(-1, err)
		case len(b) != 8 || int64(binary.LittleEndian.Uint64(b)) < 0:
			done(-1, errLeaderAnswer)
		default:
			done(int64(binary.LittleEndian.Uint64(b)), nil)
		}
	})
}

// CreateTopics makes it a kafka.Leader. A leader that cannot be asked is NOT_CONTROLLER: the client comes again.
func (k *kafkaLeader) CreateTopics(tenant uint32, topics []kafka.TopicCreation, done func([]kafka.TopicResult)) {
	k.askTopics(methodCreateTopics, createTopics{tenant, topics}, len(topics), done)
}

// AlterConfigs makes it a kafka.Leader. A leader that cannot be asked is NOT_CONTROLLER.
func (k *kafkaLeader) AlterConfigs(tenant uint32, topics []kafka.TopicAlteration, validateOnly bool, done func([]kafka.TopicResult)) {
	k.askTopics(methodAlterConfigs, alterConfigs{tenant, topics, validateOnly}, len(topics), done)
}

// askTopics asks the leader for something that has a result for each of n topics.
func (k *kafkaLeader) askTopics(method uint16, question any, n int, done func([]kafka.TopicResult)) {
	refuse := func() {
		results := make([]kafka.TopicResult, n)
		for i := range results {
			results[i].Code = wire.NotController
		}
		done(results)
	}
	body, err := json.Marshal(question)
	if err != nil {
		refuse()
		return
	}
	k.ask(method, body, func(b []byte, err error) {
		var a topicResults
		if err != nil || json.Unmarshal(b, &a) != nil || len(a.Results) != n {
			refuse()
			return
		}
		done(a.Results)
	})
}
