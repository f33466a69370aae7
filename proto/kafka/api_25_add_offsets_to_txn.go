package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// addOffsetsToTxn makes the offsets of a group part of a transaction.
func addOffsetsToTxn(r *request, m *kmsg.AddOffsetsToTxnRequest) {
	resp := m.ResponseKind().(*kmsg.AddOffsetsToTxnResponse)
	if code := r.c.txnGroupFault(m.TransactionalID, m.Group); code != wire.None {
		resp.ErrorCode = int16(code)
		r.respond(resp)
		return
	}
	l, t := r.c.l, r.ticket()
	who := broker.ProducerIdentity{ID: m.ProducerID, Epoch: m.ProducerEpoch}
	l.h.broker.AddToTxn(r.c.tenant(), m.TransactionalID, who, nil, m.Group, func(err error) {
		t.later(l, func(r *request) {
			resp.ErrorCode = txnCode(err, m.Version >= 2)
			r.respond(resp)
		})
	})
}

// txnGroupFault says why the client may not commit a group's offsets with a transaction.
func (c *conn) txnGroupFault(id, group string) wire.ErrorCode {
	switch {
	case !c.mayTxn(broker.OperationWrite, id):
		return wire.TransactionalIDAuthorizationFailed
	case !c.mayGroup(broker.OperationRead, group):
		return wire.GroupAuthorizationFailed
	}
	return c.storable(c.txnFault(broker.OperationWrite, id))
}
