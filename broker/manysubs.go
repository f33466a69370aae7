package broker

import (
	"slices"

	"github.com/sluicemq/sluice/broker/topics"
)

// A session may have a hundred thousand subscriptions, and a packet may name as many filters: nothing that is done for each of them may look at all of the others.

// Bounds of what is small.
const (
	manyFilters     = 16 // from so many filters of a packet on they are found in one pass
	repeatedFilters = 16 // from so many on the packet is looked through for those that it has twice
)

type subscriptionName struct{ group, filter string }

// subscriptionPlaces finds those subscriptions by name that somebody has asked for. The zero value has none.
type subscriptionPlaces struct {
	list []durableSubscription
	by   map[subscriptionName]int // -1: the list has none; nil: the list is looked through
}

// placesIn finds n names, which name gives, in one pass.
func placesIn(list []durableSubscription, n int, name func(i int) subscriptionName) (p subscriptionPlaces) {
	if p.list = list; n < manyFilters {
		return p
	}
	p.by = make(map[subscriptionName]int, n)
	for i := range n {
		p.by[name(i)] = -1
	}
	for i := range list {
		k := subscriptionName{list[i].group, list[i].filter}
		if _, wanted := p.by[k]; wanted {
			p.by[k] = i
		}
	}
	return p
}

// placesOf is placesIn for what a packet names.
func placesOf(list []durableSubscription, reqs []SubscribeRequest) subscriptionPlaces {
	return placesIn(list, len(reqs), func(i int) subscriptionName { return subscriptionName{string(reqs[i].Group), string(reqs[i].Filter)} })
}

func (p *subscriptionPlaces) of(group, filter []byte) int {
	if p.by == nil {
		return findSubscription(p.list, group, filter)
	}
	return p.by[subscriptionName{string(group), string(filter)}]
}

// joiningNames finds what a session's SUBSCRIBEs on their way have asked for, for so many questions.
type joiningNames struct {
	f  *feed
	by map[subscriptionName]bool // whether one of them is kept in a queue; nil: the list is looked through
}

func (f *feed) joiningFor(questions int) (n joiningNames) {
	n.f = f
	if questions >= manyFilters && len(f.joining) >= manyFilters {
		n.by = make(map[subscriptionName]bool, len(f.joining))
		for i := range f.joining {
			j := &f.joining[i]
			name := subscriptionName{j.group, j.filter}
			n.by[name] = n.by[name] || j.number != 0
		}
	}
	return n
}

// has says whether a subscription is on its way, and whether that is kept in a queue.
func (n *joiningNames) has(group, filter []byte) (there, queued bool) {
	if n.by != nil {
		queued, there = n.by[subscriptionName{string(group), string(filter)}]
		return there, queued
	}
	for i := range n.f.joining {
		if j := &n.f.joining[i]; j.filter == string(filter) && j.group == string(group) {
			there, queued = true, queued || j.number != 0
		}
	}
	return there, queued
}

// repeated says which of a packet's many filters a later one names again; nil: none. The last one counts: each would be kept until the log has it.
func repeated(reqs []SubscribeRequest) []bool {
	if len(reqs) < repeatedFilters {
		return nil
	}
	last := make(map[subscriptionName]int, len(reqs))
	var again []bool
	for i := range reqs {
		name := subscriptionName{string(reqs[i].Group), string(reqs[i].Filter)}
		if at, ok := last[name]; ok {
			if again == nil {
				again = make([]bool, len(reqs))
			}
			again[at] = true
		}
		last[name] = i
	}
	return again
}

// sameErrors answers filters that are named again as the last one is.
func sameErrors(reqs []SubscribeRequest, errs []error, again []bool) {
	if again == nil {
		return
	}
	last := make(map[subscriptionName]error)
	for i := len(reqs) - 1; i >= 0; i-- {
		name := subscriptionName{string(reqs[i].Group), string(reqs[i].Filter)}
		if !again[i] {
			last[name] = errs[i]
		} else {
			errs[i] = last[name]
		}
	}
}

