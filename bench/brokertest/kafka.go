package brokertest

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// KafkaFaults say what a Kafka broker does wrong. Zero fields are done right; N means every Nth batch produced. In groups it means every
// Nth partition (DropEvery: nobody is given it, DoubleEvery: everybody, CorruptEvery: another one, which there is not) or heartbeat.
type KafkaFaults struct {
	From         int // batches up to this one are done right, whatever the next six say
	DropEvery    int // acknowledged, and not stored
	DoubleEvery  int // stored twice
	ReorderEvery int // stored after the next one of its partition and producer
	CorruptEvery int // one bit of a value is flipped, and the checksum made to fit
	TearEvery    int // one bit is flipped
	StrayEvery   int // stored in another partition
	RefuseEvery  int // answered by an error
	StallAfter   int // no answer to Produce any more
	CloseAfter   int // the connection is cut
	DieAfter     int // the broker is gone: no connection, no listener
	ShowAborted  bool
	ShareAll     bool // every member of a group is given every partition

	Nodes    int // of the broker, each with an address; each leads some partitions. More than one knows producers' sequences, as Kafka does
	CutEvery int // several nodes: every batch after which the connection is cut, stored and not answered
}

// Kafka is a small Kafka broker: topics in memory, no sessions, transactions by marker alone. Like Broker, it is written to be
// obviously right.
type Kafka struct {
	listener net.Listener
	others   []net.Listener // of the nodes but the first
	faults   KafkaFaults
	handlers sync.WaitGroup

	mu struct {
		sync.Mutex
		closed     bool
		conns      map[net.Conn]int32 // the node that it is to
		topics     map[string]*kafkaTopic
		batches    int
		wrong      time.Time // when the first fault was done to a batch
		groups     map[string]*kafkaGroup
		heartbeats int
		producer   int64
		open       map[int64][]*kafkaLog // partitions of each producer's transaction
		away       map[int32]bool        // nodes that take no connection
		after      int                   // batches, after which hook is called
		hook       func()
		changed    chan struct{} // closed when a log grows
	}
}

type kafkaTopic struct {
	id   [16]byte
	logs []*kafkaLog
}

// abortedTxn is a transaction that ended with a marker at an offset.
type abortedTxn struct{ producer, first, marker int64 }

type kafkaLog struct {
	batches [][]byte
	next    int64
	held    []byte // to be stored after the next one of its origin
	origin  string // of held
	first   map[int64]int64
	aborted []abortedTxn
	leader  int32 // 0: nobody
	epoch   int32
	seqs    map[int64]int32 // the sequence number that comes next, of each producer
}

// StartKafka runs a broker on a free port until the test ends.
func StartKafka(t testing.TB, f KafkaFaults) *Kafka {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &Kafka{listener: l, faults: f}
	k.mu.conns, k.mu.topics, k.mu.open = map[net.Conn]int32{}, map[string]*kafkaTopic{}, map[int64][]*kafkaLog{}
	k.mu.changed, k.mu.groups, k.mu.away = make(chan struct{}), map[string]*kafkaGroup{}, map[int32]bool{}
	k.handlers.Go(func() { k.accept(l, 1) })
	for id := 2; id <= f.Nodes; id++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		k.others = append(k.others, l)
		k.handlers.Go(func() { k.accept(l, int32(id)) })
	}
	t.Cleanup(k.Close)
	return k
}

// URL is where the broker listens.
func (k *Kafka) URL() string { return "kafka://" + k.listener.Addr().String() }

// Topics is how many topics there are.
func (k *Kafka) Topics() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.mu.topics)
}

// Close ends the broker and waits for it.
func (k *Kafka) Close() {
	k.mu.Lock()
	k.mu.closed = true
	_ = k.listener.Close()
	for _, l := range k.others {
		_ = l.Close()
	}
	for c := range k.mu.conns {
		_ = c.Close()
	}
	k.mu.Unlock()
	k.handlers.Wait()
}

func (k *Kafka) accept(l net.Listener, node int32) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		k.mu.Lock()
		if k.mu.closed || k.mu.away[node] {
			_ = c.Close()
		}
		k.mu.conns[c] = node
		k.mu.Unlock()
		k.handlers.Go(func() { k.serve(c, node) })
	}
}

