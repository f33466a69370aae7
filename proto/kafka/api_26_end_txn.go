package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// txnV2 is from when on EndTxn raises the producer's epoch each time (KIP-890).
const txnV2 = 5

// endTxn commits or aborts a transaction. It is answered when readers see what came of it, or, where a partition has no leader at the moment, when that is decided, as
// in Kafka.
func endTxn(r *request, m *kmsg.EndTxnRequest) {
	resp := m.ResponseKind().(*kmsg.EndTxnResponse)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if code := r.c.storable(r.c.txnFault(broker.OperationWrite, m.TransactionalID)); code != wire.None {
		resp.ErrorCode = int16(code)
		r.respond(resp)
		return
	}
	l, t := r.c.l, r.ticket()
	who := broker.ProducerIdentity{ID: m.ProducerID, Epoch: m.ProducerEpoch}
	l.h.broker.EndTxn(r.c.tenant(), m.TransactionalID, who, m.Commit, m.Version >= txnV2, func(who broker.ProducerIdentity, err error) {
		t.later(l, func(r *request) {
			if resp.ErrorCode = txnCode(err, m.Version >= 2); err == nil {
				resp.ProducerID, resp.ProducerEpoch = who.ID, who.Epoch
			}
			r.respond(resp)
		})
	})
}
