package broker

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/sluicemq/sluice/broker/topics"
)

func (r *SubscribeRequest) options() uint32 {
	o := uint32(r.QoS)
	if r.NoLocal {
		o |= optNoLocal
	}
	if r.RetainAsPublished {
		o |= optRAP
	}
	if r.Exclusive {
		o |= optExclusive
	}
	return o
}

// retainedJob is retained messages that a new subscription is still owed.
type retainedJob struct {
	filter []byte
	opts   uint32
	id     uint32
	number uint64 // of a durable session's filter: what it brings at QoS 1 and 2 is kept for the session
	cursor topics.Cursor
}

// full says whether the pending list has no room for what a client asks of its session, and has the client told when it has: commands that make room are taken whatever is in it,
// those of a client that asks for ever more are not.
func (s *shard) full(c *Client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pendingLocked()
	if p.size == 0 || p.size-p.batchBytes < pendingBytesMax {
		return false
	}
	s.waitLocked(c)
	return true
}

// Subscribe adds or replaces subscriptions. errs, as long as reqs, receives what is wrong with single ones (ErrFilter,
// ErrQuota, ErrExclusive); those are left out. Routed: all done, answer now; Pending: answer at Completed. Retained messages come after
// that, in later turns.
func (l *Local) Subscribe(c *Client, reqs []SubscribeRequest, errs []error, t Token) (Outcome, error) {
	if c.sess.d != nil {
		return l.subscribeDurable(c, reqs, errs, t)
	}
	again, room := repeated(reqs), c.replayRoom()
	l.startOver(c, reqs)
	for i := range reqs {
		if again != nil && again[i] {
			continue
		}
		if errs[i] = l.b.replayable(c.tenant, &room, &reqs[i]); errs[i] != nil {
			continue
		}
		if errs[i] = l.subscribeLive(c, &reqs[i]); errs[i] == nil {
			l.prepareReplay(c, &reqs[i])
			l.startReplay(c, &reqs[i])
		}
	}
	sameErrors(reqs, errs, again)
	return Routed, nil
}

// startOver has filters that are asked for again bring what is retained from the beginning, instead of going on with what they have yet to bring and beginning anew behind
// it: whoever asks faster than that goes out would have it pile up.
func (l *Local) startOver(c *Client, reqs []SubscribeRequest) {
	if c.more == nil || len(c.more.retry) == 0 {
		return
	}
	drop := make(map[string]struct{}, len(reqs))
	for i := range reqs {
		if r := &reqs[i]; l.bringsRetained(r, false) {
			drop[string(r.Filter)] = struct{}{}
		}
	}
	c.dropOwedAll(drop)
}

func (l *Local) subscribeLive(c *Client, r *SubscribeRequest) error {
	sess := c.sess
	opts := r.options()
	if err := l.b.takeExclusive(sess, r); err != nil {
		return err
	}
	id, isNew, err := l.b.index.Subscribe(c.tenant, r.Group, r.Filter,
		topics.Entry{Subscriber: sess.slot, Options: opts, SubscriptionID: r.SubscriptionID})
	if err != nil {
		if r.Exclusive {
			l.b.exclusive.release(sess, r.Filter)
		}
		return ErrFilter
	}
	if r.Group == nil && !r.Exclusive {
		l.b.exclusive.release(sess, r.Filter) // replaced
	}
	if r.NoLocal {
		c.flags |= clientNoLocal
	}
	if r.Group != nil {
		l.b.filters.join(id, topics.Entry{Subscriber: sess.slot, Options: opts, SubscriptionID: r.SubscriptionID})
		l.readyShared(c)
	}
	if isNew {
		if len(sess.subscribed()) >= l.b.limits.Load().Subscriptions {
			l.b.index.Unsubscribe(c.tenant, r.Group, r.Filter, sess.slot)
			if r.Group != nil {
				l.b.filters.part(id, sess.slot)
			} else {
				l.b.exclusive.release(sess, r.Filter)
			}
			return ErrQuota
		}
		if sess.subs == nil {
			sess.subs = new([]topics.FilterID)
		}
		*sess.subs = append(*sess.subs, id)
	}
	if l.bringsRetained(r, isNew) && l.mayMatchRetained(c.tenant, r.Filter) {
		l.oweRetained(c, r, 0)
	}
	return nil
}

