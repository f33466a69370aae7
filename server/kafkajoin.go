package server

import (
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/cluster/link"
)

// JoinTxn makes it a kafka.Leader: the coordinators are at the node that leads the sessions, which may be this one.
func (k *kafkaLeader) JoinTxn(tenant uint32, id string, who broker.ProducerIdentity, parts []broker.TopicPartition, verify bool, done func(error)) {
	j := txnJoin{tenant, id, who, parts, verify}
	if k.cluster.View().All.Leads {
		k.join(&j, done)
		return
	}
	body, err := j.encode()
	if err != nil {
		done(err)
		return
	}
	k.ask(methodTxnJoin, body, func(b []byte, err error) {
		if err != nil {
			done(err)
			return
		}
		codes, err := txnCodes(b, 1)
		if err != nil {
			done(err)
			return
		}
		done(txnError(codes[0]))
	})
}

func (k *kafkaLeader) serveJoin(r *link.Request) {
	j, err := decodeTxnJoin(r.Body.Bytes())
	if err != nil {
		r.Fail("a transaction to be joined: " + err.Error())
		return
	}
	k.join(&j, func(err error) { r.Reply([]byte{txnWire, txnCode(err)}) })
}

// join asks this node's coordinator. One that does not lead knows of no transactional id, and must not say that there is none.
func (k *kafkaLeader) join(j *txnJoin, done func(error)) {
	if !k.cluster.View().All.Leads || !k.broker.Leading() {
		done(broker.ErrNotLeader)
		return
	}
	k.broker.JoinTxn(j.tenant, j.id, j.who, j.parts, j.verify, done)
}