func (k *Kafka) serve(c net.Conn, node int32) {
	defer func() {
		_ = c.Close()
		k.mu.Lock()
		delete(k.mu.conns, c)
		k.mu.Unlock()
	}()
	for {
		q, corr, err := readRequest(c)
		if err != nil {
			return
		}
		p := k.handle(q, node)
		if p == nil {
			return
		}
		if produce, ok := q.(*kmsg.ProduceRequest); ok && produce.Acks == 0 {
			continue
		}
		p.SetVersion(q.GetVersion())
		out := binary.BigEndian.AppendUint32(make([]byte, 4), corr)
		if p.IsFlexible() && p.Key() != 18 {
			out = append(out, 0)
		}
		out = p.AppendTo(out)
		binary.BigEndian.PutUint32(out, uint32(len(out)-4))
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

func readRequest(c net.Conn) (q kmsg.Request, corr uint32, err error) {
	var head [4]byte
	if _, err = io.ReadFull(c, head[:]); err != nil {
		return nil, 0, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err = io.ReadFull(c, b); err != nil {
		return nil, 0, err
	}
	q = kmsg.RequestForKey(int16(binary.BigEndian.Uint16(b)))
	if q == nil {
		return nil, 0, errors.New("unknown request")
	}
	q.SetVersion(int16(binary.BigEndian.Uint16(b[2:])))
	corr = binary.BigEndian.Uint32(b[4:])
	b = b[10+binary.BigEndian.Uint16(b[8:]):]
	if q.IsFlexible() {
		b = b[1:]
	}
	return q, corr, q.ReadFrom(b)
}

// handle answers one request; nil ends the connection.
func (k *Kafka) handle(q kmsg.Request, node int32) kmsg.Response {
	if f, ok := q.(*kmsg.FetchRequest); ok {
		return k.fetch(f, node)
	}
	k.mu.Lock()
	if hook := k.mu.hook; hook != nil && k.mu.batches >= k.mu.after {
		k.mu.hook = nil
		k.mu.Unlock()
		hook()
		k.mu.Lock()
	}
	defer k.mu.Unlock()
	switch q := q.(type) {
	case *kmsg.ApiVersionsRequest:
		p := kmsg.NewPtrApiVersionsResponse()
		for key, most := range map[int16]int16{0: 12, 1: 16, 2: 6, 3: 12, 10: 4, 19: 5, 20: 4, 22: 4, 26: 5, 68: 1} {
			p.ApiKeys = append(p.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: key, MaxVersion: most})
		}
		return p
	case *kmsg.MetadataRequest:
		return k.metadataLocked(q)
	case *kmsg.CreateTopicsRequest:
		p := kmsg.NewPtrCreateTopicsResponse()
		for _, t := range q.Topics {
			k.addTopicLocked(t.Topic, int(t.NumPartitions))
		}
		return p
	case *kmsg.DeleteTopicsRequest:
		for _, name := range q.TopicNames {
			delete(k.mu.topics, name)
		}
		return kmsg.NewPtrDeleteTopicsResponse()
	case *kmsg.FindCoordinatorRequest:
		return kmsg.NewPtrFindCoordinatorResponse()
	case *kmsg.InitProducerIDRequest:
		p := kmsg.NewPtrInitProducerIDResponse()
		k.mu.producer++
		p.ProducerID = k.mu.producer
		return p
	case *kmsg.ListOffsetsRequest:
		return k.listOffsetsLocked(q, node)
	case *kmsg.ProduceRequest:
		return k.produceLocked(q, node)
	case *kmsg.EndTxnRequest:
		return k.endLocked(q)
	case *kmsg.ConsumerGroupHeartbeatRequest:
		return k.heartbeatLocked(q)
	}
	return nil
}

func (k *Kafka) metadataLocked(q *kmsg.MetadataRequest) kmsg.Response {
	p := kmsg.NewPtrMetadataResponse()
	p.ControllerID = 1
	for i, l := range append([]net.Listener{k.listener}, k.others...) {
		host, port, _ := net.SplitHostPort(l.Addr().String())
		n, _ := strconv.Atoi(port)
		p.Brokers = append(p.Brokers, kmsg.MetadataResponseBroker{NodeID: int32(i + 1), Host: host, Port: int32(n)})
	}
	for _, t := range q.Topics {
		x := kmsg.NewMetadataResponseTopic()
		x.Topic = t.Topic
		topic := k.mu.topics[*t.Topic]
		if topic == nil {
			x.ErrorCode = 3
			p.Topics = append(p.Topics, x)
			continue
		}
		x.TopicID = topic.id
		for i, log := range topic.logs {
			y := kmsg.NewMetadataResponseTopicPartition()
			y.Partition, y.Leader, y.LeaderEpoch = int32(i), log.leader, log.epoch
			if log.leader == 0 {
				y.Leader, y.ErrorCode = -1, leaderNotAvailable
			}
			x.Partitions = append(x.Partitions, y)
		}
		p.Topics = append(p.Topics, x)
	}
	return p
}

func (k *Kafka) listOffsetsLocked(q *kmsg.ListOffsetsRequest, node int32) kmsg.Response {
	p := kmsg.NewPtrListOffsetsResponse()
	for _, t := range q.Topics {
		x := kmsg.NewListOffsetsResponseTopic()
		x.Topic = t.Topic
		for _, part := range t.Partitions {
			y := kmsg.NewListOffsetsResponseTopicPartition()
			y.Partition = part.Partition
			if log := k.logLocked(t.Topic, part.Partition); log != nil && log.leader != node {
				y.ErrorCode = notLeader
			} else if log != nil {
				y.Offset = log.next
			} else {
				y.ErrorCode = unknownPartition
			}
			x.Partitions = append(x.Partitions, y)
		}
		p.Topics = append(p.Topics, x)
	}
	return p
}

func (k *Kafka) produceLocked(q *kmsg.ProduceRequest, node int32) kmsg.Response {
	p := kmsg.NewPtrProduceResponse()
	cut := false
	for _, t := range q.Topics {
		x := kmsg.NewProduceResponseTopic()
		x.Topic = t.Topic
		for _, part := range t.Partitions {
			y := kmsg.NewProduceResponseTopicPartition()
			y.Partition = part.Partition
			k.mu.batches++
			f := &k.faults
			if f.DieAfter > 0 && k.mu.batches > f.DieAfter {
				k.dieLocked()
				return nil
			}
			if log := k.logLocked(t.Topic, part.Partition); log == nil || log.leader != node {
				y.ErrorCode = unknownPartition
				if log != nil {
					y.ErrorCode = notLeader
				}
				x.Partitions = append(x.Partitions, y)
				continue
			}
			if f.CloseAfter > 0 && k.mu.batches > f.CloseAfter || f.StallAfter > 0 && k.mu.batches > f.StallAfter {
				return k.strikeLocked()
			}
			if k.mu.batches > f.From && every(f.RefuseEvery, k.mu.batches) {
				k.wrongLocked()
				y.ErrorCode = 19
			} else if code, known := k.numberedLocked(t.Topic, part.Partition, part.Records); code != 0 || known {
				y.ErrorCode = code
			} else {
				b := append([]byte(nil), part.Records...)
				k.storeLocked(t.Topic, int(part.Partition), string(b[43:51]), b) // of a producer, by its id
			}
			cut = cut || every(f.CutEvery, k.mu.batches)
			x.Partitions = append(x.Partitions, y)
		}
		p.Topics = append(p.Topics, x)
	}
	k.wakeLocked()
	if cut {
		return nil
	}
	return p
}

// numberedLocked looks at the sequence number of a batch where there are several nodes: one that is stored is known, and one that is not the next is
// refused.
func (k *Kafka) numberedLocked(topic string, index int32, b []byte) (code int16, known bool) {
	id := int64(binary.BigEndian.Uint64(b[43:]))
	if k.faults.Nodes < 2 || id < 0 {
		return 0, false
	}
	log := k.logLocked(topic, index)
	first, count := int32(binary.BigEndian.Uint32(b[53:])), int32(binary.BigEndian.Uint32(b[57:]))
	switch next := log.seqs[id]; {
	case first < next:
		return 0, true
	case first > next:
		return outOfOrder, false
	}
	log.seqs[id] = first + count
	return 0, false
}

// Move has a node lead all partitions that another one leads; 0 is nobody.
func (k *Kafka) Move(from, to int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range k.mu.topics {
		for _, log := range t.logs {
			if log.leader == from {
				log.leader = to
				log.epoch++
			}
		}
	}
	k.wakeLocked()
}

// Away cuts all connections of a node and takes no new ones, until it is called with false.
func (k *Kafka) Away(node int32, away bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.away[node] = away
	for c, at := range k.mu.conns {
		if away && at == node {
			_ = c.Close()
		}
	}
}

// After has f called once n batches have come, before the next request is handled.
func (k *Kafka) After(n int, f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.after, k.mu.hook = n, f
}

// wakeLocked wakes fetches that wait.
func (k *Kafka) wakeLocked() {
	close(k.mu.changed)
	k.mu.changed = make(chan struct{})
}

// The codes of what is not there.
const unknownPartition, leaderNotAvailable, notLeader, outOfOrder, unknownTopicID = 3, 5, 6, 45, 100

// logLocked gives a partition, or nil if there is none.
func (k *Kafka) logLocked(topic string, index int32) *kafkaLog {
	if t := k.mu.topics[topic]; t != nil {
		return t.log(index)
	}
	return nil
}

func (t *kafkaTopic) log(index int32) *kafkaLog {
	if index < 0 || int(index) >= len(t.logs) {
		return nil
	}
	return t.logs[index]
}

// wrongLocked notes that a fault is done.
func (k *Kafka) wrongLocked() {
	if k.mu.wrong.IsZero() {
		k.mu.wrong = time.Now()
	}
}

// FirstWrong is when the first fault was done to a batch; zero: never.
func (k *Kafka) FirstWrong() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mu.wrong
}

// AddTopic makes a topic.
func (k *Kafka) AddTopic(name string, partitions int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.addTopicLocked(name, partitions)
}

func (k *Kafka) addTopicLocked(name string, partitions int) {
	x := &kafkaTopic{id: [16]byte{15: byte(len(k.mu.topics) + 1)}}
	for i := range partitions {
		x.logs = append(x.logs, &kafkaLog{first: map[int64]int64{}, seqs: map[int64]int32{}, leader: int32(i%max(k.faults.Nodes, 1) + 1)})
	}
	k.mu.topics[name] = x
}

// strikeLocked does not answer: it cuts the connection, or leaves it as it is until the broker is closed.
func (k *Kafka) strikeLocked() kmsg.Response {
	for k.faults.StallAfter > 0 && !k.mu.closed {
		changed := k.mu.changed
		k.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond):
		}
		k.mu.Lock()
	}
	return nil
}

