package wire

// From these versions on Fetch has the fields named.
const (
	fetchLogStart    = 5  // LogStartOffset
	fetchSession     = 7  // session, forgotten topics, top level error
	fetchLeaderEpoch = 9  // CurrentLeaderEpoch
	fetchRack        = 11 // RackID, PreferredReadReplica
	fetchEpoch       = 12 // LastFetchedEpoch, ClusterID, flexible
	fetchTopicID     = 13 // topic ids in place of names
	fetchReplica     = 15 // ReplicaState, in place of ReplicaID
	fetchNodes       = 16 // NodeEndpoints
	fetchDirectory   = 17 // ReplicaDirectoryID
	fetchWatermark   = 18 // HighWatermark
)

// Sessions of KIP-227.
const (
	// NoSession is the id of a fetch without a session.
	NoSession = 0
	// InitialEpoch asks for a new session, with a full fetch.
	InitialEpoch = 0
	// FinalEpoch asks for a full fetch without a session; one that exists is closed.
	FinalEpoch = -1
)

// IsolationLevel is what a reader wants to see of transactions.
type IsolationLevel int8

// The isolation levels.
const (
	ReadUncommitted IsolationLevel = 0
	ReadCommitted   IsolationLevel = 1
)

// NoWatermark says that a follower tells no high watermark.
const NoWatermark = 1<<63 - 1

// FetchRequest is a Fetch request: a view of its body. What a version does not have is what Kafka takes in its place.
type FetchRequest struct {
	ClusterID    []byte // nil: not given
	ReplicaID    int32  // -1: a consumer
	ReplicaEpoch int64  // -1: not given
	MaxWaitMS    int32
	MinBytes     int32
	MaxBytes     int32
	Isolation    IsolationLevel // not checked
	SessionID    int32
	SessionEpoch int32
	RackID       []byte // empty: none
	Topics       int    // number of topics that have partitions
	Partitions   int    // number of partitions of all topics
	Forgets      int    // number of forgotten partitions of all topics

	data   FetchReader
	forget ForgottenReader
}

// The least bytes that the elements of arrays take, in any version.
const (
	minFetchTopic = 3 // empty name, no partitions, no tags
	minForgotten  = 3
)

// DecodeFetchRequest reads a Fetch request of a supported version. All of the request is checked, so that a walk over its
// partitions meets no surprise.
func DecodeFetchRequest(body []byte, version int16) (FetchRequest, error) {
	r := reader{rest: body, flex: Fetch.Flexible(version)}
	q := FetchRequest{ReplicaID: -1, ReplicaEpoch: -1, SessionEpoch: FinalEpoch}
	if version < fetchReplica {
		q.ReplicaID = r.int32()
	}
	q.MaxWaitMS, q.MinBytes, q.MaxBytes = r.int32(), r.int32(), r.int32()
	q.Isolation = IsolationLevel(r.int8())
	if version >= fetchSession {
		q.SessionID, q.SessionEpoch = r.int32(), r.int32()
	}
	q.takeTopics(&r, version)
	if version >= fetchSession {
		q.takeForgotten(&r, version)
	}
	if version >= fetchRack {
		q.RackID = r.string()
	}
	if r.flex {
		q.takeTags(&r, version)
	}
	if r.bad {
		return FetchRequest{}, ErrMalformed
	}
	return q, nil
}

func (q *FetchRequest) takeTopics(r *reader, version int16) {
	topics := r.count(minFetchTopic)
	q.data = FetchReader{r: *r, version: version, topics: topics}
	var skipped FetchReader
	for range topics {
		takeTopic(r, version >= fetchTopicID)
		n := r.count(minPartition(version))
		for range n {
			skipped.takePartition(r, version)
		}
		r.endTags()
		if n > 0 {
			q.Topics++
			q.Partitions += n
		}
	}
}

// minPartition is the least size of a partition of a version.
func minPartition(version int16) int {
	switch {
	case version >= fetchEpoch:
		return 33
	case version >= fetchLeaderEpoch:
		return 28
	case version >= fetchLogStart:
		return 24
	}
	return 16
}

func (q *FetchRequest) takeForgotten(r *reader, version int16) {
	topics := r.count(minForgotten)
	q.forget = ForgottenReader{r: *r, version: version, topics: topics}
	for range topics {
		takeTopic(r, version >= fetchTopicID)
		n := r.count(4)
		r.span(4 * n)
		r.endTags()
		q.Forgets += n
	}
}

