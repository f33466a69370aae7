package server

import (
	"sync"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/meta"
)

// txnPeers asks the nodes that lead partitions for what this one's coordinators have decided, and answers when it is this one that leads. Safe for
// concurrent use. mu is a leaf: nothing is sent, and nobody is told, under it.
type txnPeers struct {
	mesh  *link.Mesh
	core  txnCore
	clock clock.Clock
	// lead is who leads a shard, and in which epoch, as far as this node has heard; node 0: nobody. own: this node does.
	lead func(record.ShardID) (node link.NodeID, epoch record.Epoch, own bool)

	mu struct {
		sync.Mutex
		queues map[txnPeer]*txnQueue
		newest map[record.ShardID]record.Epoch // that was asked
	}
}

// txnCore is the core as it takes the requests of other nodes.
type txnCore interface {
	TopicByID(tenant uint32, id broker.TopicID) *broker.Topic
	TxnAnnounced(p *broker.Partition, lead record.Epoch, who broker.ProducerIdentity, serial uint64) error
	TxnEnded(p *broker.Partition, lead record.Epoch, who broker.ProducerIdentity, serial uint64, commit bool, done func(error))
}

var _ broker.Participants = (*txnPeers)(nil)

// txnPeer is a node, and what it is asked.
type txnPeer struct {
	node   link.NodeID
	method uint16
}

// txnQueue is what waits for the next request to a node. The first of it does not wait; what comes behind within txnTurn goes together. Guarded by mu.
type txnQueue struct {
	to      txnPeer
	waiting []txnAsked
	turning bool // a turn is to come
}

type txnAsked struct {
	item txnItem
	part *broker.Partition
	done func(error)
}

const (
	txnTurn     = time.Millisecond
	txnQueueMax = 1 << 16
	// txnReserve is how long before the asking node gives up it is told what there is.
	txnReserve = 2 * time.Second
)

// serve registers what this node does for others. Before the link has connections.
func (t *txnPeers) serve() {
	t.mesh.Serve(methodTxnAnnounce, t.serveAnnounce)
	t.mesh.Serve(methodTxnEnd, t.serveEnd)
}

// AnnounceTxn makes it a broker.Participants.
func (t *txnPeers) AnnounceTxn(p *broker.Partition, who broker.ProducerIdentity, serial uint64, done func(error)) {
	t.ask(methodTxnAnnounce, p, txnItem{who: who, serial: serial}, done)
}

// EndTxn makes it a broker.Participants.
func (t *txnPeers) EndTxn(p *broker.Partition, who broker.ProducerIdentity, serial uint64, commit bool, done func(error)) {
	t.ask(methodTxnEnd, p, txnItem{who: who, serial: serial, commit: commit}, done)
}

// ask finds the leader, and sends the request with others that go there.
func (t *txnPeers) ask(method uint16, p *broker.Partition, item txnItem, done func(error)) {
	node, epoch, own := t.lead(p.Shard())
	item.lead = epoch
	switch {
	case node == 0 || t.older(p.Shard(), epoch):
		done(broker.ErrNotLeader)
		return
	case own && method == methodTxnAnnounce:
		done(t.core.TxnAnnounced(p, epoch, item.who, item.serial))
		return
	case own:
		t.core.TxnEnded(p, epoch, item.who, item.serial, item.commit, done)
		return
	}
	spec := p.Topic().Spec()
	item.tenant, item.part = spec.Tenant, broker.TopicPartition{Topic: spec.ID, Partition: p.Index()}
	t.add(txnPeer{node, method}, txnAsked{item, p, done})
}

// older says whether a later leader of the shard was asked already: what is known of leaders may go back, what is asked of them must not.
func (t *txnPeers) older(shard record.ShardID, epoch record.Epoch) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.newest == nil {
		t.mu.newest = make(map[record.ShardID]record.Epoch)
	}
	if epoch < t.mu.newest[shard] {
		return true
	}
	t.mu.newest[shard] = epoch
	return false
}

func (t *txnPeers) add(to txnPeer, a txnAsked) {
	t.mu.Lock()
	if t.mu.queues == nil {
		t.mu.queues = make(map[txnPeer]*txnQueue)
	}
	q := t.mu.queues[to]
	if q == nil {
		q = &txnQueue{to: to}
		t.mu.queues[to] = q
	}
	if len(q.waiting) >= txnQueueMax {
		t.mu.Unlock()
		a.done(broker.ErrBusy)
		return
	}
	if q.turning {
		q.waiting = append(q.waiting, a)
		t.mu.Unlock()
		return
	}
	q.turning = true
	t.mu.Unlock()
	t.clock.AfterFunc(txnTurn, func() { t.turn(q) })
	t.send(q.to, []txnAsked{a})
}