// retainedLooks is how many retained topics a SUBSCRIBE looks at itself: enough to know of most filters that they match none.
const retainedLooks = 16

// mayMatchRetained looks for a retained message that filter matches; no is certain. A job for each of a hundred thousand filters that match
// none would take more memory than the filters. The subscription is in the index already: what becomes retained after the look is
// routed by it.
func (l *Local) mayMatchRetained(tenant uint32, filter []byte) bool {
	found := false
	l.probe.Reset()
	r := l.b.retained
	r.index.Match(tenant, filter, &l.probe, retainedLooks, func(uint32, []byte) bool {
		found = true
		return false
	})
	return found || !l.probe.Done()
}

// bringsRetained says whether a subscription is owed retained messages.
func (l *Local) bringsRetained(r *SubscribeRequest, isNew bool) bool {
	return r.Group == nil && r.RetainHandling != 2 && (r.RetainHandling != 1 || isNew) && !l.b.retained.empty()
}

// oweRetained remembers that c is to get the retained messages of a subscription.
func (l *Local) oweRetained(c *Client, r *SubscribeRequest, number uint64) {
	more := c.extras()
	more.retry = append(more.retry, retainedJob{filter: append([]byte(nil), r.Filter...), opts: r.options(), id: r.SubscriptionID, number: number})
	l.later(c)
}

func (l *Local) subscribeDurable(c *Client, reqs []SubscribeRequest, errs []error, t Token) (Outcome, error) {
	if err := l.b.room(); err != nil {
		return 0, err
	}
	sess := c.sess
	if sess.shard.full(c) {
		return 0, ErrBusy
	}
	have := sess.d.subscriptions()
	places, joining, again := placesOf(have, reqs), c.feed.joiningFor(len(reqs)), repeated(reqs)
	limit, room := l.b.limits.Load(), c.replayRoom()
	cmd := appendCommand(nil, cmdSubscribe, sess.d.id)
	n := 0
	var body []byte
	var jobs []subscribeJob
	var numbers []uint64
	drop := make(map[string]struct{})
	for i := range reqs {
		r := &reqs[i]
		if again != nil && again[i] {
			continue
		}
		if topics.CheckFilter(r.Filter) != nil || bytes.Count(r.Filter, []byte{'/'})+1 > limit.FilterLevels {
			errs[i] = ErrFilter
			continue
		}
		if errs[i] = l.b.replayable(c.tenant, &room, r); errs[i] != nil {
			continue
		}
		at := places.of(r.Group, r.Filter)
		if at < 0 && len(have)+n >= limit.Subscriptions {
			errs[i] = ErrQuota
			continue
		}
		if errs[i] = l.b.reserveExclusive(sess, r); errs[i] != nil {
			continue
		}
		var number uint64
		if joining.queued(r, have, at) {
			number = l.b.filters.reserve(c.tenant, string(r.Group), string(r.Filter))
			numbers = append(numbers, number)
		}
		j := subscribeJob{r: *r, number: number, owed: l.bringsRetained(r, at < 0)}
		j.r.Filter = append([]byte(nil), r.Filter...) // views die with this call
		if j.owed || r.QoS == 0 && number != 0 {
			drop[string(r.Filter)] = struct{}{}
		}
		jobs = append(jobs, j)
		body = l.b.appendSubscription(body, r, have, at, number, j.owed)
		n++
	}
	sameErrors(reqs, errs, again)
	if n == 0 {
		return Routed, nil
	}
	c.dropOwedAll(drop)
	cmd = binary.AppendUvarint(cmd, uint64(n))
	e := l.subscribeEntry(c, t, jobs, numbers)
	if err := l.b.command(sess.shard, append(cmd, body...), e); err != nil {
		l.b.settle(numbers)
		l.b.settleExclusive(sess, jobs)
		return 0, err
	}
	for k := range jobs {
		l.prepareReplay(c, &jobs[k].r)
	}
	c.feed.joins(jobs)
	c.waiting++
	return Pending, nil
}

