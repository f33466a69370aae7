package broker

import (
	"encoding/binary"
	"errors"

	"github.com/sluicemq/sluice/journal/record"
)

// A relay hands the records of a bound stream's partition to MQTT's subscribers, on the home loop of its shard, in the order of the partition
// and no further than transactions are decided. Where nobody is absent who must get a record later, that is all. Where a durable filter
// matches, or a record is retained, the log has to know first: what is read up to there becomes a chunk, a link to each such record goes into
// the shard's internal partition with the numbers of the filters that matched (link.go), together with how far the relay has come, and when
// that is committed the chunk is handed out. The partition keeps one chunk under way.
//
// Up to where subscribers have got the partition is also in each of its frames. A crash between two commits hands the records since out again:
// to live sessions that are new by then, and to durable filters exactly those that no link was written for.
type relay struct {
	streamWalk
	fetch  StreamFetch
	busy   bool // a chunk waits for the log, or a read for the disk
	looped bool // on the loop's list of those to go on with
	chunk  *bundle
	from   record.Offset // where the chunk begins
	next   record.Offset // behind what was read last
	kept   []int         // messages of the chunk that are retained
	refs   int           // to filters, of the chunk's links
	fails  int           // reads that failed since one did not
	rests  int64         // Unix milliseconds until it tries again
}

// streamWalk is what going over committed records takes from one batch, and turn, to the next.
type streamWalk struct {
	opened openedBatch        // a batch that takes more than one turn
	topic  []byte             // scratch
	skip   map[int64]struct{} // producers whose transaction is an aborted one
}

const (
	notRelayed = -1
	stillBound = -1
	// relayBytes is how much one turn of a relay reads.
	relayBytes = 128 << 10
	// A chunk takes no more messages from so many on, or from fetchBytesMax bytes on, or so many references to filters.
	relayLinks = 1024
	relayRefs  = 1 << 16
)

// openPartition has a partition be relayed, or no more, as the bindings of its topic say.
func (b *Broker) openPartition(p *Partition, of []*Binding) {
	s := p.shard
	s.mu.Lock()
	if len(of) == 0 {
		p.unbindLocked()
	} else {
		p.bindLocked(&of)
	}
	open := p.open.Load() != nil
	s.mu.Unlock()
	if open {
		s.home.Run(func() { s.home.relayPartition(p) })
	}
}

// bindLocked has the partition be relayed: from where it was, or else with what comes.
func (p *Partition) bindLocked(list *[]*Binding) {
	if p.until.Swap(stillBound) != stillBound {
		p.shard.home.b.unbinding.Add(-1)
	}
	if p.open.Swap(list) != nil {
		return
	}
	p.loose.Store(int64(p.mu.next)) // after a start it may have been unbound since
	if p.relayed.Load() == notRelayed {
		p.relayed.Store(int64(p.LastStable()))
		p.touchLocked()
	}
}

// unbound are the bindings of a partition that none binds: its relay gives what MQTT clients have published.
var unbound []*Binding

// unbindLocked has the partition be relayed up to what it has taken so far, by the bindings that it has had, and then no more. After a start
// these are not known.
func (p *Partition) unbindLocked() {
	at := p.relayed.Load()
	if at == notRelayed || at >= int64(p.mu.next) {
		p.closeLocked()
		return
	}
	if p.open.Load() == nil {
		p.open.Store(&unbound)
	}
	if p.until.CompareAndSwap(stillBound, int64(p.mu.next)) {
		p.shard.home.b.unbinding.Add(1)
		p.loose.Store(int64(p.mu.next))
	}
}

// closeLocked ends relaying.
func (p *Partition) closeLocked() {
	if p.until.Swap(stillBound) != stillBound {
		p.shard.home.b.unbinding.Add(-1)
	}
	p.open.Store(nil)
	if p.relayed.Swap(notRelayed) != notRelayed {
		p.touchLocked()
	}
}

// endUnbound ends the relay of a partition that nothing binds any more, where it has given what is left.
func (p *Partition) endUnbound() {
	if p.until.Load() == stillBound {
		return
	}
	p.shard.mu.Lock()
	defer p.shard.mu.Unlock()
	if until := p.until.Load(); until != stillBound && p.relayed.Load() >= until {
		p.closeLocked()
	}
}

