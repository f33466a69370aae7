package kafka

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// txnOffsetCommit stores offsets that count when the transaction commits. From version 5 on it also makes the group part of it.
func txnOffsetCommit(r *request, m *kmsg.TxnOffsetCommitRequest) {
	resp := m.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
	tenant := r.c.tenant()
	req := &broker.CommitRequest{Group: m.Group, MemberID: m.MemberID, InstanceID: str(m.InstanceID), Generation: m.Generation}
	if m.Version < 3 {
		req.Generation = -1
	}
	b := r.c.l.h.broker
	fault := r.c.txnGroupFault(m.TransactionalID, m.Group)
	for i := range m.Topics {
		t := &m.Topics[i]
		out := kmsg.NewTxnOffsetCommitResponseTopic()
		out.Topic = t.Topic
		var id broker.TopicID
		why := error(nil)
		if topic := b.Topic(tenant, t.Topic); topic != nil {
			id = topic.ID()
		} else {
			why = broker.ErrUnknownTopic
		}
		if !r.c.mayTopic(broker.OperationRead, t.Topic) {
			why = errTopicRefused
		}
		for k := range t.Partitions {
			p := &t.Partitions[k]
			req.Offsets = append(req.Offsets, broker.OffsetCommit{TopicPartition: broker.TopicPartition{Topic: id, Partition: p.Partition}, Err: why,
				CommittedOffset: broker.CommittedOffset{Offset: offset(p.Offset), LeaderEpoch: p.LeaderEpoch, Metadata: str(p.Metadata)}})
			o := kmsg.NewTxnOffsetCommitResponseTopicPartition()
			o.Partition, o.ErrorCode = p.Partition, int16(fault)
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	if fault != wire.None {
		r.respond(resp)
		return
	}
	who := broker.ProducerIdentity{ID: m.ProducerID, Epoch: m.ProducerEpoch}
	l, t := r.c.l, r.ticket()
	answer := func(err error) {
		t.later(l, func(r *request) {
			tellTxnOffsets(resp, req, err)
			r.respond(resp)
		})
	}
	commit := func(err error) {
		if err != nil {
			answer(err)
			return
		}
		b.CommitTxnOffsets(tenant, m.TransactionalID, who, req, answer)
	}
	if m.Version >= txnV2 {
		b.AddToTxn(tenant, m.TransactionalID, who, nil, m.Group, commit)
		return
	}
	commit(nil)
}

// tellTxnOffsets answers each partition: by err, or by what is wrong with it alone.
func tellTxnOffsets(resp *kmsg.TxnOffsetCommitResponse, req *broker.CommitRequest, err error) {
	at := 0
	for i := range resp.Topics {
		for k := range resp.Topics[i].Partitions {
			why := req.Offsets[at].Err
			if err != nil {
				why = err
			}
			if errors.Is(why, broker.ErrUnknownMember) || errors.Is(why, broker.ErrIllegalGeneration) || why == nil {
				resp.Topics[i].Partitions[k].ErrorCode = coordinatorCode(why)
			} else {
				resp.Topics[i].Partitions[k].ErrorCode = txnCode(why, resp.Version >= 5)
			}
			at++
		}
	}
}
