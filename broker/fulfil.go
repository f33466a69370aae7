package broker

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// unsent is a message that was promised, or is about to be, and has not left.
type unsent struct {
	body  *bundle
	ids   []uint32
	batch *promiseBatch // nil: to be handed to the journal at the end of the turn
	promise
	opts uint32
}

// unsentList is what a connection has of such, in the order in which it came.
type unsentList struct {
	list    []unsent
	bytes   int  // of the bodies
	listed  bool // on the Local's list of those with new ones
	stalled bool // a live client has no room
}

// promiseBatch is the promises of one command. refs are those of shared groups that wait to hear what became of them.
type promiseBatch struct {
	refs      []Ref
	committed bool
	unsent    int // of refs
}

// keptPromise is one whose end is to be journaled.
type keptPromise struct {
	shard uint16
	id    uint16
}

// unsentBytes is from how many bytes on a connection is promised no more of shared groups until some have left.
const unsentBytes = 1 << 20

func (o *unsentList) add(u unsent) {
	o.list = append(o.list, u)
	o.bytes += len(u.body.buf)
}

// drop lets go of a body.
func (o *unsentList) drop(u *unsent) {
	o.bytes -= len(u.body.buf)
	putBundle(u.body)
}

// keptMax is how many of them wait for the tick.
const keptMax = 1024

func (c *Client) outbox() *unsentList {
	more := c.extras()
	if more.unsent == nil {
		more.unsent = new(unsentList)
	}
	return more.unsent
}

// canPromise says whether c can be promised one more message. A live member's messages out are counted without the one that it is
// asked for.
func (c *Client) canPromise() bool {
	if o := c.unsent(); o != nil && (o.stalled || o.bytes >= unsentBytes) {
		return false
	}
	if f := c.feed; f != nil {
		return f.due == 0 && !f.stalled && f.room() > 0
	}
	return int(c.shared.Load()) < int(c.window)
}

// room is how many promises more may be made. With those whose end is not in the log yet they have half of the core's identifiers.
func (f *feed) room() int { return min(f.window-f.open, CorePacketIDs/2-1-len(f.promised)) }

// promiseShared makes a QoS 2 message of a shared group its member's own. That is in the log before the message leaves: whatever
// breaks then, nobody else gets it.
func (l *Local) promiseShared(c *Client, m *Message, d *carried) {
	c.shared.Add(-1)
	if c.state != clientConnected || !c.canPromise() {
		c.full.Store(c.state == clientConnected)
		l.giveBack(&sharedOut{ref: d.ref})
		return
	}
	c.shared.Add(1)
	u := unsent{body: carry(m), opts: d.opts, ids: d.ids}
	u.promise = promise{from: d.ref.Group, seq: d.ref.Seq, shard: d.ref.Shard, qos: 2, state: outGranting, at: l.b.nowMilli(), lent: true}
	if c.feed != nil {
		c.feed.promise(&u.promise)
	}
	o := c.outbox()
	o.add(u)
	if !o.listed {
		o.listed = true
		l.promising = append(l.promising, c)
		l.kick()
	}
}

// promise takes an identifier for p.
func (f *feed) promise(p *promise) {
	if f.promised == nil {
		f.promised = make(map[uint16]promise)
	}
	p.id = f.freeID()
	f.promised[p.id] = *p
	f.open++
}

// forget takes back a promise that was not made.
func (f *feed) forget(id uint16) {
	delete(f.promised, id)
	f.open--
}

func (c *Client) sessionNumber() uint64 {
	if c.sess.d != nil {
		return c.sess.d.id
	}
	return 0
}

// flushPromises makes this turn's promises commands, one for each session and shard.
func (l *Local) flushPromises() {
	for i, c := range l.promising {
		l.promising[i] = nil
		o := c.unsent()
		o.listed = false
		if c.state != clientConnected {
			continue // what is not in the log goes back when the connection is let go
		}
		for {
			at := slices.IndexFunc(o.list, func(u unsent) bool { return u.batch == nil })
			if at < 0 {
				break
			}
			l.flushShard(c, o.list[at:], o.list[at].shard)
		}
	}
	l.promising = l.promising[:0]
}

