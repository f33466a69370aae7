package kafka

import (
	"errors"
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
	least   []int32 // of each result, how many replicas have to be in sync for it; 0: the leader's log is enough
	left    int     // batches whose commit is awaited
	next    int     // the partition to go on with when the request comes again
	joined  int     // one more than the partition for whose sake the coordinator was asked; 0: it was not
	refused error   // what the coordinator said
	over    bool    // it was answered though not all is decided
	waiter  *request
	timer   broker.LoopTimer
	expire  func() // answers waiter; made once
}

type producedTopic struct {
	name       int // where it ends in names
	id         wire.UUID
	partitions int
}

func (p *produceState) reset() {
	clear(p.results) // messages
	*p = produceState{names: p.names[:0], topics: p.topics[:0], results: p.results[:0], least: p.least[:0], expire: p.expire}
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
		c.appender = c.l.core.NewAppender(c)
	}
	r.silent = m.Acks == 0
	fault := c.producePrecheck(&m)
	v := c.l.h.view()
	at := 0
	var topic *broker.Topic
	for p := m.Data(); p.Next(); at++ {
		if p.First {
			topic = c.topicOf(p.Topic, p.TopicID, q.Version >= 13)
		}
		if at < s.next {
			continue
		}
		if p.First {
			s.names = append(s.names, p.Topic...)
			s.topics = append(s.topics, producedTopic{name: len(s.names), id: p.TopicID, partitions: p.Count})
		}
		res := wire.ProduceResult{Index: p.Index, Code: fault, BaseOffset: -1, LogAppendTime: -1, LogStartOffset: -1}
		pending := false
		if fault == wire.None {
			pending, err = c.append(v, r, at, topic, &p, &m, &res)
			if errors.Is(err, broker.ErrBusy) {
				return r.comeAgain(at, p.First, blockBusy), nil
			}
			if errors.Is(err, errJoin) {
				r.comeAgain(at, p.First, blockJoin)
				r.join(at, q.Version, &m)
				return false, nil
			}
		}
		if pending {
			s.left++
		}
		s.results = append(s.results, res)
		s.least = append(s.least, leastOf(topic, m.Acks))
	}
	c.resumed = nil
	if r.silent {
		return true, r.finishSilent()
	}
	if s.left == 0 {
		r.produced()
	} else if c.l.h.cluster != nil {
		s.await(r, time.Duration(max(m.TimeoutMS, 0))*time.Millisecond)
	}
	return true, nil
}

// leastOf says how many replicas of a topic have to be in sync for a batch; 0: nobody is waited for.
func leastOf(topic *broker.Topic, acks int16) int32 {
	if topic == nil || acks != -1 {
		return 0
	}
	return max(topic.Spec().Config.MinInsyncReplicas, 1)
}

// few says whether too few replicas are in sync for a result's batch, which was stored when there were enough.
func (p *produceState) few(h *Handler, v *View, at int) bool {
	return h.cluster != nil && p.least[at] > 0 && v.All.few(int(p.least[at]))
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

// await bounds how long the request waits for other replicas.
func (p *produceState) await(r *request, timeout time.Duration) {
	if p.expire == nil {
		p.expire = func() { p.waiter.expire() }
	}
	p.waiter = r
	r.c.l.core.SetTimer(&p.timer, timeout, p.expire)
}

// expire answers a request whose time is over. What is on its way may be committed yet: an idempotent producer sends it again, and loses nothing.
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
func (r *request) comeAgain(at int, first bool, why uint8) (took bool) {
	c, s := r.c, r.produce
	if first { // its topic comes again
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
func (c *conn) append(v *View, r *request, at int, topic *broker.Topic, p *wire.ProduceReader, m *wire.ProduceRequest, res *wire.ProduceResult) (pending bool, err error) {
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
	part := topic.Partition(p.Index)
	if part == nil {
		res.Code = wire.UnknownTopicOrPartition
		return false, nil
	}
	pl, spec := v.of(part), topic.Spec()
	cfg := &spec.Config
	if res.Code = c.l.h.leaderFault(pl, -1); res.Code == wire.None && m.Acks == -1 && c.l.h.cluster != nil && pl.few(int(cfg.MinInsyncReplicas)) {
		res.Code = wire.NotEnoughReplicas
	}
	if res.Code != wire.None {
		return false, nil
	}
	limits := wire.BatchLimits{Version: r.call.Version, MaxBytes: int(cfg.MaxMessageBytes), SegmentBytes: int(cfg.SegmentBytes), Records: true, Keys: cfg.Compact}
	checked, err := wire.CheckProduced(p.Records, &limits)
	if err != nil {
		res.Code, res.Message = wire.CodeOf(err), err.Error()
		return false, nil
	}
	o := broker.AppendOptions{Transactional: m.TransactionalID != nil, Silent: r.silent, Leader: m.Acks == 1, Held: c.link.Held()}
	err = c.l.core.Append(c.appender, part, checked.Batch, o, appendToken(r, at))
	if errors.Is(err, broker.ErrTxnNotAnnounced) && r.call.Version >= produceJoins && o.Transactional {
		switch s := r.produce; {
		case s.refused != nil:
			err = s.refused
		case s.joined != at+1:
			return false, errJoin
		}
	}
	if err != nil {
		res.Code = codeOf(err)
		return false, err
	}
	return !r.silent, nil
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
	v, moved := r.c.l.h.view(), false
	var b wire.ProduceResponseBuilder
	b.Begin(r.buffer(), r.call, len(s.topics))
	from, at := 0, 0
	for i := range s.topics {
		t := &s.topics[i]
		b.Topic(s.names[from:t.name], t.id, t.partitions)
		from = t.name
		for range t.partitions {
			res := &s.results[at]
			res.Leader = movedTo(v, v.of(nil), res.Code)
			moved = moved || res.Leader.Known
			b.Partition(res)
			at++
		}
	}
	r.out = b.Finish(r.throttleMS(), r.c.leaderNodes(v, moved))
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

// join has the coordinator add the partitions of the request from the one at on. The connection is not read from meanwhile, so that no
// batch of a later request comes before those that wait.
func (r *request) join(at int, version int16, m *wire.ProduceRequest) {
	c, l, t := r.c, r.c.l, r.ticket()
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
		if part := topic.Partition(p.Index); part != nil {
			parts = append(parts, broker.TopicPartition{Topic: topic.ID(), Partition: part.Index()})
		}
	}
	r.produce.joined = at + 1
	l.h.broker.AddToTxn(r.c.tenant(), string(m.TransactionalID), who, parts, "", func(err error) {
		t.later(l, func(r *request) {
			r.produce.refused = err
			r.c.unblock(blockJoin)
		})
	})
}
