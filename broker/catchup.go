package broker

import "github.com/sluicemq/sluice/broker/topics"

// fetchRefs is how many references one fetch asks for.
const fetchRefs = 256

// catchUp asks for the next messages of one shard, or finds that the session has them all.
func (l *Local) catchUp(f *feed, fs *feedShard) {
	s := l.b.homes[fs.shard]
	seqs := l.seqs[:0]
	s.mu.Lock()
	for _, sub := range f.c.sess.d.subscriptions() {
		if sub.number == 0 || sub.group != "" {
			continue
		}
		if q := s.mu.queues[sub.number]; q != nil {
			seqs = q.after(seqs, max(fs.cursor, seqOf(sub.starts, fs.shard)), fetchRefs)
		}
	}
	s.mu.Unlock()
	l.seqs = seqs
	if len(seqs) == 0 {
		fs.behind = false
		return
	}
	seqs = mergeSeqs(seqs, fetchRefs)
	f.fetching++
	l.b.fetcher.submit(fetchJob{c: f.c, shard: fs.shard, seqs: append([]uint64(nil), seqs...)})
}

// fetchDue asks for the next messages of the queues that are to be sent again.
func (l *Local) fetchDue(f *feed) {
	var seqs []uint64
	var shard uint16
	for i := range f.restored {
		e := &f.restored[i]
		if !e.due {
			continue
		}
		if len(seqs) == 0 {
			shard = e.shard
		}
		if e.shard != shard || len(seqs) == fetchRefs {
			break
		}
		seqs = append(seqs, e.seq)
	}
	f.fetching++
	l.b.fetcher.submit(fetchJob{c: f.c, shard: shard, seqs: seqs, resend: true})
}

// fetched takes what the pool has read.
func (l *Local) fetched(c *Client, bu *bundle) {
	f := c.feed
	if f == nil || c.state != clientConnected {
		putBundle(bu)
		return
	}
	f.fetching--
	failed := bu.failed
	if failed {
		l.failedFeeds = append(l.failedFeeds, c)
	}
	if bu.resend {
		if bu.promised {
			l.resendPromised(f, bu)
		} else {
			l.resend(f, bu)
		}
		putBundle(bu)
		if f.due == 0 && c.state == clientConnected {
			l.readyShared(c)
		}
	} else {
		f.parked, f.parkedAt, f.yields = bu, 0, false
		if !f.stalled && f.retaining == 0 {
			l.takeParked(f)
		}
	}
	if !failed {
		l.later(c)
	}
}

// resend sends again what was in flight when the session's last connection ended, as far as the receiver has room. What the log no
// longer holds is given up.
func (l *Local) resend(f *feed, bu *bundle) {
	m := &l.message
	at := 0
	for i := range f.restored {
		e := &f.restored[i]
		if !e.due || e.shard != bu.shard || e.seq > bu.through {
			continue
		}
		for at < len(bu.msgs) && bu.msgs[at].ref.Seq < e.seq {
			at++
		}
		if at == len(bu.msgs) || bu.msgs[at].ref.Seq != e.seq {
			l.b.stats.QueueDropped[DropLost].Add(1)
			l.giveUp(f, e)
			continue
		}
		if f.open-f.due >= f.window {
			f.stalled = true
			return
		}
		bu.view(at, m)
		m.Cache = &l.cache
		l.cache.Kind = 0
		t := l.subscribedTo(f, m.Topic)
		d := &l.delivery
		*d = Delivery{Ref: e.ref(), SubscriptionIDs: t.ids, QoS: e.qos, Retain: m.Retain && t.opts&optRAP != 0, Dup: true, PacketID: e.id}
		_, ok := f.c.sub.Deliver(m, d)
		if f.c.state != clientConnected {
			return
		}
		if !ok {
			f.stalled = true
			return
		}
		e.due = false
		f.due--
	}
	l.progressed(f)
}

// giveUp ends a message that was sent and cannot be sent again. At QoS 2 the receiver may hold its identifier: it is released before it
// is taken for another one.
func (l *Local) giveUp(f *feed, e *outEntry) {
	if e.qos < 2 {
		f.close(e)
		return
	}
	e.state, e.due = outReceived, false
	f.due--
	f.changed = true
	f.c.sub.Control(Control{Kind: ControlRelease, PacketID: e.id})
}

// takeParked offers fetched messages until the receiver is full.
func (l *Local) takeParked(f *feed) {
	bu := f.parked
	fs := f.at(bu.shard)
	m := &l.message
	for f.parkedAt < len(bu.msgs) {
		c := bu.view(f.parkedAt, m)
		if c.ref.Seq > fs.cursor {
			m.Cache = &l.cache
			l.cache.Kind = 0
			t := l.subscribedTo(f, m.Topic)
			switch {
			case t.opts&optDurable == 0, f.c.more != nil && m.part != nil && f.c.heldBack(m), t.opts&optNoLocal != 0 && c.publisher == f.c.sess.d.id:
				if !f.meet(c.ref) {
					f.done(c.ref)
				}
			case !l.offer(f, m, t.opts, t.ids, c.ref):
				if f.c.state == clientConnected {
					f.stalled = true
					l.progressed(f)
				}
				return
			}
			if f.c.state != clientConnected {
				return // release has let go of the bundle
			}
			fs.cursor = c.ref.Seq
		}
		f.parkedAt++
	}
	if bu.through > fs.cursor { // references whose record is gone
		fs.cursor = bu.through
		f.done(Ref{Shard: bu.shard, Seq: bu.through})
	}
	f.parked = nil
	putBundle(bu)
	l.progressed(f)
}

// subscribedTopic is what a session's subscriptions make of a topic.
type subscribedTopic struct {
	opts uint32
	ids  []uint32
}

// subscribedTo merges the session's subscriptions that match a topic.
func (l *Local) subscribedTo(f *feed, topic []byte) subscribedTopic {
	subs := f.c.sess.d.subs.Load()
	if f.seenOf != subs || f.seen == nil || len(f.seen) > 1024 {
		f.seen, f.seenOf = make(map[string]subscribedTopic), subs
	}
	t, ok := f.seen[string(topic)]
	if ok {
		return t
	}
	first := true
	for _, s := range f.c.sess.d.subscriptions() {
		if s.group != "" || !topics.FilterMatches([]byte(s.filter), topic) {
			continue
		}
		if first {
			t.opts, first = s.opts, false
			if s.id != 0 {
				t.ids = []uint32{s.id}
			}
			continue
		}
		t.opts, t.ids = mergeOptions(t.opts, t.ids, s.opts, s.id)
	}
	f.seen[string(topic)] = t
	return t
}
