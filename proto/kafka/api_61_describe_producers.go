package kafka

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// describeProducers shows who produces to partitions.
func describeProducers(r *request, m *kmsg.DescribeProducersRequest) {
	resp := m.ResponseKind().(*kmsg.DescribeProducersResponse)
	tenant := r.c.tenant()
	b, v := r.c.l.h.broker, r.c.l.h.view()
	for i := range m.Topics {
		out := kmsg.NewDescribeProducersResponseTopic()
		out.Topic = m.Topics[i].Topic
		topic, code := b.Topic(tenant, out.Topic), wire.UnknownTopicOrPartition
		if !r.c.mayTopic(broker.OperationRead, out.Topic) {
			topic, code = nil, wire.TopicAuthorizationFailed
		}
		for _, n := range m.Topics[i].Partitions {
			o := kmsg.NewDescribeProducersResponseTopicPartition()
			o.Partition, o.ErrorCode = n, int16(code)
			var p *broker.Partition
			if topic != nil {
				p = topic.Partition(n)
			}
			if p != nil {
				o.ErrorCode = int16(r.c.l.h.leaderFault(v.of(p), p, -1))
			}
			if o.ErrorCode == 0 {
				for _, d := range b.DescribeProducers(p) {
					a := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
					a.ProducerID, a.ProducerEpoch, a.LastSequence, a.LastTimestamp = d.ID, int32(d.Epoch), d.LastSequence, d.LastTimestamp
					a.CoordinatorEpoch, a.CurrentTxnStartOffset = 0, int64(d.TxnStart)
					o.ActiveProducers = append(o.ActiveProducers, a)
				}
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	r.respond(resp)
}

// describeTransactions shows transactional ids.
func describeTransactions(r *request, m *kmsg.DescribeTransactionsRequest) {
	resp := m.ResponseKind().(*kmsg.DescribeTransactionsResponse)
	tenant := r.c.tenant()
	resp.TransactionStates = make([]kmsg.DescribeTransactionsResponseTransactionState, len(m.TransactionalIDs))
	b, c := r.c.l.h.broker, r.c
	gather(r, resp, len(m.TransactionalIDs), func(i int, done func()) {
		if code := c.txnFault(broker.OperationDescribe, m.TransactionalIDs[i]); code != wire.None {
			o := kmsg.NewDescribeTransactionsResponseTransactionState()
			o.TransactionalID, o.ErrorCode = m.TransactionalIDs[i], int16(code)
			resp.TransactionStates[i] = o
			done()
			return
		}
		b.DescribeTxn(tenant, m.TransactionalIDs[i], func(d broker.TxnDescription) {
			o := kmsg.NewDescribeTransactionsResponseTransactionState()
			o.TransactionalID, o.State, o.ErrorCode = d.ID, d.State.String(), coordinatorCode(d.Err)
			o.TimeoutMillis, o.StartTimestamp, o.ProducerID, o.ProducerEpoch = int32(d.Timeout/time.Millisecond), d.Started, d.Producer.ID, d.Producer.Epoch
			for _, run := range byTopic(d.Partitions) {
				if topic := b.TopicByID(tenant, run.topic); topic != nil && c.mayName(topic.Name()) {
					t := kmsg.NewDescribeTransactionsResponseTransactionStateTopic()
					t.Topic, t.Partitions = topic.Name(), run.partitions
					o.Topics = append(o.Topics, t)
				}
			}
			resp.TransactionStates[i] = o
			done()
		})
	})
}

// listTransactions names transactional ids.
func listTransactions(r *request, m *kmsg.ListTransactionsRequest) {
	resp := m.ResponseKind().(*kmsg.ListTransactionsResponse)
	l, t := r.c.l, r.ticket()
	now := l.loop.NowUnixMilli()
	l.h.broker.ListTxns(r.c.tenant(), func(list []broker.TxnDescription) {
		t.later(l, func(r *request) {
			for i := range list {
				d := &list[i]
				if !r.c.mayTxn(broker.OperationDescribe, d.ID) {
					continue
				}
				if !among(m.StateFilters, d.State.String()) || !amongIDs(m.ProducerIDFilters, d.Producer.ID) ||
					m.DurationFilterMillis >= 0 && (d.Started < 0 || now-d.Started < m.DurationFilterMillis) {
					continue
				}
				o := kmsg.NewListTransactionsResponseTransactionState()
				o.TransactionalID, o.ProducerID, o.TransactionState = d.ID, d.Producer.ID, d.State.String()
				resp.TransactionStates = append(resp.TransactionStates, o)
			}
			r.respond(resp)
		})
	})
}

func amongIDs(filter []int64, id int64) bool {
	for _, f := range filter {
		if f == id {
			return true
		}
	}
	return len(filter) == 0
}