// subscribeEntry says what comes when the log has the subscriptions, or not.
func (l *Local) subscribeEntry(c *Client, t Token, jobs []subscribeJob, numbers []uint64) entry {
	return entry{
		done: func() {
			l.b.settle(numbers)
			l.b.settleExclusive(c.sess, jobs)
			l.Run(func() { l.subscribed(c, t, jobs) })
		},
		failed: func(err error) {
			l.b.settle(numbers)
			l.b.settleExclusive(c.sess, jobs)
			l.Run(func() {
				for k := range jobs {
					if jobs[k].r.From.Kind != ReplayNone {
						c.dropReplay(jobs[k].r.Filter)
					}
				}
				l.hasJoined(c, jobs)
				l.completed(c, Result{Token: t, Err: err})
			})
		},
	}
}

// subscribeJob is what comes after a subscription.
type subscribeJob struct {
	r      SubscribeRequest
	number uint64
	owed   bool
}

// subscribed ends Subscribe for a durable session, on its loop.
func (l *Local) subscribed(c *Client, t Token, jobs []subscribeJob) {
	l.hasJoined(c, jobs)
	l.completed(c, Result{Token: t})
	again := repeatedJobs(jobs)
	for k := range jobs {
		if c.state != clientConnected {
			return
		}
		l.startReplay(c, &jobs[k].r)
		if jobs[k].owed && (again == nil || !again[k]) {
			l.oweRetained(c, &jobs[k].r, jobs[k].number)
		}
		if jobs[k].r.QoS == 0 && jobs[k].number != 0 {
			l.lookLowered(c.feed)
		}
		if jobs[k].r.Group != nil {
			l.readyShared(c)
		}
	}
}

// settle lets go of filter numbers that were reserved.
func (b *Broker) settle(numbers []uint64) {
	for _, n := range numbers {
		if b.filters.settle(n) {
			b.dropQueues(n)
		}
	}
}

func findSubscription(have []durableSubscription, group, filter []byte) int {
	for i := range have {
		if have[i].filter == string(filter) && have[i].group == string(group) {
			return i
		}
	}
	return -1
}

// appendSubscription encodes one subscription with the places from which its filter's queues count for this session. An
// existing subscription keeps its places; addSubscriptions sees to one that is on its way.
func (b *Broker) appendSubscription(dst []byte, r *SubscribeRequest, have []durableSubscription, at int, number uint64, owed bool) []byte {
	var starts []shardSeq
	opts := r.options()
	if number != 0 {
		opts |= optDurable
		if owed {
			opts |= optOwed
		}
		if at >= 0 && have[at].number == number {
			starts = have[at].starts
		} else {
			starts = b.queueEnds(number)
		}
	}
	return appendSubscriptionRow(dst, &durableSubscription{group: string(r.Group), filter: string(r.Filter), number: number, opts: opts,
		id: r.SubscriptionID, starts: starts})
}

// appendSubscriptionRow encodes what decoder.subscription reads.
func appendSubscriptionRow(dst []byte, s *durableSubscription) []byte {
	dst = appendString(dst, s.group)
	dst = appendString(dst, s.filter)
	dst = binary.AppendUvarint(dst, s.number)
	dst = binary.AppendUvarint(dst, uint64(s.opts))
	dst = binary.AppendUvarint(dst, uint64(s.id))
	return appendSeqs(dst, s.starts)
}

// queueEnds says up to where the queues of a filter reach now: what a new reader does not get.
func (b *Broker) queueEnds(number uint64) (ends []shardSeq) {
	for _, s := range b.homes {
		s.mu.Lock()
		if q := s.mu.queues[number]; q != nil {
			ends = append(ends, shardSeq{uint16(s.id), s.mu.nextSeq - 1})
		}
		s.mu.Unlock()
	}
	return ends
}

