package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
)

// addOffsetsToTxn makes the offsets of a group part of a transaction.
func addOffsetsToTxn(r *request, m *kmsg.AddOffsetsToTxnRequest) {
	resp := m.ResponseKind().(*kmsg.AddOffsetsToTxnResponse)
	l, t := r.c.l, r.ticket()
	who := broker.ProducerIdentity{ID: m.ProducerID, Epoch: m.ProducerEpoch}
	l.h.broker.AddToTxn(tenant, m.TransactionalID, who, nil, m.Group, func(err error) {
		t.later(l, func(r *request) {
			resp.ErrorCode = txnCode(err, m.Version >= 2)
			r.respond(resp)
		})
	})
}