// storeLocked appends a batch as the faults have it. Batches of one origin have an order.
func (k *Kafka) storeLocked(topic string, index int, origin string, b []byte) {
	f, n := k.faults, k.mu.batches
	logs := k.mu.topics[topic].logs
	if n <= f.From {
		f = KafkaFaults{}
	}
	if every(f.StrayEvery, n) {
		index = (index + 1) % len(logs)
	}
	log := logs[index]
	for _, each := range []int{f.StrayEvery, f.DropEvery, f.CorruptEvery, f.TearEvery, f.ReorderEvery, f.DoubleEvery} {
		if every(each, n) {
			k.wrongLocked()
		}
	}
	switch {
	case every(f.DropEvery, n):
		return
	case every(f.CorruptEvery, n):
		b[len(b)-10] ^= 4 // in the value: behind it is the number of headers alone
		binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	case every(f.TearEvery, n):
		b[len(b)-10] ^= 4
	case every(f.ReorderEvery, n) && log.held == nil:
		log.held, log.origin = b, origin
		return
	}
	k.appendLocked(log, b)
	if every(f.DoubleEvery, n) {
		k.appendLocked(log, append([]byte(nil), b...))
	}
	if log.held != nil && log.origin == origin {
		k.appendLocked(log, log.held)
		log.held = nil
	}
}