// relayPartition goes on with a partition's relay. It runs on the home loop of its shard.
func (l *Local) relayPartition(p *Partition) {
	p.endUnbound()
	r := p.relay
	from := record.Offset(p.relayed.Load())
	if p.open.Load() == nil || from == notRelayed {
		if r != nil && !r.busy {
			l.closeOpened(&r.opened)
		}
		return
	}
	if from >= p.LastStable() {
		return
	}
	if r == nil {
		r = &relay{}
		r.fetch.Copy = true
		p.relay = r
	}
	if r.busy || r.looped || r.fails > 0 && l.nowMilli() < r.rests {
		return
	}
	if l.FetchTail(p, from, relayBytes, true, &r.fetch) {
		r.busy = true
		l.FetchCold(p, from, relayBytes, true, &r.fetch, func() {
			r.busy = false
			l.relayed(p, r)
		})
		return
	}
	l.relayed(p, r)
}

// relayed takes what was read.
func (l *Local) relayed(p *Partition, r *relay) {
	f := &r.fetch
	if f.Err != nil {
		if errors.Is(f.Err, ErrOffsetOutOfRange) && p.relayed.Load() < int64(f.LogStart) { // retention was faster
			l.relayCame(p, f.LogStart)
			l.relayLater(p, r)
		} else if !errors.Is(f.Err, ErrUnknownTopic) {
			l.relayRests(p, r)
		}
		return // a later tick tries again
	}
	r.fails = 0
	list := p.open.Load()
	r.from = record.Offset(p.relayed.Load())
	if list == nil || r.from == notRelayed { // its binding was taken away meanwhile
		f.Release()
		l.closeOpened(&r.opened)
		return
	}
	r.next = r.from
	if !l.walkRelay(p, r, *list) || len(f.Batches) == 0 { // nothing that can be read: compaction has taken it
		r.next = max(r.next, f.LastStable)
	}
	f.Release()
	if r.chunk == nil {
		l.relayCame(p, r.next)
		l.relayLater(p, r)
		return
	}
	l.relayCame(p, r.from)
	l.journalChunk(p, r)
}

// relayRests has a relay wait before it reads again: longer each time.
func (l *Local) relayRests(p *Partition, r *relay) {
	r.fails++
	r.rests = l.nowMilli() + backoff(r.fails).Milliseconds()
	if errors.Is(r.fetch.Err, ErrTier) {
		l.b.storeTrouble("records cannot be read for MQTT subscribers", r.fetch.Err)
		return
	}
	l.b.logger.Error("records cannot be read for MQTT subscribers", "topic", p.topic.Name(), "partition", p.index, "err", r.fetch.Err)
}

// relayCame notes how far the relay has come without the log. The binding may have been taken away since the relay looked: then it has come
// nowhere, and one that is made later begins with what comes from then on.
func (l *Local) relayCame(p *Partition, to record.Offset) {
	if int64(to) <= p.relayed.Load() {
		return
	}
	s := p.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.open.Load() != nil && int64(to) > p.relayed.Load() {
		p.relayed.Store(int64(to))
		p.touchLocked()
	}
}

// relayLater goes on in another turn, if there is more.
func (l *Local) relayLater(p *Partition, r *relay) {
	if p.endUnbound(); r.looped || p.relayed.Load() >= int64(p.LastStable()) {
		return
	}
	r.looped = true
	l.Run(func() {
		r.looped = false
		l.relayPartition(p)
	})
}

// walkRelay goes over the records that were read, from r.from on. It hands out those that need no log, until one does: from that on, they are
// collected in the chunk.
func (l *Local) walkRelay(p *Partition, r *relay, list []*Binding) (ok bool) {
	aborted := r.fetch.Aborted
	clear(r.skip)
	until := record.Offset(p.until.Load())
	for _, raw := range r.fetch.Batches {
		for len(raw) > 0 {
			b, n, err := record.ParseBatch(raw)
			if until != stillBound && err == nil && b.BaseOffset() >= until { // it was not bound any more
				r.next = max(r.next, until)
				return true
			}
			if err != nil {
				l.b.logger.Error("a stored batch is damaged", "topic", p.topic.Name(), "partition", p.index, "offset", r.next, "err", err)
				return false
			}
			raw = raw[n:]
			if aborted = r.decide(b, aborted); b.Attributes()&record.Control == 0 && !r.aborted(b) {
				if !l.relayBatch(p, r, list, b) {
					return true
				}
			}
			r.next = max(r.next, b.NextOffset())
		}
	}
	return true
}

// decide follows the aborted transactions up to batch b, as a consumer of committed records does.
func (w *streamWalk) decide(b record.Batch, aborted []AbortedTxn) []AbortedTxn {
	for len(aborted) > 0 && aborted[0].First <= b.NextOffset()-1 {
		if w.skip == nil {
			w.skip = make(map[int64]struct{})
		}
		w.skip[aborted[0].ProducerID] = struct{}{}
		aborted = aborted[1:]
	}
	if b.Attributes()&record.Control != 0 {
		if kind, _ := markerOf(b); kind == batchAbort {
			delete(w.skip, b.ProducerID())
		}
	}
	return aborted
}

