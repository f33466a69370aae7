package broker

import (
	"sync"
	"time"

	"github.com/sluicemq/sluice/broker/topics"
)

// Bits of topics.Entry.Options.
const (
	optQoS       = 3
	optNoLocal   = 1 << 2
	optRAP       = 1 << 3
	optDurable   = 1 << 4 // counts for its filter's queue
	optOwed      = 1 << 5 // of a command: the subscription is owed retained messages
	optMade      = 1 << 6 // of a message in a relay's chunk: its topic was made by a binding
	optExclusive = 1 << 7 // no other session may subscribe to the filter in this way
)

// target is one subscriber of a topic: its overlapping subscriptions merged.
type target struct {
	c    *Client
	opts uint32
	ids  []uint32
}

// sharedTarget is one shared group that matches a topic.
type sharedTarget struct {
	id      topics.FilterID
	number  uint64 // durable number, 0 if no member outlives its connection
	members []topics.Entry
	picker  *topics.Picker
}

// match is who gets the messages of a topic: immutable, good for as long as the index's generation stands.
type match struct {
	generation uint64
	durable    []uint64 // numbers of the filter queues that keep a QoS 1 or 2 message
	loops      [][]target
	shared     []sharedTarget
	any        bool
	bound      *boundTopic // the stream that takes the topic's messages, nil if none does
}

// routeCache keeps the matches of the topics that this loop's publishers use.
type routeCache struct {
	byTopic map[string]*match
	nobody  map[*boundTopic]*match // of the topics that nobody subscribes to, by what they are bound to
	key     []byte
	last    []byte // the key that was looked up last: who sends several at once often sends them to one topic
	lastOf  *match // nil: none
}

// lastKeyMax is the longest key that is remembered as the last one.
const lastKeyMax = 256

// routesMax bounds the topics that one loop remembers.
const routesMax = 1 << 15

// route finds who gets topic's messages.
func (l *Local) route(tenant uint32, topic []byte) *match {
	r := &l.routes
	key := topic
	if tenant != 0 {
		r.key = append(append(r.key[:0], byte(tenant>>24), byte(tenant>>16), byte(tenant>>8), byte(tenant), 0), topic...)
		key = r.key
	}
	generation := l.b.generation()
	if m := r.lastOf; m != nil && m.generation == generation && string(key) == string(r.last) {
		return m
	}
	m := r.byTopic[string(key)]
	if m != nil && m.generation == generation {
		if len(key) <= lastKeyMax {
			r.last, r.lastOf = append(r.last[:0], key...), m
		}
		return m
	}
	if r.byTopic == nil {
		r.byTopic = make(map[string]*match)
	} else if m == nil && len(r.byTopic) >= routesMax {
		clear(r.byTopic) // not a new one: it would grow again, which costs more than all the rest
	}
	m = l.match(tenant, topic)
	r.byTopic[string(key)] = m
	return m
}

// stillGood gives m, the match of a topic from any loop, as long as it holds, and else a new one.
func (l *Local) stillGood(m *match, tenant uint32, topic []byte) *match {
	if m != nil && m.generation == l.b.generation() {
		return m
	}
	return l.route(tenant, topic)
}

// match asks the index.
func (l *Local) match(tenant uint32, topic []byte) *match {
	generation := l.b.generation()
	l.b.index.Match(tenant, topic, &l.matches)
	var bound *boundTopic
	if tenant == 0 {
		bound = l.b.bindings.Load().find(topic)
	}
	if len(l.matches.Filters) == 0 {
		r := &l.routes
		m := r.nobody[bound]
		if m == nil || m.generation != generation {
			if r.nobody == nil || len(r.nobody) > bindingsMax {
				r.nobody = make(map[*boundTopic]*match)
			}
			m = &match{generation: generation, bound: bound}
			r.nobody[bound] = m
		}
		return m
	}
	m := &match{generation: generation, any: true, bound: bound}
	m.loops = make([][]target, len(l.b.locals))
	plain := 0
	for i := range l.matches.Filters {
		f := &l.matches.Filters[i]
		if f.Mark != 0 {
			m.durable = append(m.durable, f.Mark)
		}
		if f.Shared {
			m.shared = append(m.shared, sharedTarget{id: f.ID, number: f.Mark,
				members: append([]topics.Entry(nil), f.Entries...), picker: l.b.filters.picker(f.ID)})
			continue
		}
		plain++
	}
	l.matchPlain(m, plain)
	return m
}

