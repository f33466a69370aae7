package kafka

import (
	"errors"
	"math"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// produceState is a produce request under way: what came of each partition, in the order of the request. Its slices are reused.
type produceState struct {
	names   []byte // of the topics, one behind the other
	topics  []producedTopic
	results []wire.ProduceResult
	needs   []produceNeed
	left    int   // batches whose commit is awaited
	next    int   // the partition to go on with when the request comes again
	joined  int   // one more than the partition for whose sake the coordinator was asked; 0: it was not
	refused error // what the coordinator said
	over    bool  // its time is: it is answered, though not all is decided, as soon as the rest of it has been read
	timed   bool  // it waits until its time is over
	waiter  *request
	timer   broker.LoopTimer
	expire  func() // answers waiter; made once
}

// produceNeed is what a result's batch is to be on.
type produceNeed struct {
	least int16 // how many replicas have to be in sync for it; 0: the leader's log is enough
	set   uint8 // of shards
}

type producedTopic struct {
	name       int // where it ends in names
	id         wire.UUID
	partitions int
}

func (p *produceState) reset() {
	clear(p.results) // messages
	*p = produceState{names: p.names[:0], topics: p.topics[:0], results: p.results[:0], needs: p.needs[:0], expire: p.expire}
}

// produce appends batches to partitions. On a node that is alone it is answered when all of them are as durable as the node's mode says, whatever
// acks asks for, but for acks=0, which is not answered at all. Where there are replicas, acks=1 waits for this node alone.
func produce(r *request, q *wire.Request) (took bool, err error) {
	m, err := wire.DecodeProduceRequest(q.Body, q.Version)
	if err != nil {
		return false, err
	}
	c, s := r.c, r.producing()
	if c.appender == nil {
		c.appender = &appender{Appender: c.l.core.NewAppender(c)}
	}
	r.silent = m.Acks == 0
	fault := c.producePrecheck(&m)
	v := c.l.h.view()
	at := 0
	var topic *broker.Topic
	var part *broker.Partition
	for p := m.Data(); p.Next(); at++ {
		if p.First {
			topic = c.topicOf(p.Topic, p.TopicID, q.Version >= 13)
		}
		if at < s.next {
			continue
		}
		if part = nil; topic != nil {
			part = topic.Partition(p.Index)
		}
		if p.First {
			s.names = append(s.names, p.Topic...)
			s.topics = append(s.topics, producedTopic{name: len(s.names), id: p.TopicID, partitions: p.Count})
		}
		res := wire.ProduceResult{Index: p.Index, Code: fault, BaseOffset: -1, LogAppendTime: -1, LogStartOffset: -1}
		pending := false
		need := v.needOf(topic, part, m.Acks)
		if fault == wire.None {
			if len(v.Sets) > 0 && part != nil && c.l.awaitsSet(int(need.set)) && !s.over {
				return r.comeAgain(at, &p, &m, blockLeader), nil
			}
			pending, err = c.append(v, r, at, topic, part, &p, &m, &res)
			if errors.Is(err, broker.ErrBusy) {
				return r.comeAgain(at, &p, &m, blockBusy), nil
			}
			if errors.Is(err, errJoin) {
				r.comeAgain(at, &p, &m, blockJoin)
				r.join(at, q.Version, &m, need.set != 0)
				return false, nil
			}
		}
		if pending {
			s.left++
		}
		s.results = append(s.results, res)
		s.needs = append(s.needs, need)
	}
	c.resumed = nil
	if r.silent {
		return true, r.finishSilent()
	}
	if s.left == 0 {
		r.produced()
	} else {
		s.await(r, &m)
	}
	return true, nil
}

// needOf says what a batch for a partition is to be on; either may be nil.
func (v *View) needOf(topic *broker.Topic, p *broker.Partition, acks int16) (n produceNeed) {
	if p != nil {
		n.set = uint8(v.setOf(p))
	}
	if topic != nil && acks == -1 {
		n.least = int16(min(max(topic.Spec().Config.MinInsyncReplicas, 1), math.MaxInt16)) // of fewer nodes than that
	}
	return n
}

// few says whether too few replicas are in sync for a result's batch, which was stored when there were enough.
func (p *produceState) few(h *Handler, v *View, at int) bool {
	n := p.needs[at]
	return h.cluster != nil && n.least > 0 && v.set(int(n.set)).few(int(n.least))
}

// reconsider answers for what waits for replicas of which there are too few by now, as Kafka does. It may be committed yet: an idempotent producer sends it
// again, and loses nothing. The request may be gone when it returns.
func (p *produceState) reconsider(r *request, v *View) {
	if p.over || p.left == 0 || r.c.resumed == r {
		return
	}
	for i := range p.results {
		if res := &p.results[i]; res.Code == wire.None && res.BaseOffset < 0 && p.few(r.c.l.h, v, i) {
			res.Code = wire.NotEnoughReplicasAfterAppend
			p.left--
		}
	}
	if p.left == 0 {
		r.produced()
	}
}

// await bounds how long the request waits where there are other replicas: for them, and for room while they are slow, both together.
func (p *produceState) await(r *request, m *wire.ProduceRequest) {
	if p.timed || r.silent || r.c.l.h.cluster == nil {
		return
	}
	if p.expire == nil {
		p.expire = func() { p.waiter.expire() }
	}
	p.waiter, p.timed = r, true
	r.c.l.core.SetTimer(&p.timer, time.Duration(max(m.TimeoutMS, 0))*time.Millisecond, p.expire)
}

// expire answers a request whose time is over. What is on its way may be committed yet: an idempotent producer sends it again, and loses nothing. What has had no room
// is not taken any more: the rest of the request is read for that, as it lies before the next one.
func (r *request) expire() {
	s := r.produce
	for i := range s.results {
		if p := &s.results[i]; p.Code == wire.None && p.BaseOffset < 0 {
			if p.Code = wire.RequestTimedOut; s.few(r.c.l.h, r.c.l.h.view(), i) {
				p.Code = wire.NotEnoughReplicasAfterAppend
			}
		}
	}
	s.left, s.over = 0, true
	if r.c.resumed == r {
		r.c.unblock(blockBusy | blockLeader)
		return
	}
	r.produced()
}

// producePrecheck is what is wrong with the request as a whole.
func (c *conn) producePrecheck(m *wire.ProduceRequest) wire.ErrorCode {
	switch {
	case m.TransactionalID != nil && !c.mayTxn(broker.OperationWrite, string(m.TransactionalID)):
		return wire.TransactionalIDAuthorizationFailed
	case m.Acks < -1 || m.Acks > 1:
		return wire.InvalidRequiredAcks
	}
	return wire.None
}

// comeAgain has the rest of the request wait until a reason for not reading is gone: what was appended stays so.
func (r *request) comeAgain(at int, p *wire.ProduceReader, m *wire.ProduceRequest, why uint8) (took bool) {
	c, s := r.c, r.produce
	s.await(r, m)
	if p.First { // its topic comes again
		n := len(s.topics) - 1
		s.topics = s.topics[:n]
		s.names = s.names[:0]
		if n > 0 {
			s.names = s.names[:s.topics[n-1].name]
		}
	}
	s.next = at
	c.resumed = r
	c.block(why)
	return false
}

// append hands one batch to the core. pending: its Appended follows.
func (c *conn) append(v *View, r *request, at int, topic *broker.Topic, part *broker.Partition, p *wire.ProduceReader, m *wire.ProduceRequest, res *wire.ProduceResult) (pending bool, err error) {
	if topic == nil {
		switch res.Code = wire.UnknownTopicOrPartition; {
		case p.Topic == nil:
			res.Code = wire.UnknownTopicID
		case !c.mayTopic(broker.OperationWrite, string(p.Topic)):
			res.Code = wire.TopicAuthorizationFailed
		}
		return false, nil
	}
	if !c.mayUse(broker.OperationWrite, topic) {
		res.Code = wire.TopicAuthorizationFailed
		return false, nil
	}
	if part == nil {
		res.Code = wire.UnknownTopicOrPartition
		return false, nil
	}
	pl, spec := v.of(part), topic.Spec()
	cfg := &spec.Config
	if res.Code = c.l.h.leaderFault(pl, part, -1); res.Code == wire.None && m.Acks == -1 && c.l.h.cluster != nil && pl.few(int(cfg.MinInsyncReplicas)) {
		res.Code = wire.NotEnoughReplicas
	}
	if res.Code != wire.None {
		c.refused(part, p.Records, res.Code)
		return false, nil
	}
	limits := wire.BatchLimits{Version: r.call.Version, MaxBytes: int(cfg.MaxMessageBytes), SegmentBytes: int(cfg.SegmentBytes), Records: true, Keys: cfg.Compact}
	checked, err := wire.CheckProduced(p.Records, &limits)
	if err != nil {
		res.Code, res.Message = wire.CodeOf(err), err.Error()
		return false, nil
	}
	if r.produce.over {
		res.Code = wire.RequestTimedOut
		c.refused(part, checked.Batch, res.Code)
		return false, nil
	}
	behind, code := c.behind(pl, part, checked.Batch)
	if code != wire.None {
		res.Code, res.Message = code, "it is behind a batch that was not stored"
		return false, nil
	}
	o := broker.AppendOptions{Transactional: m.TransactionalID != nil, Silent: r.silent, Leader: m.Acks == 1, Later: behind, Held: c.link.Held()}
	err = c.l.core.Append(c.appender.Appender, part, checked.Batch, o, appendToken(r, at))
	if errors.Is(err, broker.ErrTxnNotAnnounced) && o.Transactional && (r.call.Version >= produceJoins || v.setOf(part) > 0) {
		switch s := r.produce; {
		case s.refused != nil:
			err = s.refused
		case s.joined != at+1:
			return false, errJoin
		}
	}
	if errors.Is(err, broker.ErrBusy) {
		return false, err
	}
	res.Code = c.appendFault(part, checked.Batch, behind, err)
	return err == nil && !r.silent, err
}

// topicOf finds a topic of the client's tenant by name or id. The name is a view.
func (c *conn) topicOf(name []byte, id wire.UUID, byID bool) (t *broker.Topic) {
	l, tenant := c.l, c.tenant()
	if byID {
		return l.h.broker.TopicByID(tenant, broker.TopicID(id))
	}
	if tenant == 0 {
		t = l.topics[string(name)]
	} else {
		t = l.tenantTopics[tenantTopic{tenant, string(name)}]
	}
	if t != nil && !t.Dropped() {
		return t
	}
	if t = l.h.broker.Topic(tenant, string(name)); t != nil {
		l.keepTopic(tenant, string(name), t)
	}
	return t
}

// topicsKept bounds the topics that a loop finds without making a string of their names: those of the default tenant, and those of all others.
const topicsKept = 1 << 14

// tenantTopic is a topic's name where there are several tenants.
type tenantTopic struct {
	tenant uint32
	name   string
}

func (l *loopState) keepTopic(tenant uint32, name string, t *broker.Topic) {
	if tenant == 0 {
		if len(l.topics) >= topicsKept || l.topics == nil {
			l.topics = make(map[string]*broker.Topic)
		}
		l.topics[name] = t
		return
	}
	if len(l.tenantTopics) >= topicsKept || l.tenantTopics == nil {
		l.tenantTopics = make(map[tenantTopic]*broker.Topic)
	}
	l.tenantTopics[tenantTopic{tenant, name}] = t
}

// appendToken names a partition of a request under way: the place of the request among the loop's, its serial, the partition's place.
func appendToken(r *request, at int) broker.Token {
	return broker.Token(uint64(r.slot)<<40 | uint64(uint16(r.serial))<<24 | uint64(at))
}

// Appended is the core's word that a batch is committed, or could not be.
func (c *conn) Appended(t broker.Token, res broker.AppendResult) {
	if f := res.Failed; f != nil {
		c.failed(f.Partition, f.Producer, f.Epoch, f.First, codeOf(res.Err))
	}
	r := c.l.slots[t>>40]
	if uint16(r.serial) != uint16(t>>24) || r.c != c {
		return // the connection had ended, and r is somebody else's
	}
	s := r.produce
	if s.over {
		return
	}
	at := int(t & (1<<24 - 1))
	p := &s.results[at]
	if p.Code != wire.None {
		return // it was answered for: reconsider
	}
	if p.Code = codeOf(res.Err); res.Err == nil && s.few(c.l.h, c.l.h.view(), at) {
		p.Code = wire.NotEnoughReplicasAfterAppend
	} else if res.Err == nil {
		p.BaseOffset, p.LogAppendTime, p.LogStartOffset = int64(res.Base), res.AppendTime, int64(res.LogStart)
	}
	if s.left--; s.left == 0 && c.resumed != r {
		r.produced()
	}
}

// produced answers: all partitions are decided.
func (r *request) produced() {
	s := r.produce
	r.c.l.core.StopTimer(&s.timer)
	v := r.c.l.h.view()
	var leaders []wire.Node
	var b wire.ProduceResponseBuilder
	b.Begin(r.buffer(), r.call, len(s.topics))
	from, at := 0, 0
	for i := range s.topics {
		t := &s.topics[i]
		b.Topic(s.names[from:t.name], t.id, t.partitions)
		from = t.name
		for range t.partitions {
			res := &s.results[at]
			pl := v.set(int(s.needs[at].set))
			if res.Leader = movedTo(pl, res.Code); res.Leader.Known {
				leaders = r.c.nameLeader(v, leaders, pl)
			}
			b.Partition(res)
			at++
		}
	}
	r.out = b.Finish(r.throttleMS(), leaders)
	r.finish()
}

// finishSilent ends a request that is not answered. Kafka tells of a fault by closing the connection.
func (r *request) finishSilent() error {
	for i := range r.produce.results {
		if code := r.produce.results[i].Code; code != wire.None {
			return errors.New("produce with acks=0 refused: " + code.String())
		}
	}
	r.finish()
	return nil
}

// produceJoins is from when on a transactional batch makes its partition part of the transaction (KIP-890).
const produceJoins = 12

// errJoin says that a batch's partition has to become part of the transaction first.
var errJoin = errors.New("the partition is not part of the transaction yet")

// join has the coordinator add the partitions of the request from the one at on, or find that they were added where the client does so itself. elsewhere: it may
// be another node, as those that lead other shards do not hear of it when they begin. The connection is not read from meanwhile, so that no batch of a later
// request comes before those that wait.
func (r *request) join(at int, version int16, m *wire.ProduceRequest, elsewhere bool) {
	c, l, t, v := r.c, r.c.l, r.ticket(), r.c.l.h.view()
	var who broker.ProducerIdentity
	var parts []broker.TopicPartition
	var topic *broker.Topic
	i := 0
	for p := m.Data(); p.Next(); i++ {
		if p.First {
			topic = c.topicOf(p.Topic, p.TopicID, version >= 13)
		}
		if i < at || topic == nil || !c.mayUse(broker.OperationWrite, topic) {
			continue
		}
		if i == at { // its batch was found sound
			b := record.Batch(p.Records)
			who = broker.ProducerIdentity{ID: b.ProducerID(), Epoch: b.ProducerEpoch()}
		}
		if part := topic.Partition(p.Index); part != nil && l.h.leadsPart(v.of(part), part) { // the others' batches are refused
			parts = append(parts, broker.TopicPartition{Topic: topic.ID(), Partition: part.Index()})
		}
	}
	r.produce.joined = at + 1
	joined := func(err error) {
		t.later(l, func(r *request) {
			r.produce.refused = err
			r.c.unblock(blockJoin)
		})
	}
	tenant, id := r.c.tenant(), string(m.TransactionalID)
	switch {
	case !elsewhere:
		l.h.broker.AddToTxn(tenant, id, who, parts, "", joined)
	case l.h.leader == nil:
		joined(errCoordinator)
	default:
		joins := version >= produceJoins
		l.h.leader.JoinTxn(tenant, id, who, parts, !joins, func(err error) { joined(joinFault(err, joins)) })
	}
}

// errCoordinator says that the coordinator of a batch's transaction could not be asked. Clients come again with the batch.
var errCoordinator = errors.New("the transaction's coordinator cannot be asked now")

// joinFault is what a client hears for what came of asking a coordinator elsewhere. Those that do not know that a batch makes its partition part of the
// transaction do not come again for what only a coordinator says, as Kafka has found.
func joinFault(err error, joins bool) error {
	switch code := codeOf(err); {
	case err == nil:
		return nil
	case code == wire.ConcurrentTransactions && joins:
		return err
	case code == wire.ConcurrentTransactions, code == wire.NotLeaderOrFollower, code == wire.CoordinatorNotAvailable, code == wire.KafkaStorageError, code == wire.UnknownServerError, code == wire.NotEnoughReplicas:
		return errCoordinator
	}
	return err
}