func (w *streamWalk) aborted(b record.Batch) bool {
	_, skip := w.skip[b.ProducerID()]
	return skip && b.Attributes()&record.Transactional != 0
}

// relayBatch goes over one batch. False: the chunk is full.
func (l *Local) relayBatch(p *Partition, r *relay, list []*Binding, b record.Batch) bool {
	own := ownBatch(b)
	if !own && !delivers(list) {
		return true
	}
	it, again, err := l.recordsOf(&r.opened, b, r.next)
	if err != nil {
		l.b.stats.Unreadable.Add(int64(b.Count()))
		return true
	}
	m := &l.message
	for again || it.Next() {
		again = false
		rec := it.Record()
		if rec.Offset < r.from {
			continue
		}
		var ok bool
		if l.props, r.topic, ok = streamMessage(m, rec, own, list, l.props, r.topic); !ok {
			if !own {
				l.b.stats.Undeliverable.Add(1)
			}
		} else if m.part, m.offset = p, rec.Offset; !l.relayMessage(r, m, rec, own) {
			l.keepOpened(&r.opened, b, &it, r.next)
			return false
		}
		r.next = rec.Offset + 1
		if r.chunk == nil {
			r.from = r.next
		}
	}
	l.closeOpened(&r.opened)
	return true
}

// streamMessage makes m of a stream's record, as MQTT subscribers get it. own: an MQTT client has published it. props and topic are scratch.
func streamMessage(m *Message, rec *record.Record, own bool, list []*Binding, props, topic []byte) (p, t []byte, ok bool) {
	props, _ = readMessage(m, rec, props, own)
	if !own {
		if t = topicOf(topic[:0], list, rec.Key); t == nil {
			return props, topic, false
		}
		topic, m.Topic = t, t
	}
	return props, topic, len(m.Topic) > 0
}

// relayMessage hands a message out, or puts it into the chunk. False: the chunk is full.
func (l *Local) relayMessage(r *relay, m *Message, rec *record.Record, own bool) bool {
	if m.Deadline != 0 && m.Deadline <= l.nowMilli() {
		return true
	}
	mt := l.route(0, m.Topic)
	retain := m.Retain || rec.Value == nil
	if retain && !own && rec.Value == nil && l.b.retained.index.Get(0, m.Topic) == 0 {
		retain = false
	}
	links := m.QoS > 0 && len(mt.durable) > 0
	if own {
		l.b.publishedBy(m, rec)
	}
	if r.chunk == nil && !links && !retain {
		if mt.any {
			l.deliverAll(mt, m, Ref{})
		}
		return true
	}
	if c := r.chunk; c != nil && (len(c.msgs) >= relayLinks || len(c.buf) >= fetchBytesMax || r.refs >= relayRefs) {
		return false
	}
	if r.chunk == nil {
		r.chunk = getBundle()
		r.from = rec.Offset
	}
	if retain {
		r.kept = append(r.kept, len(r.chunk.msgs))
	}
	c := r.chunk.add(m)
	c.match = mt
	if !own {
		c.opts = optMade
	}
	if links {
		c.ref.Seq = uint64(rec.Offset) + 1
		r.refs += len(mt.durable)
	}
	return true
}

// publishedBy notes in m who has published a record of the broker's own.
func (b *Broker) publishedBy(m *Message, rec *record.Record) {
	durable, slot := publisherOf(rec)
	if m.durable = durable; slot>>32 == b.run {
		m.Publisher = uint32(slot)
	}
}

// publisherOf gives the durable number of the session that has published a record of the broker's own, and its slot with the run that it
// is of.
func publisherOf(rec *record.Record) (durable, slot uint64) {
	for h := rec.Headers; h.Next(); {
		if string(h.Key()) == headerPublisher && len(h.Value()) == publisherSize {
			return binary.BigEndian.Uint64(h.Value()), binary.BigEndian.Uint64(h.Value()[8:])
		}
	}
	return 0, 0
}

// journalChunk has the log know what it must of a chunk: first the retained messages, each in its topic's shard, then the links and the place.
func (l *Local) journalChunk(p *Partition, r *relay) {
	r.busy = true
	err := l.b.writable()
	if err == nil {
		err = l.b.room() // links and copies would take what a full disk has left for what makes room
	}
	if err != nil { // the next tick tries again
		l.dropChunk(r)
		return
	}
	if len(r.kept) == 0 {
		l.journalLinks(p, r)
		return
	}
	left, failed := len(r.kept), false
	settle := func(err error) {
		l.Run(func() {
			left--
			failed = failed || err != nil
			if left > 0 {
				return
			}
			if failed {
				l.dropChunk(r)
				return
			}
			l.journalLinks(p, r)
		})
	}
	m := new(Message)
	for _, i := range r.kept {
		r.chunk.view(i, m)
		if l.b.retained.admits(0, m, l.b) {
			l.keepRetained(m, int64(m.offset) < p.loose.Load(), settle)
		} else {
			settle(nil)
		}
	}
}