// flushShard makes the new promises of one shard a command.
func (l *Local) flushShard(c *Client, list []unsent, shard uint16) {
	batch := &promiseBatch{refs: make([]Ref, 0, len(list))}
	body := l.body[:0]
	for i := range list {
		if u := &list[i]; u.batch == nil && u.shard == shard {
			u.batch = batch
			body = appendPromise(body, &u.promise)
			batch.refs = append(batch.refs, u.ref())
		}
	}
	batch.unsent = len(batch.refs)
	cmd := appendCommand(l.headers[:0], cmdPromise, c.sessionNumber())
	cmd = binary.AppendUvarint(cmd, uint64(len(batch.refs)))
	cmd = binary.AppendUvarint(append(cmd, body...), 0)
	l.body, l.headers = body, cmd
	c.waiting++
	if err := l.b.command(l.b.homes[shard], cmd, l.promiseEntry(c, batch)); err != nil {
		l.promisesFailed(c, batch, err)
	}
}

func (l *Local) promiseEntry(c *Client, batch *promiseBatch) entry {
	return entry{
		done: func() {
			l.Run(func() {
				batch.committed = true
				if c.state == clientConnected {
					l.sendPromises(c)
					l.later(c)
				}
				l.settled(c)
			})
		},
		failed: func(err error) { l.Run(func() { l.promisesFailed(c, batch, err) }) },
	}
}

// promisesFailed takes back promises that the log did not take.
func (l *Local) promisesFailed(c *Client, batch *promiseBatch, err error) {
	o := c.unsent()
	o.list = slices.DeleteFunc(o.list, func(u unsent) bool {
		if u.batch != batch {
			return false
		}
		if c.feed != nil {
			c.feed.forget(u.id)
		}
		if u.retained {
			c.feed.retaining--
		}
		if u.lent {
			l.freeMember(c)
		}
		o.drop(&u)
		return true
	})
	for _, ref := range batch.refs {
		l.giveBack(&sharedOut{ref: ref})
	}
	l.kickSelf(c, err)
	l.settled(c)
}

// sendPromises sends what the log has, while the receiver has room.
func (l *Local) sendPromises(c *Client) {
	o, f := c.unsent(), c.feed
	if o == nil || len(o.list) == 0 || o.stalled || f != nil && f.stalled {
		return
	}
	c.waiting++ // c stays until the list is whole again
	list := o.list
	rest := list[:0]
	for i := range list {
		u := list[i]
		if c.state != clientConnected || o.stalled || f != nil && f.stalled || !u.batch.sendable() || !l.sendPromise(c, &u) {
			rest = append(rest, u)
		}
	}
	clear(list[len(rest):])
	o.list = rest
	l.settled(c)
}

func (b *promiseBatch) sendable() bool { return b != nil && b.committed }

// sendPromise sends one message. False: the receiver has no room.
func (l *Local) sendPromise(c *Client, u *unsent) bool {
	m := &l.message
	u.body.view(0, m)
	m.Cache = &l.cache
	l.cache.Kind = 0
	d := &l.delivery
	*d = Delivery{Ref: u.ref(), SubscriptionIDs: u.ids, QoS: u.qos, Retain: u.retained || m.Retain && u.opts&optRAP != 0, PacketID: u.id, Shared: !u.retained}
	id, ok := c.sub.Deliver(m, d)
	if !ok && c.state == clientConnected {
		if c.feed != nil {
			c.feed.stalled = true
		} else {
			c.outbox().stalled = true
		}
		return false
	}
	if c.feed == nil { // the group has nothing to do with it any more
		more := c.extras()
		more.sharedOut = append(more.sharedOut, sharedOut{id: id, qos: 2})
	} else if p, open := c.feed.promised[u.id]; open && p.state == outGranting {
		p.state = outSent
		c.feed.promised[u.id] = p
	}
	c.outbox().drop(u)
	if !u.retained {
		l.left(u.batch, 1)
		return true
	}
	if c.feed != nil {
		c.feed.retaining--
		c.feed.yields = c.feed.retaining == 0
	}
	return true
}

// left counts messages of a batch as sent or given back. The groups hear of all that were sent at once.
func (l *Local) left(b *promiseBatch, n int) {
	if b.unsent -= n; b.unsent > 0 || len(b.refs) == 0 {
		return
	}
	s, refs := l.b.homes[b.refs[0].Shard], b.refs
	s.home.Run(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, ref := range refs {
			s.finishLocked(ref)
		}
	})
}

