package broker

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/journal/record"
)

// A link is a record of a shard's internal partition that stands for one of a stream: it has no key, and its value is the stream's partition
// and offset and, where no MQTT client has published the record, the MQTT topic that its binding made then. So whatever refers to messages by shard and sequence (filter queues, positions, what is in flight, shared groups) has those of
// bound streams in its order too, and no message is stored twice.

// linkLocked appends a link to record o of p, which has this topic if that is not in it, for the durable filters with these numbers to list f
// of s, and gives its sequence. size is what the message counts for.
func (l *Local) linkLocked(s *shard, f *pending, p *Partition, o record.Offset, topic []byte, numbers []uint64, size int, now int64) (seq uint64) {
	before := len(f.extra)
	f.extra = binary.AppendUvarint(f.extra, 0)
	f.extra = binary.AppendUvarint(f.extra, uint64(size))
	f.extra = binary.AppendUvarint(f.extra, uint64(len(numbers)))
	for _, n := range numbers {
		f.extra = binary.AppendUvarint(f.extra, n)
	}
	value := binary.AppendUvarint(l.headers[:0], uint64(p.id))
	value = append(binary.AppendUvarint(value, uint64(o)), topic...)
	l.headers = value
	in := record.Input{Value: value, Timestamp: now}
	f.size += record.InputSize(&in) + len(f.extra) - before
	f.entries = append(f.entries, entry{kind: entryRecord})
	return s.appendRecordLocked(f, &in)
}

// link is what a link record stands for, and where its message is to come in a bundle.
type link struct {
	partition record.PartitionID
	offset    record.Offset
	at        int
	name      [2]int // where its topic begins and ends in the list's names; empty: it is in the record
}

// linkList is the links that a fetch has found.
type linkList struct {
	links []link
	names []byte
}

// take reads a link, whose message is to come in place at of a bundle. False: it is a message, which has a key.
func (ll *linkList) take(r *record.Record, at int) bool {
	if r.Key != nil {
		return false
	}
	d := decoder{b: r.Value}
	k := link{partition: record.PartitionID(d.uvarint()), offset: record.Offset(d.uvarint()), at: at}
	if !d.ok() {
		return false
	}
	k.name[0] = len(ll.names)
	ll.names = append(ll.names, d.b...)
	k.name[1] = len(ll.names)
	ll.links = append(ll.links, k)
	return true
}

// errInStore says that a record lies in a store, and that nobody is to wait for that here.
var errInStore = errors.New("broker: the record lies in a store")

// follow fills in the messages of links, in their order, as long as they fit into a bundle. What is not there any more is taken out of the
// bundle. What comes before the first that a store would have to give, where store is false, or does not give, goes ahead of it.
func (f *fetcher) follow(bu *bundle, ll *linkList, store bool) error {
	if len(ll.links) == 0 {
		return nil
	}
	readers := make(map[record.PartitionID]*linkReader)
	for _, k := range ll.links {
		if readers[k.partition] == nil {
			readers[k.partition] = &linkReader{b: f.b, p: f.b.partition(k.partition), local: !store}
		}
	}
	share := max(linkReadBytes/len(readers), linkReadLeast)
	defer func() {
		for _, r := range readers {
			r.release()
		}
	}()
	gone, last := 0, uint64(0)
	for _, k := range ll.links {
		if len(bu.buf) >= fetchBytesMax && k.at > 0 {
			bu.cutAt(k.at, last)
			break
		}
		r := readers[k.partition]
		r.share = share
		ok, err := r.fill(bu, k, ll.names[k.name[0]:k.name[1]])
		if k.at > 0 && (errors.Is(err, errInStore) || errors.Is(err, ErrTier)) {
			bu.cutAt(k.at, last)
			break
		}
		if err != nil {
			return err
		}
		last = bu.msgs[k.at].ref.Seq
		if !ok {
			bu.msgs[k.at].ref.Seq = 0
			gone++
		}
		if r.loaded {
			r.loaded = false
			letGo(readers, r)
		}
	}
	if gone > 0 {
		bu.msgs = slices.DeleteFunc(bu.msgs, func(c carried) bool { return c.ref.Seq == 0 })
		f.b.stats.QueueDropped[DropRetention].Add(int64(gone))
	}
	return nil
}

// cutAt leaves out the messages from a place on. last is the sequence of the last link before it.
func (bu *bundle) cutAt(at int, last uint64) {
	bu.msgs = bu.msgs[:at]
	bu.through, bu.cut = max(last, bu.msgs[at-1].ref.Seq), true
}