// repeatedJobs is repeated of what the log has taken.
func repeatedJobs(jobs []subscribeJob) []bool {
	reqs := make([]SubscribeRequest, len(jobs))
	for i := range jobs {
		reqs[i] = SubscribeRequest{Group: jobs[i].r.Group, Filter: jobs[i].r.Filter}
	}
	return repeated(reqs)
}

// addSubscriptions puts durable subscriptions into the session and the index. It answers the filters' numbers in those that they replace.
func (b *Broker) addSubscriptions(sess *Session, add []durableSubscription) (was []uint64) {
	list := sess.d.subscriptions()
	was = make([]uint64, len(add))
	places, copied := placesIn(list, len(add), func(i int) subscriptionName { return subscriptionName{add[i].group, add[i].filter} }), false
	for i := range add {
		sub := &add[i]
		at := places.of(groupBytes(sub.group), []byte(sub.filter))
		if at < 0 {
			// Readers of the list see no farther than its length: what lies behind it is the shard's loop's to write.
			list = append(list, *sub)
			if places.list = list; places.by != nil {
				places.by[subscriptionName{sub.group, sub.filter}] = len(list) - 1
			}
			continue
		}
		if old := &list[at]; old.number == sub.number && old.opts == sub.opts && old.id == sub.id {
			was[i], sub.starts = old.number, old.starts // clients that come back ask for what they have: nothing is to be copied
			continue
		}
		if !copied {
			list, copied = append(make([]durableSubscription, 0, len(list)+len(add)-i), list...), true
			places.list = list
		}
		if was[i] = list[at].number; was[i] == sub.number {
			sub.starts = list[at].starts // asked for again before it was there
		}
		list[at] = *sub
	}
	sess.d.subs.Store(&list)
	for i := range add {
		b.enterSubscription(sess, &add[i], was[i])
	}
	return was
}

// enterSubscription puts a durable subscription of the session into the index, and its filter into the tables.
func (b *Broker) enterSubscription(sess *Session, sub *durableSubscription, was uint64) {
	if was != 0 && was != sub.number {
		b.leaveFilter(was, sess)
	}
	b.noteExclusive(sess, sub)
	if sub.opts&optNoLocal != 0 {
		sess.d.noLocal.Store(true)
	}
	group := groupBytes(sub.group)
	e := topics.Entry{Subscriber: sess.slot, Options: sub.opts, SubscriptionID: sub.id}
	id, _, err := b.index.Subscribe(sess.tenant, group, []byte(sub.filter), e)
	if err == nil && group != nil {
		b.filters.join(id, e)
	}
	if err == nil && sub.number != 0 && sub.number != was {
		b.filters.use(sub.number, id, sess.tenant, sub.group, sub.filter, sess)
	}
}

// removeSubscriptions takes subscriptions out of the session's list, and gives those that were there.
func (d *durable) removeSubscriptions(names []subscriptionName) (gone []durableSubscription) {
	old := d.subscriptions()
	rest := make([]durableSubscription, 0, len(old))
	out := make(map[subscriptionName]struct{}, len(names))
	for _, n := range names {
		out[n] = struct{}{}
	}
	for i := range old {
		if _, found := out[subscriptionName{old[i].group, old[i].filter}]; found {
			gone = append(gone, old[i])
		} else {
			rest = append(rest, old[i])
		}
	}
	if len(gone) > 0 {
		d.subs.Store(&rest)
	}
	return gone
}

// dropOwedAll forgets the retained messages that filters have yet to bring.
func (c *Client) dropOwedAll(filters map[string]struct{}) {
	if c.more == nil || len(c.more.retry) == 0 || len(filters) == 0 {
		return
	}
	c.more.retry = slices.DeleteFunc(c.more.retry, func(j retainedJob) bool {
		_, found := filters[string(j.filter)]
		return found
	})
	if len(c.more.retry) == 0 {
		c.more.retry = nil
	}
}
