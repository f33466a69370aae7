package broker

import (
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/journal/record"
)

// ErrNoStream says that a subscription that is to start in the past has no bound stream behind it, or that it is a shared one, which goes on
// where its group is.
var ErrNoStream = errors.New("broker: no stream lies behind the filter")

// ReplayFrom says where in the streams behind a filter a subscription starts. The zero value is: with what comes.
type ReplayFrom struct {
	Kind   ReplayKind
	Offset int64 // of ReplayOffset: in each partition
	Milli  int64 // of ReplayTime: Unix milliseconds
}

// ReplayKind is a kind of ReplayFrom.
type ReplayKind uint8

// The kinds of ReplayFrom.
const (
	ReplayNone ReplayKind = iota
	ReplayEarliest
	ReplayLatest
	ReplayOffset
	ReplayTime
)

// replay gives a subscription what lies in the partitions of the streams behind its filter, in their order, and then lets go: what comes later
// comes as it does for everybody.
//
// While it runs, what comes from one of its partitions for the filter is held back: the replay will get to it. It ends in a partition where
// a read finds no more, and from there on what lies before that place was given already. Both are decided on the client's loop, so between
// them nothing is lost and nothing comes twice.
//
//	Record 7 is handed to the client's loop while the replay reads up to 6. It is held back, and the next read finds it.
//	The replay has read 7 before it is handed to the loop, and ends. When it comes it lies before the end.
type replay struct {
	filter []byte
	opts   uint32
	ids    []uint32
	parts  []*replayPart
}

// replayPart is one partition's part of a replay. Its fetch belongs to the reader pool while reading is set.
type replayPart struct {
	p       *Partition
	list    []*Binding    // of its topic; they may be taken away meanwhile
	at      record.Offset // the next to be read; where it ended
	began   bool
	reading bool
	came    bool // what was read has come, if only an error
	ended   bool
	fails   int       // reads that the store did not answer since it did
	rests   bool      // until its timer runs
	timer   LoopTimer // of the client's loop
	fetch   StreamFetch
	walk    streamWalk
}

const (
	replayBytes = 64 << 10 // that a turn reads
	replayReads = 2        // of one connection that wait for the disk, or for room
	// What one connection may have under way: replays, and partitions that they read.
	replaysMax     = 256
	replayPartsMax = 1 << 14
)

// replayRoom counts what a connection has under way, and what one packet asks for beside it.
type replayRoom struct{ replays, parts, asked int }

func (c *Client) replayRoom() (room replayRoom) {
	if c.more == nil {
		return room
	}
	for _, rep := range c.more.replays {
		room.replays++
		room.parts += len(rep.parts)
	}
	return room
}

// replayable says whether a subscription can start where it wants, and takes its room. Bindings, and so what lies in the past, are the default tenant's.
func (b *Broker) replayable(tenant uint32, room *replayRoom, r *SubscribeRequest) error {
	if r.From.Kind == ReplayNone {
		return nil
	}
	if room.asked++; room.asked > replaysMax || room.replays >= replaysMax { // each is compared with all bindings
		return ErrQuota
	}
	if tenant != 0 {
		return ErrNoStream
	}
	list := b.bindings.Load().behind(b, r.Filter)
	if r.Group != nil || len(list) == 0 {
		return ErrNoStream
	}
	parts := 0
	for _, t := range list {
		parts += len(t.Partitions())
	}
	if room.parts+parts > replayPartsMax {
		return ErrQuota
	}
	room.replays++
	room.parts += parts
	return nil
}

// behind lists the streams whose records a filter may match.
func (set *bindingSet) behind(b *Broker, filter []byte) (list []*Topic) {
	if set == nil {
		return nil
	}
	for name, of := range set.byTopic {
		for _, bd := range of {
			template := bd.before + "#"
			if filtersMeet(filter, bd.filter) || bd.Deliver == DeliverTemplate && filtersMeet(filter, []byte(template)) {
				if t := b.Topic(0, name); t != nil {
					list = append(list, t)
				}
				break
			}
		}
	}
	return list
}

// filtersMeet says whether there may be a topic that both filters match. A '#' may stand behind the beginning of a level.
func filtersMeet(a, b []byte) bool {
	x, y := strings.Split(string(a), "/"), strings.Split(string(b), "/")
	for i := 0; ; i++ {
		switch {
		case i == len(x) && i == len(y):
			return true
		case i < len(x) && strings.HasSuffix(x[i], "#"), i < len(y) && strings.HasSuffix(y[i], "#"):
			return true
		case i == len(x) || i == len(y):
			return false
		case x[i] != "+" && y[i] != "+" && x[i] != y[i]:
			return false
		}
	}
}