func (q *FetchRequest) takeTags(r *reader, version int16) {
	for range r.tagged() {
		tag, f := r.tag()
		switch {
		case tag == 0:
			q.ClusterID = f.stringOrNull()
		case tag == 1 && version >= fetchReplica:
			q.ReplicaID, q.ReplicaEpoch = f.int32(), f.int64()
			f.endTags()
		}
		if f.bad {
			r.fail()
		}
	}
}

// Data begins a walk over the partitions.
func (q *FetchRequest) Data() FetchReader { return q.data }

// Forgotten begins a walk over the partitions that a session is to forget.
func (q *FetchRequest) Forgotten() ForgottenReader { return q.forget }

// FetchReader walks over the partitions of a Fetch request in their order; topics without any are left out. It is a value: keep it
// on the stack. What Next moved to stands in its fields, which are views.
//
//	for p := q.Data(); p.Next(); {
//		use(p.Topic, p.Index, p.FetchOffset)
//	}
type FetchReader struct {
	Topic              []byte // nil from version 13 on
	TopicID            UUID   // from version 13 on
	First              bool   // this is the first partition of its topic
	Count              int    // number of partitions of the topic
	Index              int32
	CurrentLeaderEpoch int32 // -1: not known
	FetchOffset        int64
	LastFetchedEpoch   int32 // -1: none
	LogStartOffset     int64 // a follower's; -1: none
	MaxBytes           int32
	DirectoryID        UUID  // a follower's
	HighWatermark      int64 // a follower's; NoWatermark: not told

	r       reader
	version int16
	topics  int // not begun
	left    int // partitions of this topic that are left
}

// Next moves to the next partition and tells whether there is one.
func (p *FetchReader) Next() bool {
	p.First = false
	for p.left == 0 {
		if p.topics == 0 {
			return false
		}
		p.topics--
		p.Topic, p.TopicID = takeTopic(&p.r, p.version >= fetchTopicID)
		p.Count = p.r.count(minPartition(p.version))
		p.left, p.First = p.Count, true
		if p.left == 0 {
			p.r.endTags()
		}
	}
	p.left--
	p.takePartition(&p.r, p.version)
	if p.left == 0 {
		p.r.endTags()
	}
	return !p.r.bad
}

func (p *FetchReader) takePartition(r *reader, version int16) {
	p.Index = r.int32()
	p.CurrentLeaderEpoch, p.LastFetchedEpoch, p.LogStartOffset = -1, -1, -1
	p.DirectoryID, p.HighWatermark = UUID{}, NoWatermark
	if version >= fetchLeaderEpoch {
		p.CurrentLeaderEpoch = r.int32()
	}
	p.FetchOffset = r.int64()
	if version >= fetchEpoch {
		p.LastFetchedEpoch = r.int32()
	}
	if version >= fetchLogStart {
		p.LogStartOffset = r.int64()
	}
	p.MaxBytes = r.int32()
	if !r.flex {
		return
	}
	for range r.tagged() {
		tag, f := r.tag()
		switch {
		case tag == 0 && version >= fetchDirectory:
			p.DirectoryID = f.uuid()
		case tag == 1 && version >= fetchWatermark:
			p.HighWatermark = f.int64()
		}
		if f.bad {
			r.fail()
		}
	}
}

// ForgottenReader walks over the partitions that a session is to forget. It is a value: keep it on the stack. What Next moved to
// stands in its fields, which are views.
type ForgottenReader struct {
	Topic   []byte // nil from version 13 on
	TopicID UUID   // from version 13 on
	Index   int32

	r       reader
	version int16
	topics  int // not begun
	left    int // partitions of this topic that are left
}

// Next moves to the next partition and tells whether there is one.
func (p *ForgottenReader) Next() bool {
	for p.left == 0 {
		if p.topics == 0 {
			return false
		}
		p.topics--
		p.Topic, p.TopicID = takeTopic(&p.r, p.version >= fetchTopicID)
		p.left = p.r.count(4)
		if p.left == 0 {
			p.r.endTags()
		}
	}
	p.left--
	p.Index = p.r.int32()
	if p.left == 0 {
		p.r.endTags()
	}
	return !p.r.bad
}
