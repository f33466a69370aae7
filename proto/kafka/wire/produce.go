package wire

import "github.com/sluicemq/sluice/internal/invariant"

// From these versions on Produce has the fields named.
const (
	produceLogStart = 5  // LogStartOffset
	produceErrors   = 8  // RecordErrors, ErrorMessage
	produceLeader   = 10 // CurrentLeader, NodeEndpoints
	produceTopicID  = 13 // topic ids in place of names
)

// ProduceRequest is a Produce request: a view of its body.
type ProduceRequest struct {
	TransactionalID []byte // nil: none
	Acks            int16  // -1, 0 or 1; other values are refused with InvalidRequiredAcks
	TimeoutMS       int32
	Topics          int // number of topics that have partitions
	Partitions      int // number of partitions of all topics
	data            ProduceReader
}

// DecodeProduceRequest reads a Produce request of a supported version. All of the request is checked, record bytes aside, so that
// a walk over its partitions meets no surprise after the first of them was appended.
func DecodeProduceRequest(body []byte, version int16) (ProduceRequest, error) {
	r := reader{rest: body, flex: Produce.Flexible(version)}
	q := ProduceRequest{TransactionalID: r.stringOrNull(), Acks: r.int16(), TimeoutMS: r.int32()}
	topics := r.count(minProduceTopic)
	q.data = ProduceReader{r: r, version: version, topics: topics}
	for range topics {
		takeTopic(&r, version >= produceTopicID)
		n := r.count(minProducePartition)
		for range n {
			r.int32()
			r.bytesOrNull()
			r.endTags()
		}
		r.endTags()
		if n > 0 {
			q.Topics++
			q.Partitions += n
		}
	}
	r.endTags()
	if r.bad {
		return ProduceRequest{}, ErrMalformed
	}
	return q, nil
}

// The least bytes that a topic and a partition take, in any version.
const (
	minProduceTopic     = 3 // empty name, no partitions, no tags
	minProducePartition = 6 // index, null records, no tags
)

// takeTopic takes a topic's name or id. A name is never nil.
func takeTopic(r *reader, byID bool) (name []byte, id UUID) {
	if byID {
		return nil, r.uuid()
	}
	return r.string(), UUID{}
}

// Data begins a walk over the partitions.
func (q *ProduceRequest) Data() ProduceReader { return q.data }

// ProduceReader walks over the partitions of a Produce request in their order; topics without any are left out. It is a value:
// keep it on the stack. What Next moved to stands in its fields, which are views.
//
//	for p := q.Data(); p.Next(); {
//		use(p.Topic, p.Index, p.Records)
//	}
type ProduceReader struct {
	Topic   []byte // nil from version 13 on
	TopicID UUID   // from version 13 on
	First   bool   // this is the first partition of its topic
	Count   int    // number of partitions of the topic
	Index   int32
	Records []byte // the record set; nil: null

	r       reader
	version int16
	topics  int // not begun
	left    int // partitions of this topic that are left
}

// Next moves to the next partition and tells whether there is one.
func (p *ProduceReader) Next() bool {
	p.First = false
	for p.left == 0 {
		if p.topics == 0 {
			return false
		}
		p.topics--
		p.Topic, p.TopicID = takeTopic(&p.r, p.version >= produceTopicID)
		p.Count = p.r.count(minProducePartition)
		p.left, p.First = p.Count, true
		if p.left == 0 {
			p.r.endTags()
		}
	}
	p.left--
	p.Index = p.r.int32()
	p.Records = p.r.bytesOrNull()
	p.r.endTags()
	if p.left == 0 {
		p.r.endTags()
	}
	return !p.r.bad
}

// Leader tells a client where the leader of a partition is. The zero value says nothing.
type Leader struct {
	Known bool
	ID    int32 // node
	Epoch int32
}

// Node is the address of a node that a Leader names.
type Node struct {
	ID   int32
	Host string
	Port int32
	Rack string // empty: none
}

// RecordError says what is wrong with one record of a batch.
type RecordError struct {
	Index   int32 // of the record in the batch
	Message string
}

// ProduceResult is the outcome of one partition. When Code is not None, Kafka has -1 for the three numbers behind it.
type ProduceResult struct {
	Index          int32
	Code           ErrorCode
	BaseOffset     int64
	LogAppendTime  int64 // milliseconds of Unix time; -1 unless the topic's timestamps are the broker's
	LogStartOffset int64
	RecordErrors   []RecordError // records that caused the batch to be refused
	Message        string        // why, for all of them; empty: null
	Leader         Leader        // with NotLeaderOrFollower
}