func (k *Kafka) appendLocked(log *kafkaLog, b []byte) {
	binary.BigEndian.PutUint64(b, uint64(log.next))
	if b[22]&0x30 == 0x10 {
		id := int64(binary.BigEndian.Uint64(b[43:]))
		if _, ok := log.first[id]; !ok {
			log.first[id] = log.next
			k.mu.open[id] = append(k.mu.open[id], log)
		}
	}
	log.next += int64(binary.BigEndian.Uint32(b[23:])) + 1
	log.batches = append(log.batches, b)
}

// endLocked writes the markers of a transaction.
func (k *Kafka) endLocked(q *kmsg.EndTxnRequest) kmsg.Response {
	for _, log := range k.mu.open[q.ProducerID] {
		key := []byte{0, 0, 0, 0}
		if q.Commit {
			key[3] = 1
		} else if !k.faults.ShowAborted {
			log.aborted = append(log.aborted, abortedTxn{q.ProducerID, log.first[q.ProducerID], log.next})
		}
		delete(log.first, q.ProducerID)
		k.appendLocked(log, markerBatch(q.ProducerID, key))
	}
	delete(k.mu.open, q.ProducerID)
	k.wakeLocked()
	p := kmsg.NewPtrEndTxnResponse()
	p.ProducerID, p.ProducerEpoch = q.ProducerID, q.ProducerEpoch+1
	return p
}

