package kafka

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// initProducerID gives a producer its id and epoch.
func initProducerID(r *request, m *kmsg.InitProducerIDRequest) {
	resp := m.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if code := r.c.producerFault(m); code != wire.None {
		resp.ErrorCode = int16(code)
		r.respond(resp)
		return
	}
	have := broker.ProducerIdentity{ID: m.ProducerID, Epoch: m.ProducerEpoch}
	if m.Version < 3 {
		have = broker.ProducerIdentity{ID: -1, Epoch: -1}
	}
	if m.TransactionalID != nil && *m.TransactionalID == "" || (have.ID >= 0) != (have.Epoch >= 0) {
		resp.ErrorCode = int16(wire.InvalidRequest)
		r.respond(resp)
		return
	}
	l, t := r.c.l, r.ticket()
	if m.TransactionalID == nil && !l.h.coordinates() {
		l.h.producerIDElsewhere(func(id int64, err error) {
			t.later(l, func(r *request) {
				// A producer without transactions has no coordinator that it could look for: it comes again, to this node or another.
				if resp.ErrorCode = int16(wire.CoordinatorLoadInProgress); err == nil {
					resp.ErrorCode, resp.ProducerID, resp.ProducerEpoch = 0, id, 0
				}
				r.respond(resp)
			})
		})
		return
	}
	l.h.broker.InitProducer(r.c.tenant(), str(m.TransactionalID), millis(m.TransactionTimeoutMillis), have, func(who broker.ProducerIdentity, err error) {
		t.later(l, func(r *request) {
			resp.ErrorCode, resp.ProducerID, resp.ProducerEpoch = txnCode(err, m.Version >= 4), who.ID, who.Epoch
			r.respond(resp)
		})
	})
}

// producerIDElsewhere has the leader give an id.
func (h *Handler) producerIDElsewhere(done func(int64, error)) {
	if h.leader == nil {
		done(-1, broker.ErrNotLeader)
		return
	}
	h.leader.ProducerID(done)
}

// producerFault says why the client may not have a producer id: with a transactional id it may write to that, else to some topic.
func (c *conn) producerFault(m *kmsg.InitProducerIDRequest) wire.ErrorCode {
	switch {
	case c.l.h.authz == nil:
	case m.TransactionalID != nil && !c.mayTxn(broker.OperationWrite, *m.TransactionalID):
		return wire.TransactionalIDAuthorizationFailed
	case m.TransactionalID == nil && !c.mayProduceSomewhere():
		return wire.ClusterAuthorizationFailed
	}
	if m.TransactionalID != nil && !c.l.h.coordinates() {
		return wire.NotCoordinator
	}
	if m.TransactionalID != nil {
		return c.storable(wire.None)
	}
	return wire.None
}

// txnCode is the code of an error of the transaction coordinator. Older versions know a fenced producer by another name.
func txnCode(err error, fenced bool) int16 {
	if errors.Is(err, broker.ErrProducerFenced) && !fenced {
		return int16(wire.InvalidProducerEpoch)
	}
	return coordinatorCode(err)
}