// turn sends what has come since the last one.
func (t *txnPeers) turn(q *txnQueue) {
	t.mu.Lock()
	n := min(len(q.waiting), txnItemsMax)
	list := q.waiting[:n:n]
	if q.waiting = q.waiting[n:]; len(q.waiting) == 0 {
		q.waiting = nil
	}
	q.turning = n > 0
	t.mu.Unlock()
	if n == 0 {
		return
	}
	t.clock.AfterFunc(txnTurn, func() { t.turn(q) })
	t.send(q.to, list)
}

func (t *txnPeers) send(to txnPeer, list []txnAsked) {
	b := make([]byte, 1, 1+len(list)*txnItemSize)
	b[0] = txnWire
	for i := range list {
		b = appendTxnItem(b, &list[i].item)
	}
	failed := func(err error) {
		for i := range list {
			list[i].done(err)
		}
	}
	_, err := t.mesh.Go(to.node, to.method, b, leaderWait, func(m link.Message, err error) {
		if err != nil {
			failed(err)
			return
		}
		defer m.Release()
		codes, err := txnCodes(m.Bytes(), len(list))
		if err != nil {
			failed(err)
			return
		}
		for i, code := range codes {
			list[i].done(list[i].told(txnError(code)))
		}
	})
	if err != nil {
		failed(err)
	}
}

// told is what an answer means here: a topic that is deleted has nothing to end. One that is not, the other node has not heard of yet.
func (a *txnAsked) told(err error) error {
	if err == broker.ErrUnknownTopic && a.part.Topic().Dropped() { //nolint:errorlint // it was made of a code
		return nil
	}
	return err
}

// leader is who leads a shard, and in which epoch, as the door has it; node 0: nobody, as far as this node has heard. own: this node, which may not take commands yet.
func (k *kafkaCluster) leader(shard record.ShardID) (node link.NodeID, epoch record.Epoch, own bool) {
	v := k.View()
	at := &v.All
	if v.Shards > 0 && int(shard) >= v.Shards {
		n := (int(shard) - v.Shards) / broker.SetShards
		if n >= len(v.Sets) {
			return 0, 0, false
		}
		at = &v.Sets[n]
	}
	if at.Leader <= 0 {
		return 0, 0, false
	}
	return link.NodeID(at.Leader), record.Epoch(at.Epoch), meta.NodeID(at.Leader) == k.own
}

// partition is the one that a request names.
func (t *txnPeers) partition(i *txnItem) *broker.Partition {
	if topic := t.core.TopicByID(i.tenant, i.part.Topic); topic != nil {
		return topic.Partition(i.part.Partition)
	}
	return nil
}

func (t *txnPeers) serveAnnounce(r *link.Request) {
	list, err := decodeTxnItems(r.Body.Bytes())
	if err != nil {
		r.Fail("partitions to be announced: " + err.Error())
		return
	}
	answer := make([]byte, 1, 1+len(list))
	answer[0] = txnWire
	for i := range list {
		err := broker.ErrUnknownTopic
		if p := t.partition(&list[i]); p != nil {
			err = t.core.TxnAnnounced(p, list[i].lead, list[i].who, list[i].serial)
		}
		answer = append(answer, txnCode(err))
	}
	r.Reply(answer)
}

// serveEnd answers when the transaction is ended on all partitions of the request, or with those where it is shortly before the other node gives up.
func (t *txnPeers) serveEnd(r *link.Request) {
	list, err := decodeTxnItems(r.Body.Bytes())
	if err != nil {
		r.Fail("partitions on which to end a transaction: " + err.Error())
		return
	}
	a := &txnAnswer{r: r, left: len(list), codes: make([]byte, 1+len(list))}
	for i := range list {
		a.codes[1+i] = txnCode(errTxnLate)
	}
	a.codes[0] = txnWire
	if patience, ok := r.Remaining(); ok {
		a.timer = t.clock.AfterFunc(max(patience-txnReserve, patience/2), a.late)
	}
	for i := range list {
		if p := t.partition(&list[i]); p != nil {
			t.core.TxnEnded(p, list[i].lead, list[i].who, list[i].serial, list[i].commit, func(err error) { a.set(i, err) })
			continue
		}
		a.set(i, broker.ErrUnknownTopic)
	}
}

// txnAnswer gathers what comes of a request's partitions.
type txnAnswer struct {
	r     *link.Request
	timer clock.Timer // nil: the other node has all the time
	mu    sync.Mutex
	codes []byte // of the answer; not written to once it is given
	left  int    // 0: it is given
}

func (a *txnAnswer) set(i int, err error) {
	a.mu.Lock()
	if a.left == 0 {
		a.mu.Unlock()
		return
	}
	a.codes[1+i] = txnCode(err)
	a.left--
	all := a.left == 0
	a.mu.Unlock()
	if !all {
		return
	}
	if a.timer != nil {
		a.timer.Stop()
	}
	a.r.Reply(a.codes)
}

// late answers with what there is.
func (a *txnAnswer) late() {
	a.mu.Lock()
	waits := a.left > 0
	a.left = 0
	a.mu.Unlock()
	if waits {
		a.r.Reply(a.codes)
	}
}