// ProduceResponseBuilder appends one Produce response to a caller's buffer. Its zero value is ready for Begin; it keeps the buffer
// until Finish. There must be as many topics and partitions as were announced, in the order of the request.
type ProduceResponseBuilder struct {
	buf     []byte
	start   int
	version int16
	flex    bool
	topics  int // not begun
	left    int // partitions of this topic that are missing
}

// Begin starts the response to c at the end of dst.
func (b *ProduceResponseBuilder) Begin(dst []byte, c Call, topics int) {
	b.version, b.flex = c.Version, c.Key.Flexible(c.Version)
	b.topics, b.left = topics, 0
	dst, b.start = BeginResponse(dst, c)
	b.buf = appendCount(dst, b.flex, topics)
}

// Topic starts a topic, by name before version 13 and by id from there on.
func (b *ProduceResponseBuilder) Topic(name []byte, id UUID, partitions int) {
	invariant.Check(b.left == 0 && b.topics > 0, "a topic of a response is missing partitions or one too many")
	b.topics--
	b.left = partitions
	b.buf = appendTopic(b.buf, b.flex, b.version >= produceTopicID, name, id)
	b.buf = appendCount(b.buf, b.flex, partitions)
	if partitions == 0 {
		b.buf = appendEndTags(b.buf, b.flex)
	}
}

func appendTopic(dst []byte, flex, byID bool, name []byte, id UUID) []byte {
	if byID {
		return append(dst, id[:]...)
	}
	return appendString(dst, flex, name)
}

// Partition appends the outcome of one partition of the topic.
func (b *ProduceResponseBuilder) Partition(p *ProduceResult) {
	invariant.Check(b.left > 0, "a partition of a response is one too many")
	b.left--
	buf := appendInt32(b.buf, p.Index)
	buf = appendInt16(buf, int16(p.Code))
	buf = appendInt64(buf, p.BaseOffset)
	buf = appendInt64(buf, p.LogAppendTime)
	if b.version >= produceLogStart {
		buf = appendInt64(buf, p.LogStartOffset)
	}
	if b.version >= produceErrors {
		buf = appendCount(buf, b.flex, len(p.RecordErrors))
		for i := range p.RecordErrors {
			buf = appendInt32(buf, p.RecordErrors[i].Index)
			buf = appendStringOrNull(buf, b.flex, p.RecordErrors[i].Message)
			buf = appendEndTags(buf, b.flex)
		}
		buf = appendStringOrNull(buf, b.flex, p.Message)
	}
	switch {
	case b.version >= produceLeader && p.Leader.Known:
		buf = append(buf, 1) // one tagged field
		buf = appendLeader(buf, 0, &p.Leader)
	default:
		buf = appendEndTags(buf, b.flex)
	}
	if b.left == 0 {
		buf = appendEndTags(buf, b.flex)
	}
	b.buf = buf
}

// appendLeader appends a leader as a tagged field: two numbers without tags of their own.
func appendLeader(dst []byte, tag byte, l *Leader) []byte {
	dst = append(dst, tag, 9)
	dst = appendInt32(dst, l.ID)
	return append(appendInt32(dst, l.Epoch), 0)
}

// Finish ends the response and returns the buffer that Begin was given, with the response behind what was in it. nodes has the
// addresses of all leaders named; versions before 10 have no room for them.
func (b *ProduceResponseBuilder) Finish(throttleMS int32, nodes []Node) []byte {
	invariant.Check(b.left == 0 && b.topics == 0, "a response is missing topics or partitions")
	buf := appendInt32(b.buf, throttleMS)
	b.buf = nil
	if b.version >= produceLeader {
		buf = appendNodes(buf, nodes)
	} else {
		buf = appendEndTags(buf, b.flex)
	}
	return FinishResponse(buf, b.start, 0)
}

// appendNodes ends a flexible response whose only tagged field, 0, is a list of nodes.
func appendNodes(dst []byte, nodes []Node) []byte {
	if len(nodes) == 0 {
		return append(dst, 0)
	}
	size := sizeUvarint(uint32(len(nodes)) + 1)
	for i := range nodes {
		n := &nodes[i]
		size += 4 + sizeString(n.Host) + 4 + sizeString(n.Rack) + 1
	}
	dst = append(dst, 1, 0)
	dst = appendUvarint(dst, uint32(size))
	dst = appendCount(dst, true, len(nodes))
	for i := range nodes {
		n := &nodes[i]
		dst = appendInt32(dst, n.ID)
		dst = appendString(dst, true, n.Host)
		dst = appendInt32(dst, n.Port)
		dst = append(appendStringOrNull(dst, true, n.Rack), 0)
	}
	return dst
}

// sizeString is the size of a compact string; an empty one and null have one byte both.
func sizeString(s string) int { return sizeUvarint(uint32(len(s))+1) + len(s) }