// settlePromises brings what a connection that ends was promised into the log: what it never got of shared groups goes back to them,
// what it has finished is done. It says whether that has to be waited for.
func (l *Local) settlePromises(c *Client) (waits bool) {
	if f := c.feed; f != nil {
		l.journalKept(f)
		for _, id := range f.owed {
			if p := f.promised[id]; p.due && p.fresh {
				l.b.homes[p.shard].neverSent(c.sess.d.id, id)
			}
		}
	}
	if o := c.unsent(); o != nil && len(o.list) > 0 {
		list := o.list
		o.list = nil
		back := make(map[*promiseBatch][]promise)
		for i := range list {
			u := &list[i]
			switch {
			case u.retained: // it is the session's own
				l.b.homes[u.shard].neverSent(c.sess.d.id, u.id)
			case u.batch == nil:
				l.giveBack(&sharedOut{ref: u.ref()})
			default:
				back[u.batch] = append(back[u.batch], u.promise)
			}
			if c.feed != nil && !u.retained {
				c.feed.forget(u.id)
			}
			o.drop(u)
		}
		for batch, promises := range back {
			l.giveBackPromised(c, batch, promises)
		}
	}
	return c.waiting > 0
}

// giveBackPromised has the log take back promises of shared groups of which nothing was sent; then other members may have them. If the
// log does not take it, they stay with a kept session.
func (l *Local) giveBackPromised(c *Client, batch *promiseBatch, promises []promise) {
	s := l.b.homes[promises[0].shard]
	cmd := appendCommand(nil, cmdBack, c.sessionNumber())
	cmd = binary.AppendUvarint(cmd, uint64(len(promises)))
	for i := range promises {
		p := &promises[i]
		cmd = appendPromise(cmd, p)
		batch.refs = slices.DeleteFunc(batch.refs, func(r Ref) bool { return r == p.ref() })
	}
	l.left(batch, len(promises))
	returned := func() {
		for i := range promises {
			s.home.groupReturned(s, promises[i].ref())
		}
		l.Run(func() { l.settled(c) })
	}
	failed := func(error) {
		if c.sess.d == nil {
			returned()
			return
		}
		s.mu.Lock()
		for i := range promises {
			s.finishLocked(promises[i].ref())
		}
		s.mu.Unlock()
		l.Run(func() { l.settled(c) })
	}
	c.waiting++
	if err := l.b.command(s, cmd, entry{done: returned, failed: failed}); err != nil {
		s.home.Run(func() { failed(err) })
	}
}

// keptPromise ends a promise, if packetID is one.
func (l *Local) keptPromise(f *feed, packetID uint16) bool {
	p, ok := f.promised[packetID]
	if !ok || p.state != outSent && p.state != outReceived {
		return false
	}
	if p.due {
		f.due--
	}
	if p.lent {
		l.freeMember(f.c)
	}
	p.state, p.due = outDone, false
	f.promised[packetID] = p
	f.open--
	f.kept = append(f.kept, keptPromise{p.shard, p.id})
	if len(f.kept) >= keptMax {
		l.journalKept(f)
	}
	return true
}

// journalKept makes the ends of promises commands, one for each shard. Their identifiers are free when those are applied.
func (l *Local) journalKept(f *feed) {
	kept := f.kept
	f.kept = nil
	slices.SortFunc(kept, func(a, b keptPromise) int { return cmp.Compare(a.shard, b.shard) })
	for len(kept) > 0 {
		n := 1
		for n < len(kept) && kept[n].shard == kept[0].shard {
			n++
		}
		ids := kept[:n]
		kept = kept[n:]
		cmd := appendCommand(nil, cmdKept, f.c.sess.d.id)
		cmd = binary.AppendUvarint(cmd, uint64(n))
		for _, k := range ids {
			cmd = binary.AppendUvarint(cmd, uint64(k.id))
		}
		e := entry{
			done: func() { l.Run(func() { l.keptCommitted(f, ids) }) },
			failed: func(error) {
				l.Run(func() {
					if f.c.feed == f && f.c.state == clientConnected {
						f.kept = append(f.kept, ids...)
						l.progressed(f)
					}
					l.settled(f.c)
				})
			},
		}
		f.c.waiting++
		if err := l.b.command(l.b.homes[ids[0].shard], cmd, e); err != nil {
			f.c.waiting-- // the log takes nothing more: a restart sends again
		}
	}
}

func (l *Local) keptCommitted(f *feed, ids []keptPromise) {
	for _, k := range ids {
		delete(f.promised, k.id)
	}
	if f.c.full.Load() || len(f.c.jobs()) > 0 {
		l.later(f.c)
	}
	l.settled(f.c)
}

