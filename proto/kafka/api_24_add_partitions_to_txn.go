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
			r.c.l.h.addToTxn(t.TransactionalID, who, topics, true, func(list []kmsg.AddPartitionsToTxnResponseTopic) {
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
	l.h.addToTxn(m.TransactionalID, who, m.Topics, m.Version >= 2, func(list []kmsg.AddPartitionsToTxnResponseTopic) {
		t.later(l, func(r *request) {
			resp.Topics = list
			r.respond(resp)
		})
	})
}

// addToTxn asks the coordinator; all partitions are added or none.
func (h *Handler) addToTxn(id string, who broker.ProducerIdentity, topics []kmsg.AddPartitionsToTxnRequestTopic, fenced bool, done func([]kmsg.AddPartitionsToTxnResponseTopic)) {
	var parts []broker.TopicPartition
	var out []kmsg.AddPartitionsToTxnResponseTopic
	unknown := false
	for i := range topics {
		o := kmsg.NewAddPartitionsToTxnResponseTopic()
		o.Topic = topics[i].Topic
		topic := h.broker.Topic(tenant, o.Topic)
		for _, p := range topics[i].Partitions {
			rp := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p, int16(wire.OperationNotAttempted)
			if topic == nil || topic.Partition(p) == nil {
				rp.ErrorCode, unknown = int16(wire.UnknownTopicOrPartition), true
			} else {
				parts = append(parts, broker.TopicPartition{Topic: topic.ID(), Partition: p})
			}
			o.Partitions = append(o.Partitions, rp)
		}
		out = append(out, o)
	}
	if unknown {
		done(out)
		return
	}
	h.broker.AddToTxn(tenant, id, who, parts, "", func(err error) {
		for i := range out {
			for k := range out[i].Partitions {
				out[i].Partitions[k].ErrorCode = txnCode(err, fenced)
			}
		}
		done(out)
	})
}