// prepareReplay has what comes for a subscription be held back, before it holds: what its replay will get to must not come before. One that
// is to start with the latest is a replay of nothing, so that what lies before does not come either, from a replay of before or from a
// relay that lags. The queue of a kept session is the session's: it loses nothing of that.
func (l *Local) prepareReplay(c *Client, r *SubscribeRequest) {
	if r.From.Kind == ReplayNone {
		return
	}
	c.dropReplay(r.Filter)
	if r.From.Kind == ReplayLatest && c.sess.d != nil {
		return
	}
	rep := &replay{filter: slices.Clone(r.Filter), opts: r.options()}
	if r.SubscriptionID != 0 {
		rep.ids = []uint32{r.SubscriptionID}
	}
	set := l.b.bindings.Load()
	for _, t := range set.behind(l.b, r.Filter) {
		of := set.byTopic[t.Name()]
		for _, p := range t.Partitions() {
			rp := &replayPart{p: p, list: of}
			rp.fetch.Copy = true
			rep.parts = append(rep.parts, rp)
		}
	}
	more := c.extras()
	more.replays = append(more.replays, rep)
}

// startReplay begins to give c what lies behind a subscription that holds now.
func (l *Local) startReplay(c *Client, r *SubscribeRequest) {
	if c.more == nil || r.From.Kind == ReplayNone {
		return
	}
	for _, rep := range c.more.replays {
		if string(rep.filter) == string(r.Filter) {
			for _, rp := range rep.parts {
				l.beginReplay(c, rp, r.From)
			}
		}
	}
	l.later(c)
}

func (l *Local) beginReplay(c *Client, rp *replayPart, from ReplayFrom) {
	begin := func(o record.Offset) {
		rp.at, rp.began = min(max(o, rp.p.LogStart()), rp.p.LastStable()), true
		l.later(c)
	}
	switch from.Kind {
	case ReplayOffset:
		begin(record.Offset(from.Offset))
	case ReplayTime:
		l.OffsetAt(rp.p, from.Milli, true, func(f FoundOffset, err error) {
			if errors.Is(err, ErrTier) && !rp.ended {
				l.replayRests(rp, err, func() { l.beginReplay(c, rp, from) })
				return
			}
			if err != nil || f.Offset < 0 {
				f.Offset = rp.p.LastStable()
			}
			begin(f.Offset)
		})
	case ReplayLatest:
		begin(math.MaxInt64)
	case ReplayEarliest, ReplayNone:
		begin(0)
	}
}

// replayRests has a part of a replay go on later: the store does not give what comes next. Nothing is left out.
func (l *Local) replayRests(rp *replayPart, err error, again func()) {
	rp.fails++
	rp.rests = true
	l.b.storeTrouble("a replay waits", err)
	l.SetTimer(&rp.timer, backoff(rp.fails), func() {
		rp.rests = false
		again()
	})
}

// replaying says whether c is yet to get something of the past.
func (c *Client) replaying() bool {
	if c.more == nil {
		return false
	}
	for _, rep := range c.more.replays {
		for _, rp := range rep.parts {
			if !rp.ended {
				return true
			}
		}
	}
	return false
}

// heldBack says whether a message of a stream is not for c now: a replay will get to it, or has given it.
func (c *Client) heldBack(m *Message) bool {
	held, over := false, false
	for _, rep := range c.more.replays {
		for i, rp := range rep.parts {
			if rp.p != m.part {
				continue
			}
			switch {
			case !rp.ended || m.offset < rp.at:
				held = held || topics.FilterMatches(rep.filter, m.Topic)
			case c.feed == nil: // from here on all come as usual; a session's queues may hold some that came before
				rep.parts = slices.Delete(rep.parts, i, i+1)
				over = over || len(rep.parts) == 0
			}
			break
		}
	}
	if over {
		c.more.replays = slices.DeleteFunc(c.more.replays, func(rep *replay) bool { return len(rep.parts) == 0 })
	}
	return held
}

// dropReplay ends the replay of a filter that c has left, or asks for anew.
func (c *Client) dropReplay(filter []byte) {
	if c.more == nil {
		return
	}
	c.more.replays = slices.DeleteFunc(c.more.replays, func(o *replay) bool {
		if string(o.filter) != string(filter) {
			return false
		}
		o.end(c.local)
		return true
	})
}

// endReplays ends all of them: the connection is gone.
func (c *Client) endReplays() {
	if c.more == nil {
		return
	}
	for _, rep := range c.more.replays {
		rep.end(c.local)
	}
	c.more.replays = nil
}

// end lets go of what was read. What is being read lets go of itself.
func (rep *replay) end(l *Local) {
	for _, rp := range rep.parts {
		l.endPart(rp)
	}
}

func (l *Local) endPart(rp *replayPart) {
	if rp.ended = true; !rp.reading {
		rp.fetch.Release()
	} else {
		l.Leave(&rp.fetch)
	}
	l.StopTimer(&rp.timer)
	l.closeOpened(&rp.walk.opened)
}

// replay gives c the next of what it is to get of the past. It says whether more can come now.
func (l *Local) replay(c *Client) (more bool) {
	if r, ok := c.sub.(Roomy); ok && !r.Room() {
		return false // Ready brings it back
	}
	reading := 0
	for _, rep := range c.more.replays {
		for _, rp := range rep.parts {
			switch {
			case rp.ended || !rp.began || rp.rests:
			case rp.reading:
				if reading++; reading == replayReads {
					return false // what has been read comes back
				}
			default:
				return l.replayRead(c, rep, rp)
			}
		}
	}
	return false
}

