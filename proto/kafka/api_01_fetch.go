package kafka

import (
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// fetchState is a fetch under way.
type fetchState struct {
	r         *request
	session   *fetchSession // nil: none
	sessionID int32
	full      bool // everything asked for is answered, not only what has something new
	minBytes  int
	maxBytes  int
	committed bool // transactions that are not decided are not shown
	parts     []fetchPart
	cold      int // reads under way that it waits for
	colds     []*coldRead
	waiting   bool
	last      bool   // it has waited as long as it may
	rack      string // where the client is; empty: it has not said
	over      bool   // answered, or given up
	sets      uint16 // of shards, a bit for each, of which this node serves some of its partitions
	timer     broker.LoopTimer
	out       []byte
	shown     []int // the parts that are answered
	cuts      []int // where in out their batches belong
}

// fetchPart is one partition of it.
type fetchPart struct {
	*sessionPart // what is asked for: no session changes while a fetch of its connection is under way

	topic  *broker.Topic // nil: there is none
	part   *broker.Partition
	place  int32          // in the session
	code   wire.ErrorCode // decided before anything was read
	sendTo int32          // the node that the client is to read it from; 0: this one
	read   broker.StreamFetch
	watch  broker.Watcher
}

// fetch reads from partitions (KIP-74, KIP-98, KIP-227). It waits for MinBytes up to MaxWait.
func fetch(r *request, q *wire.Request) (took bool, err error) {
	m, err := wire.DecodeFetchRequest(q.Body, q.Version)
	if err != nil {
		return false, err
	}
	if m.ReplicaID >= 0 {
		return false, errReplica // nodes of another kind do not follow this one
	}
	f := &fetchState{r: r, minBytes: int(m.MinBytes), maxBytes: min(int(m.MaxBytes), r.c.l.h.settings.Load().FetchBytes),
		committed: m.Isolation == wire.ReadCommitted, sessionID: wire.NoSession, full: true, rack: string(m.RackID)}
	r.fetch = f
	if code := f.open(&m, q.Version); code != wire.None {
		f.refuse(code)
		return true, nil
	}
	f.boundFetch()
	wait := max(time.Duration(m.MaxWaitMS)*time.Millisecond, 0)
	f.begin(wait)
	return true, nil
}

// refuse answers the request as a whole.
func (f *fetchState) refuse(code wire.ErrorCode) {
	var b wire.FetchResponseBuilder
	b.Begin(f.out[:0], f.r.call, &wire.FetchHead{ThrottleMS: f.r.throttleMS(), Code: code}, 0)
	f.out, f.over = b.Finish(nil), true
	f.r.finish()
}

// coldRead is the read of one part that has to wait for the disk or a store. It belongs to the broker's pools until it comes, which may be after
// the answer.
type coldRead struct {
	f    *fetchState // nil: nobody waits for it any more
	part int
	read broker.StreamFetch
}

// coldWait is how long a fetch waits for a store at least, whatever its client would: Kafka's remote.fetch.max.wait.ms. What comes later is in the
// cache then, for the client that asks again.
const coldWait = 500 * time.Millisecond

// begin reads what is there, and answers, or waits for more.
func (f *fetchState) begin(wait time.Duration) {
	f.readAll()
	if f.cold > 0 {
		f.boundCold(max(wait, coldWait))
		return
	}
	if f.ahead() {
		wait = max(wait, aheadWait)
	}
	if f.enough() || wait <= 0 {
		f.settle()
		return
	}
	f.waiting = true
	f.watch()
	l := f.r.c.l
	l.core.SetTimer(&f.timer, wait, f.wakeLast)
}

// wake looks again: a partition has something new.
func (f *fetchState) wake() {
	if f.over || f.cold > 0 {
		return
	}
	f.unwatch()
	f.readAll()
	switch {
	case f.cold > 0:
		f.boundCold(coldWait)
	case f.enough():
		f.settle()
	default:
		f.watch()
	}
}

// reconsider answers a fetch that waits if the leader's change has made it another one's.
func (f *fetchState) reconsider(v *View) {
	for i := range f.parts {
		if p := &f.parts[i]; p.part != nil && p.code == wire.None {
			f.place(v, p)
		}
	}
	f.wake()
}

// watch waits for what the last look did not see: its part of what is missing, in some partition.
func (f *fetchState) watch() {
	missing := max(f.minBytes-f.bytes(), 1)
	each := int64((missing + len(f.parts) - 1) / max(len(f.parts), 1))
	wake := f.wake // one closure for all
	for i := range f.parts {
		p := &f.parts[i]
		if p.part != nil && p.code == wire.None && p.sendTo == 0 {
			f.r.c.l.core.WatchRead(p.part, &p.read, f.committed, each, &p.watch, wake)
		}
	}
}

// wakeLast answers with what there is: the longest wait is over.
func (f *fetchState) wakeLast() {
	if f.over || f.cold > 0 {
		return
	}
	f.unwatch()
	f.waiting, f.last = false, true
	f.readAll()
	if f.cold > 0 {
		f.boundCold(coldWait)
		return
	}
	f.settle()
}

// boundCold answers with what there is, if a store takes longer than that: a client that asks again is better off than one that gives up the
// connection.
func (f *fetchState) boundCold(wait time.Duration) {
	f.r.c.l.core.SetTimer(&f.timer, wait, f.leaveCold)
}

// leaveCold waits no longer for what lies in a store. What is read from the disk comes soon.
func (f *fetchState) leaveCold() {
	if f.over {
		return
	}
	for _, c := range f.colds {
		if c.f != nil && f.r.c.l.core.Leave(&c.read) {
			c.f = nil
			f.cold--
		}
	}
	f.settle()
}

func (f *fetchState) unwatch() {
	for i := range f.parts {
		f.r.c.l.core.Unwatch(&f.parts[i].watch)
	}
}

// readAll reads each partition from memory as far as the bounds allow; what is not there is asked for.
func (f *fetchState) readAll() {
	left, some := f.maxBytes, false
	f.colds = nil
	v := f.r.c.l.h.view()
	var near nearNodes
	for i := range f.parts {
		p := &f.parts[i]
		p.read.Release()
		if p.part == nil || p.code != wire.None || p.sendTo != 0 {
			continue
		}
		// One batch is given even if it is larger than asked for, so that a reader gets on; but one in the whole answer.
		most := min(int(p.max), left)
		if left <= 0 && some {
			most = 0
		}
		to := f.nearest(v, &near, p)
		if to != 0 {
			most = 0 // whether it is there, and nothing of it
		}
		p.read.Copy = f.r.c.tls
		if f.r.c.l.core.FetchTail(p.part, offset(p.offset), most, f.committed, &p.read) {
			f.cold++
			c := &coldRead{f: f, part: i}
			c.read.Copy, c.read.Follows = p.read.Copy, p.read.Follows
			f.colds = append(f.colds, c)
			f.r.c.l.core.FetchCold(p.part, offset(p.offset), most, f.committed, &c.read, c.came)
			left, some = left-most, true // what it will bring is not known yet
			continue
		}
		if to != 0 && p.read.Err == nil {
			f.sendNearer(p, to)
		}
		f.followed(p)
		left, some = left-p.read.Bytes, some || p.read.Bytes > 0
	}
}

// came takes a read that had to wait, unless its fetch does not any more.
func (c *coldRead) came() {
	f := c.f
	if f == nil {
		c.read.Release()
		return
	}
	c.f = nil
	f.parts[c.part].read = c.read // with what it holds
	f.followed(&f.parts[c.part])
	f.cold--
	f.settle()
}

func (f *fetchState) bytes() (n int) {
	for i := range f.parts {
		n += f.parts[i].read.Bytes
	}
	return n
}

// enough says whether the answer need not wait.
func (f *fetchState) enough() bool {
	n := 0
	for i := range f.parts {
		p := &f.parts[i]
		if p.code != wire.None || p.read.Err != nil || p.sendTo != 0 {
			return true
		}
		n += p.read.Bytes
	}
	return n >= f.minBytes || len(f.parts) == 0 && f.session == nil
}

// settle answers once no read is under way.
func (f *fetchState) settle() {
	if f.cold > 0 {
		return
	}
	f.over = true
	f.r.c.l.core.StopTimer(&f.timer)
	f.unwatch()
	f.meterFetch()
	f.build()
	f.r.finish()
}

// cancel gives the fetch up: its connection has ended.
func (f *fetchState) cancel() {
	if !f.over {
		f.over = true
		f.r.c.l.core.StopTimer(&f.timer)
		f.unwatch()
	}
	for _, c := range f.colds {
		if c.f != nil {
			c.f = nil
			f.r.c.l.core.Leave(&c.read)
		}
	}
	f.release()
}

func (f *fetchState) release() {
	for i := range f.parts {
		f.parts[i].read.Release()
	}
}

// build makes the answer, but for the batches.
func (f *fetchState) build() {
	topics := f.choose()
	v := f.r.c.l.h.view()
	var leaders []wire.Node
	var b wire.FetchResponseBuilder
	b.Begin(f.out[:0], f.r.call, &wire.FetchHead{ThrottleMS: f.r.throttleMS(), SessionID: f.sessionID}, topics)
	for k := 0; k < len(f.shown); {
		p := &f.parts[f.shown[k]]
		n := k
		for n < len(f.shown) && sameTopic(p, &f.parts[f.shown[n]]) {
			n++
		}
		b.Topic([]byte(p.name), p.id, n-k)
		for ; k < n; k++ {
			p := &f.parts[f.shown[k]]
			res := p.result()
			if p.part != nil {
				pl := v.of(p.part)
				if res.Leader = movedTo(pl, res.Code); res.Leader.Known {
					leaders = f.r.c.nameLeader(v, leaders, pl)
				}
			}
			f.cuts = append(f.cuts, b.Partition(&res, p.read.Bytes))
			if f.session != nil {
				f.session.answered(p)
			}
		}
	}
	f.out = b.Finish(leaders)
}

func sameTopic(a, b *fetchPart) bool { return a.name == b.name && a.id == b.id }

// choose lists the parts that are answered, those of one topic together: of a session only such as have something new.
func (f *fetchState) choose() (topics int) {
	for i := range f.parts {
		p := &f.parts[i]
		if !f.full && p.code == wire.None && p.read.Err == nil && p.sendTo == 0 && p.read.Bytes == 0 && !p.moved() {
			continue
		}
		if n := len(f.shown); n == 0 || !sameTopic(&f.parts[f.shown[n-1]], p) {
			topics++
		}
		f.shown = append(f.shown, i)
	}
	return topics
}

// result is what is said of the partition beside its batches.
func (p *fetchPart) result() wire.FetchResult {
	res := wire.FetchResult{Index: p.index, Code: p.code, HighWatermark: -1, LastStableOffset: -1, LogStartOffset: -1, PreferredReplica: -1}
	if p.code != wire.None {
		return res
	}
	if p.read.Err != nil {
		res.Code = codeOf(p.read.Err)
		return res
	}
	res.HighWatermark, res.LastStableOffset, res.LogStartOffset = int64(p.read.HighWatermark), int64(p.read.LastStable), int64(p.read.LogStart)
	if p.sendTo != 0 {
		res.PreferredReplica = p.sendTo
		return res
	}
	for _, a := range p.read.Aborted {
		res.Aborted = append(res.Aborted, wire.AbortedTransaction{ProducerID: a.ProducerID, FirstOffset: int64(a.First)})
	}
	return res
}

// smallBatch is below what a copy is cheaper than a piece of its own.
const smallBatch = 4 << 10

// sendFetch hands the answer to the engine: batches by reference, from where they lie.
func (r *request) sendFetch() {
	f, link := r.fetch, r.c.link
	at := 0
	for k, i := range f.shown {
		p := &f.parts[i]
		if p.read.Bytes == 0 {
			continue
		}
		link.Write(f.out[at:f.cuts[k]])
		at = f.cuts[k]
		for _, b := range p.read.Batches {
			if len(b) < smallBatch {
				link.Write(b)
			} else {
				link.WriteRef(b, p.read.Ref)
			}
		}
		r.c.l.n.bytesOut += uint64(p.read.Bytes)
		if p.read.Follows != 0 {
			r.c.l.n.followed += uint64(p.read.Bytes)
		}
	}
	link.Write(f.out[at:])
	r.c.l.n.bytesOut += uint64(len(f.out))
	f.release()
}