// matchPlain merges the entries of the unshared filters by subscriber.
func (l *Local) matchPlain(m *match, filters int) {
	var seen map[uint32][2]int // slot -> loop, place: only where filters can overlap
	if filters > 1 {
		seen = make(map[uint32][2]int)
	}
	for i := range l.matches.Filters {
		f := &l.matches.Filters[i]
		if f.Shared {
			continue
		}
		for _, e := range f.Entries {
			if at, ok := seen[e.Subscriber]; ok {
				m.loops[at[0]][at[1]].merge(e)
				continue
			}
			c := l.b.slots.get(e.Subscriber)
			if c == nil {
				continue
			}
			t := target{c: c, opts: e.Options}
			if e.SubscriptionID != 0 {
				t.ids = []uint32{e.SubscriptionID}
			}
			loop := c.local.id
			if seen != nil {
				seen[e.Subscriber] = [2]int{loop, len(m.loops[loop])}
			}
			m.loops[loop] = append(m.loops[loop], t)
		}
	}
}

// merge adds another matching subscription of the same subscriber: the highest QoS; no-local only if all say so;
// retain-as-published if any does; every identifier once.
func (t *target) merge(e topics.Entry) {
	t.opts, t.ids = mergeOptions(t.opts, t.ids, e.Options, e.SubscriptionID)
}

func mergeOptions(opts uint32, ids []uint32, add, id uint32) (uint32, []uint32) {
	qos := max(opts&optQoS, add&optQoS)
	opts = qos | opts&add&optNoLocal | (opts|add)&(optRAP|optDurable)
	if id == 0 {
		return opts, ids
	}
	for _, have := range ids {
		if have == id {
			return opts, ids
		}
	}
	return opts, append(ids, id)
}

// bundle carries messages from one loop to another: one post for a turn. It is pooled.
type bundle struct {
	buf  []byte
	msgs []carried

	// Of a fetch: the shard, the last sequence asked for, and whether it is for sending again.
	shard    uint16
	through  uint64
	resend   bool
	promised bool
	failed   bool // reading broke off
	cut      bool // what it was asked for does not fit: through is what does

	since time.Duration // when the first of its messages came
}

// carried is a message inside a bundle, or one that waits its turn in a pending list.
type carried struct {
	Message        // without slices
	off            int
	topic, payload int
	props          int
	match          *match // nil: to direct
	direct         *Client
	opts           uint32
	ids            []uint32
	ref            Ref
	publisher      uint64          // durable number of the publishing session, where no-local needs it
	row            topics.FilterID // of a shared group
}

var bundles = sync.Pool{New: func() any { return new(bundle) }}

// bundleBytesKept is the largest buffer that a pooled bundle keeps.
const bundleBytesKept = 1 << 20

func getBundle() *bundle { return bundles.Get().(*bundle) }

func putBundle(bu *bundle) {
	clear(bu.msgs)
	bu.shard, bu.through, bu.resend, bu.promised, bu.failed, bu.cut, bu.since = 0, 0, false, false, false, false, 0
	bu.msgs = bu.msgs[:0]
	bu.buf = bu.buf[:0]
	if cap(bu.buf) > bundleBytesKept {
		bu.buf = nil
	}
	bundles.Put(bu)
}

// add copies m into the bundle.
func (bu *bundle) add(m *Message) *carried {
	off := len(bu.buf)
	bu.buf = append(bu.buf, m.Topic...)
	bu.buf = append(bu.buf, m.Payload...)
	bu.buf = append(bu.buf, m.Props...)
	bu.msgs = append(bu.msgs, carried{Message: *m, off: off, topic: len(m.Topic), payload: len(m.Payload), props: len(m.Props)})
	c := &bu.msgs[len(bu.msgs)-1]
	c.Topic, c.Payload, c.Props, c.Cache = nil, nil, nil, nil
	return c
}

