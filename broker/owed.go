package broker

import (
	"encoding/binary"
	"slices"

	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/journal/record"
)

// owedRetained is the retained messages that a subscription of a durable session has yet to bring: from a topic on.
type owedRetained struct {
	number uint64
	from   []byte
}

func (d *durable) endOwed(number uint64) {
	d.owed = slices.DeleteFunc(d.owed, func(o owedRetained) bool { return o.number == number })
	if len(d.owed) == 0 {
		d.owed = nil
	}
}

func (d *durable) endOwedAll(numbers map[uint64]bool) {
	if len(d.owed) == 0 {
		return
	}
	d.owed = slices.DeleteFunc(d.owed, func(o owedRetained) bool { return numbers[o.number] })
	if len(d.owed) == 0 {
		d.owed = nil
	}
}

// owes notes what subscriptions that have come owe the session: one that has taken the place of another, whose filter had the number was, ends what that owed, and
// one that brings retained messages owes them all.
func (d *durable) owes(subs []durableSubscription, was []uint64, owed []bool) {
	ended, begun := make(map[uint64]bool), make(map[uint64]bool)
	for i := range subs {
		n := subs[i].number
		if was[i] != n || subs[i].lowered() {
			ended[was[i]] = true
			delete(begun, was[i])
		}
		if owed[i] {
			ended[n], begun[n] = true, true
		}
	}
	d.endOwedAll(ended)
	for i := range subs {
		if n := subs[i].number; owed[i] && begun[n] {
			d.owed = append(d.owed, owedRetained{number: n})
			delete(begun, n)
		}
	}
}

// movedOn notes what a subscription has brought.
func (d *durable) movedOn(number uint64, left bool, from []byte) {
	if !left {
		d.endOwed(number)
		return
	}
	for i := range d.owed {
		if d.owed[i].number == number {
			d.owed[i].from = slices.Clone(from)
		}
	}
}

func appendOwed(dst []byte, list []owedRetained) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for i := range list {
		dst = binary.AppendUvarint(dst, list[i].number)
		dst = appendBytes(dst, list[i].from)
	}
	return dst
}

// owed reads what appendOwed wrote; rows of before have none.
func (d *decoder) owed() (list []owedRetained) {
	if len(d.b) == 0 {
		return nil
	}
	for n := d.count(); n > 0 && !d.bad; n-- {
		list = append(list, owedRetained{number: d.uvarint(), from: slices.Clone(d.bytes())})
	}
	return list
}

// owedJobs gives the jobs of what the session is owed since earlier connections.
func (f *feed) owedJobs() (jobs []retainedJob) {
	d, s := f.c.sess.d, f.c.sess.shard
	s.mu.Lock()
	owed := slices.Clone(d.owed)
	s.mu.Unlock()
	if len(owed) == 0 {
		return nil
	}
	at := make(map[uint64]int)
	subs := d.subscriptions()
	for i := range subs {
		at[subs[i].number] = i
	}
	for _, o := range owed {
		if i, ok := at[o.number]; ok {
			sub := &subs[i]
			jobs = append(jobs, retainedJob{filter: []byte(sub.filter), opts: sub.opts, id: sub.id, number: sub.number, cursor: topics.CursorFrom(o.from)})
		}
	}
	return jobs
}

// keeps says whether a message of the job is kept for the session until it is acknowledged.
func (j *retainedJob) keeps(m *Message) bool {
	return j.number != 0 && min(m.QoS, QoS(j.opts&optQoS)) > 0
}

func (j *retainedJob) ids() []uint32 {
	if j.id == 0 {
		return nil
	}
	return []uint32{j.id}
}

// appendPlace appends how far the job has come.
func (j *retainedJob) appendPlace(dst []byte) []byte {
	dst = append(dst, 1)
	dst = binary.AppendUvarint(dst, j.number)
	dst = binary.AppendUvarint(dst, boolBit(!j.cursor.Done()))
	return appendBytes(dst, j.cursor.Place())
}

