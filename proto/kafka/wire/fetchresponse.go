package wire

import "github.com/sluicemq/sluice/internal/invariant"

// AbortedTransaction tells a reader of committed records which ones to leave out: those of the producer from FirstOffset to its
// next abort marker.
type AbortedTransaction struct {
	ProducerID  int64
	FirstOffset int64
}

// EpochEnd is an epoch and the offset behind its last record. The zero value says nothing.
type EpochEnd struct {
	Known     bool
	Epoch     int32
	EndOffset int64
}

// FetchResult is the outcome of one partition. When Code is not None, Kafka has -1 for the three offsets, and no records. Its
// last four fields are left out where the version has no room for them.
type FetchResult struct {
	Index            int32
	Code             ErrorCode
	HighWatermark    int64
	LastStableOffset int64
	LogStartOffset   int64
	Aborted          []AbortedTransaction // nil: null, as for readers of uncommitted records
	PreferredReplica int32                // node to read from; -1: this one
	Diverging        EpochEnd             // where a follower's log parts from this one
	Leader           Leader               // with NotLeaderOrFollower and FencedLeaderEpoch
	Snapshot         EpochEnd             // what a follower of the metadata log has to load first
}

// FetchResponseBuilder appends one Fetch response to a caller's buffer, but for the record bytes, which the caller may send from
// where they lie. Its zero value is ready for Begin; it keeps the buffer until Finish. There must be as many topics and partitions
// as were announced.
//
//	b.Begin(dst, call, &FetchHead{…}, 1)
//	b.Topic(name, id, 1)
//	at := b.Partition(&result, len(records))
//	dst = b.Finish(nil)
//	writev(dst[:at], records, dst[at:])
type FetchResponseBuilder struct {
	buf     []byte
	start   int
	outside int // record bytes that lie elsewhere
	version int16
	flex    bool
	topics  int // not begun
	left    int // partitions of this topic that are missing
}

// FetchHead is what a Fetch response says before its topics.
type FetchHead struct {
	ThrottleMS int32
	Code       ErrorCode // from version 7 on
	SessionID  int32     // from version 7 on
}

// Begin starts the response to c at the end of dst.
func (b *FetchResponseBuilder) Begin(dst []byte, c Call, h *FetchHead, topics int) {
	*b = FetchResponseBuilder{version: c.Version, flex: c.Key.Flexible(c.Version), topics: topics}
	dst, b.start = BeginResponse(dst, c)
	dst = appendInt32(dst, h.ThrottleMS)
	if b.version >= fetchSession {
		dst = appendInt16(dst, int16(h.Code))
		dst = appendInt32(dst, h.SessionID)
	}
	b.buf = appendCount(dst, b.flex, topics)
}

// Topic starts a topic, by name before version 13 and by id from there on.
func (b *FetchResponseBuilder) Topic(name []byte, id UUID, partitions int) {
	invariant.Check(b.left == 0 && b.topics > 0, "a topic of a response is missing partitions or one too many")
	b.topics--
	b.left = partitions
	b.buf = appendTopic(b.buf, b.flex, b.version >= fetchTopicID, name, id)
	b.buf = appendCount(b.buf, b.flex, partitions)
	if partitions == 0 {
		b.buf = appendEndTags(b.buf, b.flex)
	}
}

// Partition appends the outcome of one partition of the topic, all but its record bytes, of which there are records. They belong
// into the response at the index at of the buffer that Finish returns, and are counted in its size.
func (b *FetchResponseBuilder) Partition(p *FetchResult, records int) (at int) {
	b.beginPartition(p, records)
	at = len(b.buf)
	b.outside += records
	b.endPartition(p)
	return at
}

// PartitionInline appends the outcome of one partition of the topic with a copy of its record bytes: for those too few to be
// worth a piece of their own.
func (b *FetchResponseBuilder) PartitionInline(p *FetchResult, records []byte) {
	b.beginPartition(p, len(records))
	b.buf = append(b.buf, records...)
	b.endPartition(p)
}

// beginPartition appends a partition up to the length of its records.
func (b *FetchResponseBuilder) beginPartition(p *FetchResult, records int) {
	invariant.Check(b.left > 0, "a partition of a response is one too many")
	b.left--
	buf := appendInt32(b.buf, p.Index)
	buf = appendInt16(buf, int16(p.Code))
	buf = appendInt64(buf, p.HighWatermark)
	buf = appendInt64(buf, p.LastStableOffset)
	if b.version >= fetchLogStart {
		buf = appendInt64(buf, p.LogStartOffset)
	}
	buf = appendAborted(buf, b.flex, p.Aborted)
	if b.version >= fetchRack {
		buf = appendInt32(buf, p.PreferredReplica)
	}
	b.buf = appendCount(buf, b.flex, records) // a length of bytes looks like one of an array
}

func appendAborted(dst []byte, flex bool, list []AbortedTransaction) []byte {
	if list == nil {
		return appendCount(dst, flex, -1)
	}
	dst = appendCount(dst, flex, len(list))
	for i := range list {
		dst = appendInt64(dst, list[i].ProducerID)
		dst = appendInt64(dst, list[i].FirstOffset)
		dst = appendEndTags(dst, flex)
	}
	return dst
}

// endPartition appends what follows the records: tagged fields, in a flexible version.
func (b *FetchResponseBuilder) endPartition(p *FetchResult) {
	if !b.flex {
		return
	}
	buf := b.buf
	switch {
	case p.Diverging.Known || p.Leader.Known || p.Snapshot.Known:
		buf = appendFetchTags(buf, p)
	default:
		buf = append(buf, 0)
	}
	if b.left == 0 {
		buf = append(buf, 0) // no tagged fields of the topic
	}
	b.buf = buf
}

func appendFetchTags(dst []byte, p *FetchResult) []byte {
	at := len(dst)
	dst = append(dst, 0)
	if p.Diverging.Known {
		dst[at]++
		dst = append(dst, 0, 13)
		dst = appendInt32(dst, p.Diverging.Epoch)
		dst = append(appendInt64(dst, p.Diverging.EndOffset), 0)
	}
	if p.Leader.Known {
		dst[at]++
		dst = appendLeader(dst, 1, &p.Leader)
	}
	if p.Snapshot.Known {
		dst[at]++
		dst = append(dst, 2, 13)
		dst = appendInt64(dst, p.Snapshot.EndOffset)
		dst = append(appendInt32(dst, p.Snapshot.Epoch), 0)
	}
	return dst
}

// Size is the size of the response so far, bytes outside counted.
func (b *FetchResponseBuilder) Size() int { return len(b.buf) - b.start + b.outside }

// Finish ends the response and returns the buffer that Begin was given, with the response behind what was in it. nodes has the
// addresses of all leaders named; versions before 16 have no room for them.
func (b *FetchResponseBuilder) Finish(nodes []Node) []byte {
	invariant.Check(b.left == 0 && b.topics == 0, "a response is missing topics or partitions")
	buf := b.buf
	b.buf = nil
	if b.version >= fetchNodes {
		buf = appendNodes(buf, nodes)
	} else {
		buf = appendEndTags(buf, b.flex)
	}
	return FinishResponse(buf, b.start, b.outside)
}