// place keeps a place for a message that comes later.
func (bu *bundle) place() *carried {
	bu.msgs = append(bu.msgs, carried{})
	return &bu.msgs[len(bu.msgs)-1]
}

// fill puts m into place i.
func (bu *bundle) fill(i int, m *Message, publisher uint64) {
	ref := bu.msgs[i].ref
	c := bu.add(m)
	c.ref, c.publisher = ref, publisher
	bu.msgs[i] = *c
	bu.msgs = bu.msgs[:len(bu.msgs)-1]
}

// view makes m a view of the bundle's message i.
func (bu *bundle) view(i int, m *Message) *carried {
	c := &bu.msgs[i]
	*m = c.Message
	b := bu.buf[c.off:]
	m.Topic = b[:c.topic:c.topic]
	b = b[c.topic:]
	m.Payload = b[:c.payload:c.payload]
	b = b[c.payload:]
	if c.props > 0 {
		m.Props = b[:c.props:c.props]
	}
	return c
}

// carry makes a copy of m that stands by itself.
func carry(m *Message) *bundle {
	bu := getBundle()
	bu.add(m)
	return bu
}

// deliverAll hands m to all live subscribers: this loop's at once, the others' by bundle. ref is what the filter queues know
// it by, zero if they do not.
func (l *Local) deliverAll(mt *match, m *Message, ref Ref) {
	m.Cache = &l.cache
	l.cache.Kind = 0
	for i := range mt.loops {
		if len(mt.loops[i]) == 0 {
			continue
		}
		if i == l.id {
			l.deliverHere(mt, m, ref)
			continue
		}
		c := l.bundleFor(i).add(m)
		c.match, c.ref = mt, ref
	}
	for i := range mt.shared {
		l.deliverShared(&mt.shared[i], m, ref)
	}
}

func (l *Local) bundleFor(loop int) *bundle {
	if l.out[loop] == nil {
		l.out[loop] = getBundle()
		l.out[loop].since = l.times.since
	}
	return l.out[loop]
}

// deliverHere hands m to this loop's subscribers in mt.
func (l *Local) deliverHere(mt *match, m *Message, ref Ref) {
	targets := mt.loops[l.id]
	if len(targets) == 1 {
		m.Cache = nil // nobody else has use for the encoded form
	}
	l.times.given += uint64(len(targets))
	for i := range targets {
		t := &targets[i]
		l.deliverTo(t.c, m, t.opts, t.ids, ref)
	}
}

// deliverTo hands m to one subscriber of this loop.
func (l *Local) deliverTo(c *Client, m *Message, opts uint32, ids []uint32, ref Ref) {
	if c.state != clientConnected {
		return
	}
	if m.part != nil && c.more != nil && len(c.more.replays) > 0 && c.heldBack(m) {
		l.heldBackQueued(c, opts, ref)
		return
	}
	own := opts&optNoLocal != 0 && m.by(c)
	if ref.Seq != 0 && opts&optDurable != 0 && c.sess.d != nil {
		l.deliverQueued(c, m, opts, ids, ref, own)
		return
	}
	if own {
		return
	}
	d := &l.delivery
	*d = Delivery{SubscriptionIDs: ids, QoS: min(m.QoS, QoS(opts&optQoS)), Retain: m.Retain && opts&optRAP != 0}
	c.sub.Deliver(m, d)
}

// by says whether c's session has published m.
func (m *Message) by(c *Client) bool {
	return m.Publisher != 0 && m.Publisher == c.Slot || m.durable != 0 && c.sess.d != nil && c.sess.d.id == m.durable
}

// unpack delivers what another loop has sent.
func (l *Local) unpack(bu *bundle) {
	m := &l.message
	l.timed(bu.since, func() {
		for i := range bu.msgs {
			c := bu.view(i, m)
			m.Cache = &l.cache
			l.cache.Kind = 0
			switch {
			case c.match != nil:
				l.deliverHere(c.match, m, c.ref)
			case c.direct != nil:
				l.deliverMember(c.direct, m, c)
			}
		}
	})
	putBundle(bu)
}

// generation moves whenever a cached route may be wrong.
func (b *Broker) generation() uint64 {
	return b.index.Generation() + b.attached.Load() + b.bound.Load()
}