// letGo has all readers but r let go of what they hold, if that is more than a fetch may hold. They read again what they need.
func letGo(readers map[record.PartitionID]*linkReader, r *linkReader) {
	held := 0
	for _, o := range readers {
		held += o.size + cap(o.plain)
	}
	if held <= linkHeldMax {
		return
	}
	for _, o := range readers {
		if o != r {
			o.release()
			o.plain = nil
		}
	}
}

// linkReader reads single records of a partition, each at or behind the one before if it can.
type linkReader struct {
	b       *Broker
	p       *Partition // nil: it is gone
	batches [][]byte
	held    alloc.Ref
	size    int          // of batches, when they were read
	share   int          // how much it reads at once
	local   bool         // nothing that lies in a store alone
	loaded  bool         // since letGo looked
	cur     record.Batch // opened
	own     bool
	it      record.BatchReader
	last    record.Offset // that it has come to
	plain   []byte
	props   []byte
	topic   []byte
}

const (
	linkReadBytes = 256 << 10 // that all partitions of a fetch read at once, as long as each gets linkReadLeast
	linkReadLeast = 4 << 10
	linkHeldMax   = 4 << 20 // that they hold together, and one of them what its largest batch takes
)

func (r *linkReader) release() {
	if r.held != nil {
		r.held.Release()
	}
	r.held, r.batches, r.cur, r.size = nil, r.batches[:0], nil, 0
}

// fill reads the message of a link with this topic into its place. False: it is gone.
func (r *linkReader) fill(bu *bundle, k link, topic []byte) (ok bool, err error) {
	if r.p == nil {
		return false, nil
	}
	rec, err := r.seek(k.offset)
	if rec == nil || err != nil {
		return false, err
	}
	var m Message
	r.props, _ = readMessage(&m, rec, r.props, r.own)
	if !r.own && !r.named(&m, rec, topic) {
		return false, nil
	}
	var publisher uint64
	if r.own {
		publisher, _ = publisherOf(rec)
	}
	m.part, m.offset = r.p, k.offset
	bu.fill(k.at, &m, publisher)
	return true, nil
}

// named gives a message that no MQTT client has published its topic: that of its link or, where this is one of before links had any, what the
// bindings make of its key now.
func (r *linkReader) named(m *Message, rec *record.Record, topic []byte) bool {
	if m.Topic = topic; len(topic) > 0 {
		return true
	}
	open := r.p.open.Load()
	if open == nil {
		return false
	}
	topic = topicOf(r.topic[:0], *open, rec.Key)
	if topic != nil {
		r.topic, m.Topic = topic, topic
	}
	return topic != nil
}

// seek finds the record at an offset; nil if it is not there.
func (r *linkReader) seek(o record.Offset) (*record.Record, error) {
	switch {
	case r.cur == nil || o < r.cur.BaseOffset() || o >= r.cur.NextOffset():
		if ok, err := r.load(o); !ok || err != nil {
			return nil, err
		}
	case r.last >= o:
		r.it = r.cur.Records()
	}
	for r.it.Next() {
		rec := r.it.Record()
		if r.last = rec.Offset; r.last >= o {
			if r.last == o {
				return rec, nil
			}
			break
		}
	}
	return nil, nil
}

// load makes the batch with an offset the current one.
func (r *linkReader) load(o record.Offset) (ok bool, err error) {
	for again := range 2 {
		for len(r.batches) > 0 {
			raw := r.batches[0]
			b, n, err := record.ParseBatch(raw)
			if err != nil {
				return false, err
			}
			if o < b.BaseOffset() {
				break // it lies before what was read
			}
			if o < b.NextOffset() {
				return r.open(b)
			}
			if r.batches[0] = raw[n:]; len(raw) == n {
				r.batches = r.batches[1:]
			}
		}
		if again == 1 || o >= r.p.HighWatermark() {
			return false, nil
		}
		r.release()
		q := ReadRequest{Partition: r.p.id, From: o, End: r.p.HighWatermark(), MaxBytes: r.share, Local: r.local, Copy: true}
		var here bool
		r.batches, r.held, here, err = r.b.streams.ReadBatches(q, r.batches)
		if err == nil && !here {
			if err = errInStore; !r.local {
				err = ErrTier
			}
		}
		if err != nil {
			if o < r.p.LogStart() {
				err = nil
			}
			return false, err
		}
		r.loaded = true
		for _, raw := range r.batches {
			r.size += len(raw)
		}
	}
	return false, nil
}

func (r *linkReader) open(b record.Batch) (bool, error) {
	r.own = ownBatch(b)
	if b.Attributes().Compressed() {
		out, err := openBatch(r.plain[:0], b)
		if err != nil {
			return false, nil // it was never handed out
		}
		r.plain, b, r.loaded = out, out, true
	}
	r.cur, r.it, r.last = b, b.Records(), -1
	return true, nil
}