func appendSeqs(dst []byte, list []shardSeq) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for _, p := range list {
		dst = binary.AppendUvarint(dst, uint64(p.shard))
		dst = binary.AppendUvarint(dst, p.seq)
	}
	return dst
}

func (d *decoder) seqs() (list []shardSeq) {
	for n := d.count(); n > 0 && !d.bad; n-- {
		list = append(list, shardSeq{uint16(d.uvarint()), d.uvarint()})
	}
	return list
}

func (d *decoder) subscription() durableSubscription {
	return durableSubscription{group: d.string(), filter: d.string(), number: d.uvarint(), opts: uint32(d.uvarint()),
		id: uint32(d.uvarint()), starts: d.seqs()}
}

// applySubscribe activates durable subscriptions.
func (s *shard) applySubscribe(b *Broker, d *decoder) {
	id := d.uvarint()
	s.mu.Lock()
	sess := s.mu.byID[id]
	s.mu.Unlock()
	var add []durableSubscription
	var owed []bool
	for n := d.count(); n > 0 && !d.bad; n-- {
		sub := d.subscription()
		if sess == nil || d.bad {
			continue
		}
		owed = append(owed, sub.opts&optOwed != 0)
		sub.opts &^= optOwed
		add = append(add, sub)
	}
	if sess != nil {
		if !b.recovering && !s.leads() { // who has led may have lost what they count from: highestStarts
			taken := make([]uint64, len(b.homes))
			highestStarts(add, taken)
			b.raiseSeqs(taken)
		}
		was := b.addSubscriptions(sess, add)
		s.mu.Lock()
		sess.d.owes(add, was, owed)
		s.mu.Unlock()
	}
	s.mu.Lock()
	s.mu.rows.session(id)
	s.mu.Unlock()
}

func (b *Broker) leaveFilter(number uint64, sess *Session) {
	if b.filters.leave(number, sess) {
		b.dropQueues(number)
	}
}

// dropQueues forgets the queues of a filter that nobody reads any more. While the log is replayed they stay, until Recovered: a shard's
// checkpoint may be younger than the command that lost the filter its last reader, and hold what its next one is owed. They stay where shards are followed, too, until the
// leader says that nobody needs what is in them, or this node leads: each shard is applied by itself, and the next reader's may be behind.
func (b *Broker) dropQueues(number uint64) {
	if b.recovering || !b.Leading() {
		return
	}
	for _, s := range b.homes {
		s.mu.Lock()
		s.dropQueueLocked(number)
		s.mu.Unlock()
	}
}

func (s *shard) dropQueueLocked(number uint64) {
	if q := s.mu.queues[number]; q != nil {
		s.mu.rows.queueGone(q)
		q.drop()
		delete(s.mu.queues, number)
	}
	if g := s.mu.groups[number]; g != nil {
		if g.behind {
			s.home.b.behindGroups.Add(-1)
		}
		delete(s.mu.groups, number)
		s.mu.rows.group(number)
	}
}

func groupBytes(g string) []byte {
	if g == "" {
		return nil
	}
	return []byte(g)
}

// dropSubscription takes a durable subscription out of the index.
func (b *Broker) dropSubscription(sess *Session, sub *durableSubscription) {
	if sub.number != 0 {
		b.leaveFilter(sub.number, sess)
	}
	if sub.opts&optExclusive != 0 {
		b.exclusive.release(sess, []byte(sub.filter))
	}
	id, existed := b.index.Unsubscribe(sess.tenant, groupBytes(sub.group), []byte(sub.filter), sess.slot)
	if existed && sub.group != "" {
		b.filters.part(id, sess.slot)
	}
}