func (l *Local) replayRead(c *Client, rep *replay, rp *replayPart) (more bool) {
	if len(rp.fetch.Batches) > 0 || rp.came {
		rp.came = false
		return l.replayTake(c, rep, rp)
	}
	if !l.FetchTail(rp.p, rp.at, replayBytes, true, &rp.fetch) {
		return l.replayTake(c, rep, rp)
	}
	rp.reading = true
	l.FetchCold(rp.p, rp.at, replayBytes, true, &rp.fetch, func() {
		if rp.reading, rp.came = false, true; rp.ended {
			rp.fetch.Release()
			return
		}
		l.later(c)
	})
	return true // of other partitions
}

// replayTake gives what was read, as far as there is room.
func (l *Local) replayTake(c *Client, rep *replay, rp *replayPart) (more bool) {
	f := &rp.fetch
	switch {
	case errors.Is(f.Err, ErrOffsetOutOfRange) && rp.at < f.LogStart:
		rp.at = f.LogStart
		return true
	case errors.Is(f.Err, ErrTier):
		err := f.Err
		f.Release()
		l.replayRests(rp, err, func() { l.later(c) })
		return true
	case f.Err != nil || len(f.Batches) == 0:
		if f.Err != nil && !errors.Is(f.Err, ErrUnknownTopic) {
			l.b.logger.Error("a replay has ended early", "client", c.sess.id, "topic", rp.p.topic.Name(), "partition", rp.p.index, "err", f.Err)
		}
		if f.Err == nil {
			rp.at = max(rp.at, f.LastStable) // what lies between was compacted
		}
		l.endPart(rp)
		return true
	}
	rp.fails = 0
	if open := rp.p.open.Load(); open != nil && len(*open) > 0 {
		rp.list = *open
	}
	if !l.replayBatches(c, rep, rp) {
		return false // there is no room, or the connection has ended and with it the replay
	}
	f.Release()
	return true
}

// replayBatches walks what was read. False: c has no room for the rest.
func (l *Local) replayBatches(c *Client, rep *replay, rp *replayPart) bool {
	aborted := rp.fetch.Aborted
	clear(rp.walk.skip)
	for _, raw := range rp.fetch.Batches {
		for len(raw) > 0 {
			b, n, err := record.ParseBatch(raw)
			if err != nil {
				rp.at = rp.fetch.LastStable
				return true
			}
			raw = raw[n:]
			aborted = rp.walk.decide(b, aborted)
			if b.NextOffset() <= rp.at {
				continue
			}
			if b.Attributes()&record.Control == 0 && !rp.walk.aborted(b) && !l.replayBatch(c, rep, rp, b) {
				return false
			}
			rp.at = max(rp.at, b.NextOffset())
		}
	}
	return true
}

func (l *Local) replayBatch(c *Client, rep *replay, rp *replayPart, b record.Batch) bool {
	own := ownBatch(b)
	if !own && !delivers(rp.list) {
		return true
	}
	it, again, err := l.recordsOf(&rp.walk.opened, b, rp.at)
	if err != nil {
		return true
	}
	m := &l.message
	now := l.nowMilli()
	room, _ := c.sub.(Roomy)
	for again || it.Next() {
		again = false
		rec := it.Record()
		if rec.Offset < rp.at {
			continue
		}
		if room != nil && !room.Room() {
			l.keepOpened(&rp.walk.opened, b, &it, rp.at)
			return false
		}
		var ok bool
		l.props, rp.walk.topic, ok = streamMessage(m, rec, own, rp.list, l.props, rp.walk.topic)
		rp.at = rec.Offset + 1
		if !ok || m.Deadline != 0 && m.Deadline <= now || !topics.FilterMatches(rep.filter, m.Topic) {
			continue
		}
		if l.b.publishedBy(m, rec); own && rep.opts&optNoLocal != 0 && m.by(c) {
			continue
		}
		m.part, m.offset = rp.p, rec.Offset
		m.Cache = &l.cache
		l.cache.Kind = 0
		d := &l.delivery
		*d = Delivery{SubscriptionIDs: rep.ids, QoS: min(m.QoS, QoS(rep.opts&optQoS)), Retain: m.Retain && rep.opts&optRAP != 0}
		c.sub.Deliver(m, d)
		if c.state != clientConnected {
			return false
		}
	}
	l.closeOpened(&rp.walk.opened)
	return true
}

// heldBackQueued leaves a message that the queues of c's session hold to the queues: they are read when the replay has ended.
func (l *Local) heldBackQueued(c *Client, opts uint32, ref Ref) {
	if f := c.feed; f != nil && ref.Seq != 0 && opts&optDurable != 0 {
		f.at(ref.Shard).behind = true
	}
}
