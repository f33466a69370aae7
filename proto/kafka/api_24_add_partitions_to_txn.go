package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// addPartitionsToTxn makes partitions part of a transaction. From version 4 on it is brokers that ask, for many transactions at once; a
// lone node asks nobody, and answers all the same.
func addPartitionsToTxn(r *request, m *kmsg.AddPartitionsToTxnRequest) {
	resp := m.ResponseKind().(*kmsg.AddPartitionsToTxnResponse)
	if m.Version >= 4 && !r.c.mayNode(broker.OperationClusterAction) {
		resp.ErrorCode = int16(wire.ClusterAuthorizationFailed)
		r.respond(resp)
		return
	}
	if m.Version >= 4 {
		resp.Transactions = make([]kmsg.AddPartitionsToTxnResponseTransaction, len(m.Transactions))
		gather(r, resp, len(m.Transactions), func(i int, done func()) {
			t := &m.Transactions[i]
			out := &resp.Transactions[i]
			*out = kmsg.NewAddPartitionsToTxnResponseTransaction()
			out.TransactionalID = t.TransactionalID
			who := broker.ProducerIdentity{ID: t.ProducerID, Epoch: t.ProducerEpoch}
			var topics []kmsg.AddPartitionsToTxnRequestTopic
			for k := range t.Topics {
				o := kmsg.NewAddPartitionsToTxnRequestTopic()
				o.Topic, o.Partitions = t.Topics[k].Topic, t.Topics[k].Partitions
				topics = append(topics, o)
			}
			r.c.addToTxn(t.TransactionalID, who, topics, txnBroker, func(list []kmsg.AddPartitionsToTxnResponseTopic) {
				for k := range list {
					o := kmsg.NewAddPartitionsToTxnResponseTransactionTopic()
					o.Topic = list[k].Topic
					for _, p := range list[k].Partitions {
						o.Partitions = append(o.Partitions, kmsg.AddPartitionsToTxnResponseTransactionTopicPartition{Partition: p.Partition, ErrorCode: p.ErrorCode})
					}
					out.Topics = append(out.Topics, o)
				}
				done()
			})
		})
		return
	}
	l, t := r.c.l, r.ticket()
	who := broker.ProducerIdentity{ID: m.ProducerID, Epoch: m.ProducerEpoch}
	kind := txnClient
	if m.Version < 2 {
		kind = txnOldClient
	}
	r.c.addToTxn(m.TransactionalID, who, m.Topics, kind, func(list []kmsg.AddPartitionsToTxnResponseTopic) {
		t.later(l, func(r *request) {
			resp.Topics = list
			r.respond(resp)
		})
	})
}

// txnAsker is who adds partitions.
type txnAsker uint8

const (
	txnClient    txnAsker = iota
	txnOldClient          // does not know PRODUCER_FENCED
	txnBroker             // may do so for all its clients
)

// addToTxn asks the coordinator; all partitions are added or none.
func (c *conn) addToTxn(id string, who broker.ProducerIdentity, topics []kmsg.AddPartitionsToTxnRequestTopic, asker txnAsker, done func([]kmsg.AddPartitionsToTxnResponseTopic)) {
	tenant := c.tenant()
	h := c.l.h
	mayID, coordinator := asker == txnBroker || c.mayTxn(broker.OperationWrite, id), c.storable(wire.None)
	if !h.coordinates() {
		coordinator = wire.NotCoordinator
	}
	var parts []broker.TopicPartition
	var out []kmsg.AddPartitionsToTxnResponseTopic
	faulty := false
	for i := range topics {
		o := kmsg.NewAddPartitionsToTxnResponseTopic()
		o.Topic = topics[i].Topic
		topic := h.broker.Topic(tenant, o.Topic)
		mayWrite := asker == txnBroker || c.mayTopic(broker.OperationWrite, o.Topic)
		for _, p := range topics[i].Partitions {
			rp := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p, int16(wire.OperationNotAttempted)
			switch {
			case !mayID:
				rp.ErrorCode, faulty = int16(wire.TransactionalIDAuthorizationFailed), true
			case !mayWrite:
				rp.ErrorCode, faulty = int16(wire.TopicAuthorizationFailed), true
			case coordinator != wire.None:
				rp.ErrorCode, faulty = int16(coordinator), true
			case topic == nil || topic.Partition(p) == nil:
				rp.ErrorCode, faulty = int16(wire.UnknownTopicOrPartition), true
			default:
				parts = append(parts, broker.TopicPartition{Topic: topic.ID(), Partition: p})
			}
			o.Partitions = append(o.Partitions, rp)
		}
		out = append(out, o)
	}
	if faulty {
		done(out)
		return
	}
	h.broker.AddToTxn(tenant, id, who, parts, "", func(err error) {
		for i := range out {
			for k := range out[i].Partitions {
				out[i].Partitions[k].ErrorCode = txnCode(err, asker != txnOldClient)
			}
		}
		done(out)
	})
}