// keepRetained makes a copy of m its topic's retained message. loose: only if that is not younger.
func (l *Local) keepRetained(m *Message, loose bool, settle func(error)) {
	s := l.b.shardOf(0, m.Topic)
	s.mu.Lock()
	if !s.leadsLocked() {
		s.mu.Unlock()
		settle(ErrNotLeader)
		return
	}
	p, ok := s.fillLocked(len(m.Topic) + len(m.Payload) + len(m.Props))
	if !ok {
		p = s.mu.fill // a chunk is bounded
		p.size += len(m.Topic) + len(m.Payload) + len(m.Props) + 32
	}
	m.Retain = true
	flags := uint64(refRetain)
	if loose {
		flags |= refLoose
	}
	p.extra = binary.AppendUvarint(p.extra, flags)
	l.copyBodyLocked(s, p, m)
	p.entries = append(p.entries, entry{kind: entryCommand, done: func() { settle(nil) }, failed: settle})
	first := s.markDirtyLocked()
	s.mu.Unlock()
	if first {
		l.b.dirtyShard(s)
	}
}

// journalLinks writes a chunk's links and the place behind it, in one list.
func (l *Local) journalLinks(p *Partition, r *relay) {
	s := p.shard
	now := l.nowMilli()
	m := new(Message)
	s.mu.Lock()
	if !s.leadsLocked() {
		s.mu.Unlock()
		l.dropChunk(r)
		return
	}
	f := s.pendingLocked()
	for i := range r.chunk.msgs {
		c := r.chunk.view(i, m)
		if c.ref.Seq == 0 {
			continue
		}
		mt := l.stillGood(c.match, 0, m.Topic)
		if c.match = mt; len(mt.durable) == 0 {
			c.ref = Ref{}
			continue
		}
		var topic []byte // that is not in the record
		if c.opts&optMade != 0 {
			topic = m.Topic
		}
		seq := l.linkLocked(s, f, p, m.offset, topic, mt.durable, len(m.Topic)+len(m.Payload)+len(m.Props), now)
		c.ref = Ref{Shard: uint16(s.id), Seq: seq}
	}
	cmd := binary.AppendUvarint(nil, cmdRelayed)
	cmd = binary.AppendUvarint(cmd, uint64(p.id))
	cmd = binary.AppendUvarint(cmd, uint64(r.next))
	failed := func(error) { l.Run(func() { l.dropChunk(r) }) }
	first := s.commandLocked(cmd, entry{done: func() { l.chunkCommitted(p, r) }, failed: failed})
	s.mu.Unlock()
	if first {
		l.b.dirtyShard(s)
	}
}

// chunkCommitted hands a chunk out. It runs on the home loop, in the turn of the apply.
func (l *Local) chunkCommitted(p *Partition, r *relay) {
	m := &l.message
	bu := r.chunk
	for i := range bu.msgs {
		c := bu.view(i, m)
		if mt := l.stillGood(c.match, 0, m.Topic); mt.any {
			l.deliverAll(mt, m, c.ref)
		}
	}
	l.dropChunk(r)
	l.relayLater(p, r)
}

// dropChunk lets go of a chunk.
func (l *Local) dropChunk(r *relay) {
	putBundle(r.chunk)
	r.chunk, r.kept, r.refs, r.busy = nil, r.kept[:0], 0, false
}

// applyRelayed notes how far a relay has come; recovery calls it as well.
func (s *shard) applyRelayed(b *Broker, d *decoder) {
	p, to := b.partition(record.PartitionID(d.uvarint())), int64(d.uvarint())
	if p == nil || !d.ok() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.open.Load() != nil || b.recovering {
		p.relayed.Store(max(p.relayed.Load(), to))
		p.touchLocked()
	}
}

// sweepRelays goes on with the relays that a failure has stopped.
func (l *Local) sweepRelays(s *shard) {
	if set := l.b.bindings.Load(); (set == nil || len(set.byTopic) == 0) && l.b.unbinding.Load() == 0 {
		return
	}
	s.mu.Lock()
	behind := l.behindRelays[:0]
	for _, p := range s.mu.streams {
		if p.open.Load() != nil && (p.relayed.Load() < int64(p.LastStable()) || p.until.Load() != stillBound) {
			behind = append(behind, p)
		}
	}
	s.mu.Unlock()
	for i, p := range behind {
		l.relayPartition(p)
		behind[i] = nil
	}
	l.behindRelays = behind[:0]
}