// Unsubscribe removes subscriptions; reqs uses Filter and Group only. errs gets ErrNoSubscription where there was none.
func (l *Local) Unsubscribe(c *Client, reqs []SubscribeRequest, errs []error, t Token) (Outcome, error) {
	sess := c.sess
	if sess.d != nil && sess.shard.full(c) {
		return 0, ErrBusy
	}
	l.forgetComing(c, reqs)
	if sess.d == nil {
		l.unsubscribeLive(c, reqs, errs)
		return Routed, nil
	}
	places, joining := placesOf(sess.d.subscriptions(), reqs), c.feed.joiningFor(len(reqs))
	cmd := appendCommand(nil, cmdUnsubscribe, sess.d.id)
	var body []byte
	n := 0
	for i := range reqs {
		if there, _ := joining.has(reqs[i].Group, reqs[i].Filter); !there && places.of(reqs[i].Group, reqs[i].Filter) < 0 {
			errs[i] = ErrNoSubscription
			continue
		}
		body = appendBytes(body, reqs[i].Group)
		body = appendBytes(body, reqs[i].Filter)
		n++
	}
	if n == 0 {
		return Routed, nil
	}
	cmd = append(binary.AppendUvarint(cmd, uint64(n)), body...)
	if err := l.b.command(sess.shard, cmd, entry{c: c, tok: t}); err != nil {
		return 0, err
	}
	c.waiting++
	return Pending, nil
}

// forgetComing ends what filters that are left have yet to bring.
func (l *Local) forgetComing(c *Client, reqs []SubscribeRequest) {
	if c.more == nil {
		return
	}
	drop := make(map[string]struct{})
	for i := range reqs {
		if reqs[i].Group != nil {
			continue
		}
		drop[string(reqs[i].Filter)] = struct{}{}
		if len(c.more.replays) > 0 {
			c.dropReplay(reqs[i].Filter)
		}
	}
	c.dropOwedAll(drop)
}

func (l *Local) unsubscribeLive(c *Client, reqs []SubscribeRequest, errs []error) {
	sess := c.sess
	gone := make(map[topics.FilterID]struct{})
	for i := range reqs {
		id, existed := l.b.index.Unsubscribe(c.tenant, reqs[i].Group, reqs[i].Filter, sess.slot)
		if !existed {
			errs[i] = ErrNoSubscription
			continue
		}
		gone[id] = struct{}{}
		if reqs[i].Group != nil {
			l.b.filters.part(id, sess.slot)
		} else {
			l.b.exclusive.release(sess, reqs[i].Filter)
		}
	}
	if len(gone) > 0 && sess.subs != nil {
		*sess.subs = slices.DeleteFunc(*sess.subs, func(id topics.FilterID) bool {
			_, found := gone[id]
			return found
		})
	}
}

func (s *shard) applyUnsubscribe(b *Broker, d *decoder) {
	id := d.uvarint()
	s.mu.Lock()
	sess := s.mu.byID[id]
	s.mu.rows.session(id)
	s.mu.Unlock()
	var names []subscriptionName
	for n := d.count(); n > 0 && !d.bad; n-- {
		if name := (subscriptionName{d.string(), d.string()}); !d.bad {
			names = append(names, name)
		}
	}
	if sess == nil {
		return
	}
	gone := sess.d.removeSubscriptions(names)
	ended := make(map[uint64]bool, len(gone))
	for i := range gone {
		ended[gone[i].number] = true
	}
	s.mu.Lock()
	sess.d.endOwedAll(ended)
	s.mu.Unlock()
	for i := range gone {
		b.dropSubscription(sess, &gone[i])
	}
}

// Subscribed calls visit with everything that c is subscribed to, those subscriptions aside that are not in the log yet. group is nil for one
// that is not shared. What visit is given is good until it returns.
func (l *Local) Subscribed(c *Client, visit func(group, filter []byte)) {
	if c.sess == nil {
		return
	}
	if d := c.sess.d; d != nil {
		var text []byte
		for _, sub := range d.subscriptions() {
			text = append(append(text[:0], sub.group...), sub.filter...)
			n := len(sub.group)
			group := text[:n:n]
			if n == 0 {
				group = nil
			}
			visit(group, text[n:])
		}
		return
	}
	for _, id := range c.sess.subscribed() {
		_, group, filter := l.b.index.Filter(id)
		visit(group, filter)
	}
}