// receivedPromise is Received for a promise.
func (l *Local) receivedPromise(f *feed, p promise, t Token) (Outcome, error) {
	c := f.c
	cmd := appendCommand(l.headers[:0], cmdReceived, c.sess.d.id)
	cmd = binary.AppendUvarint(cmd, uint64(p.id))
	l.headers = cmd
	failed := func(err error) {
		l.Run(func() {
			if have, open := f.promised[p.id]; open && have.state == outReceived {
				have.state = outSent
				f.promised[p.id] = have
			}
			l.completed(c, Result{Token: t, Err: err})
		})
	}
	if err := l.b.command(l.b.homes[p.shard], cmd, entry{c: c, tok: t, failed: failed}); err != nil {
		return 0, err
	}
	if p.due {
		f.due--
	}
	p.state, p.due = outReceived, false
	f.promised[p.id] = p
	c.waiting++
	return Pending, nil
}

// restorePromises takes up what earlier connections were promised. The caller holds the lock of the list's shard.
func (f *feed) restorePromises(list []promise) {
	at := len(f.owed)
	for i := range list {
		p := list[i]
		list[i].fresh = false
		if f.promised == nil {
			f.promised = make(map[uint16]promise)
		}
		if p.due = p.state == outSent; p.due {
			f.owed = append(f.owed, p.id)
			f.due++
		}
		f.promised[p.id] = p
		f.open++
		f.reused = true
	}
	slices.SortFunc(f.owed[at:], func(a, b uint16) int { return cmp.Compare(f.promised[a].seq, f.promised[b].seq) })
}

// releasePromises has PUBREL sent again for those that were received.
func (l *Local) releasePromises(f *feed) {
	for id, p := range f.promised {
		if p.state == outReceived {
			f.c.sub.Control(Control{Kind: ControlRelease, PacketID: id})
		}
	}
}

// fetchPromised asks for the next promises that are to be sent again, if there are any.
func (l *Local) fetchPromised(f *feed) bool {
	j := fetchJob{c: f.c, resend: true, promised: true}
	for _, id := range f.owed {
		p := f.promised[id]
		if !p.due {
			continue
		}
		if len(j.seqs) == 0 {
			j.shard = p.shard
		}
		if p.shard != j.shard || len(j.seqs) == fetchRefs {
			break
		}
		j.seqs = append(j.seqs, p.seq)
	}
	if len(j.seqs) == 0 {
		return false
	}
	j.seqs = slices.Compact(j.seqs)
	f.fetching++
	l.b.fetcher.submit(j)
	return true
}

// resendPromised sends promises again, as far as the receiver has room. What the log no longer holds is given up.
func (l *Local) resendPromised(f *feed, bu *bundle) {
	at := 0
	for ; len(f.owed) > 0; f.owed = f.owed[1:] {
		p := f.promised[f.owed[0]]
		if !p.due {
			continue
		}
		if p.shard != bu.shard || p.seq > bu.through {
			return
		}
		for at < len(bu.msgs) && bu.msgs[at].ref.Seq < p.seq {
			at++
		}
		if at == len(bu.msgs) || bu.msgs[at].ref.Seq != p.seq {
			l.b.stats.QueueDropped[DropLost].Add(1)
			l.givePromiseUp(f, p)
			continue
		}
		if f.open-f.due >= f.window || !l.sendAgain(f, &p, bu, at) {
			f.stalled = f.c.state == clientConnected
			return
		}
		p.due, p.fresh = false, false
		f.promised[p.id] = p
		f.due--
	}
	f.owed = nil
}

// sendAgain sends the message at a place of a fetch again.
func (l *Local) sendAgain(f *feed, p *promise, bu *bundle, at int) bool {
	m := &l.message
	bu.view(at, m)
	m.Cache = &l.cache
	l.cache.Kind = 0
	opts, ids := f.c.sess.d.subscriptionOf(p.from)
	d := &l.delivery
	*d = Delivery{Ref: p.ref(), SubscriptionIDs: ids, QoS: p.qos, Retain: p.retained || m.Retain && opts&optRAP != 0, Dup: !p.fresh,
		PacketID: p.id, Shared: !p.retained}
	_, ok := f.c.sub.Deliver(m, d)
	return ok && f.c.state == clientConnected
}

// givePromiseUp is giveUp for a promise.
func (l *Local) givePromiseUp(f *feed, p promise) {
	if p.qos < 2 {
		l.keptPromise(f, p.id)
		l.progressed(f)
		return
	}
	p.state, p.due = outReceived, false
	f.due--
	f.promised[p.id] = p
	f.c.sub.Control(Control{Kind: ControlRelease, PacketID: p.id})
}

// subscriptionOf gives the options and the identifier of the subscription with a filter's number.
func (d *durable) subscriptionOf(number uint64) (opts uint32, ids []uint32) {
	for _, s := range d.subscriptions() {
		if s.number == number {
			if s.id != 0 {
				ids = []uint32{s.id}
			}
			return s.opts, ids
		}
	}
	return 0, nil
}