func markerBatch(producer int64, key []byte) []byte {
	r := kmsg.Record{Key: key, Value: []byte{0, 0, 0, 0, 0, 0}}
	r.Length = int32(len(r.AppendTo(nil)) - 1)
	x := kmsg.RecordBatch{Magic: 2, Attributes: 0x30, ProducerID: producer, NumRecords: 1, Records: r.AppendTo(nil)}
	x.Length = int32(61 - 12 + len(x.Records))
	b := x.AppendTo(nil)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func (k *Kafka) fetch(q *kmsg.FetchRequest, node int32) kmsg.Response {
	over := time.After(time.Duration(q.MaxWaitMillis) * time.Millisecond)
	look := func() (p *kmsg.FetchResponse, done bool, changed chan struct{}) {
		k.mu.Lock()
		defer k.mu.Unlock()
		p, found := k.readLocked(q, node)
		return p, found || k.mu.closed, k.mu.changed
	}
	for {
		p, done, changed := look()
		if done {
			return p
		}
		select {
		case <-changed:
		case <-over:
			return p
		case <-time.After(20 * time.Millisecond): // the broker may have been closed
		}
	}
}

func (k *Kafka) readLocked(q *kmsg.FetchRequest, node int32) (p *kmsg.FetchResponse, found bool) {
	p = kmsg.NewPtrFetchResponse()
	for _, t := range q.Topics {
		x := kmsg.NewFetchResponseTopic()
		x.TopicID = t.TopicID
		var topic *kafkaTopic
		for _, there := range k.mu.topics {
			if there.id == t.TopicID {
				topic = there
			}
		}
		for _, part := range t.Partitions {
			y := kmsg.NewFetchResponseTopicPartition()
			y.Partition = part.Partition
			switch {
			case topic == nil:
				y.ErrorCode = unknownTopicID
			case topic.log(part.Partition) == nil:
				y.ErrorCode = unknownPartition
			case topic.log(part.Partition).leader != node:
				y.ErrorCode = notLeader
			default:
				topic.log(part.Partition).read(&y, part.FetchOffset, q.IsolationLevel)
			}
			found = found || len(y.RecordBatches) > 0 || y.ErrorCode != 0
			x.Partitions = append(x.Partitions, y)
		}
		p.Topics = append(p.Topics, x)
	}
	return p, found
}

// read puts what lies from an offset on into y.
func (l *kafkaLog) read(y *kmsg.FetchResponseTopicPartition, from int64, isolation int8) {
	for _, a := range l.aborted {
		if a.marker >= from {
			y.AbortedTransactions = append(y.AbortedTransactions,
				kmsg.FetchResponseTopicPartitionAbortedTransaction{ProducerID: a.producer, FirstOffset: a.first})
		}
	}
	stable := l.next
	for _, first := range l.first {
		stable = min(stable, first)
	}
	for _, b := range l.batches {
		base := int64(binary.BigEndian.Uint64(b))
		last := base + int64(binary.BigEndian.Uint32(b[23:]))
		if last >= from && (isolation == 0 || last < stable) && len(y.RecordBatches) < 1<<20 {
			y.RecordBatches = append(y.RecordBatches, b...)
		}
	}
}