// promiseRetained makes the next retained messages of a job the session's own: their copies, the promises and how far the job has come
// are one write. Each comes as it was then, whatever becomes of the topic meanwhile. It says whether more is left and can come now.
func (l *Local) promiseRetained(c *Client, job *retainedJob) (more bool) {
	f := c.feed
	if opts, _ := c.sess.d.subscriptionOf(job.number); opts == 0 { // it was replaced
		c.nextJob()
		return len(c.jobs()) > 0
	}
	if err := l.b.writable(); err != nil {
		l.kickSelf(c, err)
		return false
	}
	room := min(f.room(), retainedTurn)
	if room <= 0 {
		return false // Acked comes back to it
	}
	from := job.cursor.Place()
	bu, size := l.matchRetained(c, job, room)
	defer putBundle(bu)
	if !l.journalRetained(c, job, bu, size) {
		job.cursor = topics.CursorFrom(from)
		return false
	}
	done := job.cursor.Done()
	l.sendUnkept(c, job, bu)
	if done && c.state == clientConnected {
		c.nextJob()
	}
	if f.retaining > 0 {
		return false // sendPromise comes back to it
	}
	return len(c.jobs()) > 0
}

// journalRetained writes what is to be kept of a turn's retained messages. False: the pending list is full.
func (l *Local) journalRetained(c *Client, job *retainedJob, bu *bundle, size int) bool {
	f, s := c.feed, c.sess.shard
	s.mu.Lock()
	if !s.leadsLocked() { // the connection is being ended
		s.mu.Unlock()
		return false
	}
	p, ok := s.fillLocked(size)
	if !ok {
		s.waitLocked(c)
		s.mu.Unlock()
		return false
	}
	batch := new(promiseBatch)
	o, m := c.outbox(), &l.message
	body := l.body[:0]
	n := 0
	for i := range bu.msgs {
		if bu.view(i, m); !job.keeps(m) {
			continue
		}
		u := unsent{body: carry(m), opts: job.opts, ids: job.ids(), batch: batch}
		u.promise = promise{from: job.number, seq: l.copyLocked(s, p, m), shard: uint16(s.id), qos: min(m.QoS, QoS(job.opts&optQoS)),
			state: outGranting, at: l.b.nowMilli(), retained: true}
		f.promise(&u.promise)
		body = appendPromise(body, &u.promise)
		o.add(u)
		n++
	}
	l.body = body
	first := false
	if n > 0 || job.cursor.Done() { // where nothing is kept, a restart looks again
		e := entry{}
		if n > 0 {
			e = l.promiseEntry(c, batch)
			c.waiting++
			f.retaining += n
		}
		cmd := binary.AppendUvarint(appendCommand(nil, cmdPromise, c.sess.d.id), uint64(n))
		first = s.commandLocked(job.appendPlace(append(cmd, body...)), e)
	}
	s.mu.Unlock()
	if first {
		l.b.dirtyShard(s)
	}
	l.b.stats.Journaled.Add(int64(n))
	return true
}

// copyLocked appends a record that no queue refers to.
func (l *Local) copyLocked(s *shard, p *pending, m *Message) (seq uint64) {
	p.extra = binary.AppendUvarint(p.extra, 0)
	return l.copyBodyLocked(s, p, m)
}

// copyBodyLocked is copyLocked behind the flags of the reference item.
func (l *Local) copyBodyLocked(s *shard, p *pending, m *Message) (seq uint64) {
	in := record.Input{Key: m.Topic, Value: m.Payload, Timestamp: m.Timestamp}
	if in.Value == nil {
		in.Value = []byte{}
	}
	l.headers, in.RawCount = appendMessageHeaders(l.headers[:0], m, 0)
	in.RawHeaders = l.headers
	p.extra = binary.AppendUvarint(p.extra, uint64(len(m.Topic)+len(m.Payload)+len(m.Props)))
	p.extra = binary.AppendUvarint(p.extra, 0)
	p.entries = append(p.entries, entry{kind: entryRecord})
	return s.appendRecordLocked(p, &in)
}
