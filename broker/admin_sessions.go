package broker

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/internal/events"
)

// ClientInfo is a connection as administrators see it. The protocol that has it fills it in.
type ClientInfo struct {
	Connection     uint64 // its number, unique in this run of the node
	ClientID       string
	Tenant         uint32
	User           string
	Source         string // what vouched for the user
	Remote         netip.AddrPort
	Listener       string
	Protocol       string // "MQTT 5", "Kafka"
	TLS            bool
	Prefix         string // under which its topics lie, of the listener; empty: none
	Authority      string // the host name that it asked for by TLS, as a trusted proxy in front tells it
	ProxyID        string // the number that the proxy knows the connection by: any bytes
	Kept           bool   // its session outlives it
	Since          int64  // Unix milliseconds
	BytesIn        uint64
	BytesOut       uint64
	InFlight       int // MQTT: sent and not acknowledged; Kafka: requests that are not answered
	QueuedMessages int // that wait in memory for the connection
	QueuedBytes    int // of them, and of what the socket has not taken
}

// SessionInfo is a session that outlives its connections, as administrators see it.
type SessionInfo struct {
	ID            string
	Number        uint64 // of this session: another one of the same name has another
	Connected     bool
	Expiry        time.Duration // after the end of its connection; NeverExpires
	Ends          int64         // Unix milliseconds at which it ends; 0: connected, or never
	Subscriptions int
	InFlight      int // sent and not acknowledged, as of its last position
	Received      int // QoS 2 identifiers of its own that it has not released
	Will          bool
	// Queued counts what its filters' queues hold above its position, which lies up to a second back for one that is connected; a message that
	// several of its filters matched counts for each.
	Queued, QueuedBytes int64
	Oldest              int64 // Unix milliseconds before which nothing of that was queued; 0: nothing is queued
	Positions           []SessionPosition
	Dropped             []DropCount // of what its queues held, since the node has started
}

// SessionPosition is how far a session has come in one shard.
type SessionPosition struct {
	Shard          uint16
	Acknowledged   uint64 // the last record that it is done with
	Queued, Behind int64  // messages, and records of the shard, behind that
}

// Sessions gives the kept sessions of a tenant among the next n rows from at on, with what each has queued. It takes shards' locks for a
// slice of rows at a time; end: that was all.
func (b *Broker) Sessions(tenant uint32, at RowPlace, n int) (list []SessionInfo, next RowPlace, end bool) {
	if at.Part < 0 || at.Part >= len(b.homes) || at.Row < 0 {
		return nil, RowPlace{}, true
	}
	s := b.homes[at.Part]
	var found []*Session
	s.mu.Lock()
	rows := s.mu.sessions.rows
	to := min(at.Row+n, len(rows))
	for i := at.Row; i < to; i++ {
		if sess := rows[i]; sess != nil && sess.tenant == tenant && s.kept(sess) && !sess.d.ending {
			found = append(found, sess)
		}
	}
	last := to == len(rows)
	s.mu.Unlock()
	for _, sess := range found {
		if info, ok := b.sessionInfo(sess, false); ok {
			list = append(list, info)
		}
	}
	next = RowPlace{at.Part, to}
	if last {
		next = RowPlace{at.Part + 1, 0}
	}
	return list, next, next.Part == len(b.homes)
}

// Session describes one kept session, with its positions.
func (b *Broker) Session(tenant uint32, id string) (info SessionInfo, ok bool) {
	s := b.shardOf(tenant, []byte(id))
	s.mu.Lock()
	sess := s.mu.sessions.get(sessionKey{tenant, id})
	s.mu.Unlock()
	if sess == nil {
		return info, false
	}
	return b.sessionInfo(sess, true)
}

// SessionSubscriptions lists what a kept session is subscribed to.
func (b *Broker) SessionSubscriptions(tenant uint32, id string) (list []SubscriptionInfo) {
	s := b.shardOf(tenant, []byte(id))
	s.mu.Lock()
	sess := s.mu.sessions.get(sessionKey{tenant, id})
	kept := sess != nil && s.kept(sess)
	s.mu.Unlock()
	if !kept {
		return nil
	}
	for _, sub := range sess.d.subscriptions() {
		list = append(list, subscriptionInfo(sess, []byte(sub.group), []byte(sub.filter), topics.Entry{Options: sub.opts, SubscriptionID: sub.id}))
	}
	return list
}

func (b *Broker) sessionInfo(sess *Session, positions bool) (info SessionInfo, ok bool) {
	s := sess.shard
	s.mu.Lock()
	if !s.kept(sess) || sess.d.ending {
		s.mu.Unlock()
		return info, false
	}
	d := sess.d
	info = SessionInfo{ID: sess.id, Number: d.id, Connected: sess.client != nil, Expiry: d.expiry, Will: sess.will != nil, InFlight: open(d.inflight)}
	if !d.connected && d.deadline != math.MaxInt64 {
		info.Ends = d.deadline
	}
	position := slices.Clone(d.position)
	s.mu.Unlock()
	info.Subscriptions = len(d.subscriptions())
	if drops := d.drops.Load(); drops != nil {
		for r := range DropReasons {
			if n := drops[r].Load(); n > 0 {
				info.Dropped = append(info.Dropped, DropCount{Reason: r.String(), N: uint64(n)})
			}
		}
	}
	at := map[uint16]*SessionPosition{}
	for _, p := range b.backlogOf(sess, position) {
		info.Queued += p.n
		info.QueuedBytes += p.bytes
		if info.Oldest == 0 || p.block.since < info.Oldest {
			info.Oldest = p.block.since
		}
		if positions {
			if at[p.shard] == nil {
				at[p.shard] = &SessionPosition{Shard: p.shard}
			}
			at[p.shard].Queued += p.n
		}
	}
	for _, other := range b.homes {
		other.mu.Lock()
		info.Received += len(other.mu.received[d.id])
		applied := other.mu.appliedSeq
		other.mu.Unlock()
		shard := uint16(other.id)
		done := seqOf(position, shard)
		if !positions || done == 0 && at[shard] == nil {
			continue
		}
		p := at[shard]
		if p == nil {
			p = &SessionPosition{Shard: shard}
		}
		p.Acknowledged = done
		if applied > done+1 {
			p.Behind = int64(applied - done - 1)
		}
		info.Positions = append(info.Positions, *p)
	}
	return info, true
}

// Unreleased gives the identifiers of QoS 2 messages that a kept session has published and not released. known: there is such a session.
func (b *Broker) Unreleased(tenant uint32, id string) (ids []uint16, known bool) {
	s := b.shardOf(tenant, []byte(id))
	s.mu.Lock()
	sess := s.mu.sessions.get(sessionKey{tenant, id})
	if sess == nil || !s.kept(sess) || sess.d.ending {
		s.mu.Unlock()
		return nil, false
	}
	number := sess.d.id
	s.mu.Unlock()
	for _, other := range b.homes {
		other.mu.Lock()
		ids = append(ids, other.mu.received[number]...)
		other.mu.Unlock()
	}
	return ids, true
}

// open counts what a receiver has still to finish.
func open(list []outEntry) (n int) {
	for i := range list {
		if list[i].state != outDone {
			n++
		}
	}
	return n
}

// EndSession ends a kept session with its subscriptions and all that waits for it. Nobody is connected: done runs on some loop when that is in
// the log. Somebody is: the connection is told and ended, and its session with it; done gets ErrConcurrent, and the session is gone a little
// later.
func (b *Broker) EndSession(tenant uint32, id string, done func(error)) {
	s := b.shardOf(tenant, []byte(id))
	s.home.Run(func() {
		s.mu.Lock()
		sess := s.mu.sessions.get(sessionKey{tenant, id})
		switch {
		case sess == nil || !s.kept(sess) || sess.d.ending:
			s.mu.Unlock()
			done(ErrNoSession)
			return
		case sess.client != nil:
			sess.client.local.post(post{kind: postKick, c: sess.client, err: ErrEnded})
			fallthrough
		case sess.next != nil:
			s.mu.Unlock()
			done(ErrConcurrent)
			return
		}
		sess.d.ending = true
		s.mu.Unlock()
		s.home.endedWill(sess)
		e := entry{done: func() {
			b.sessionGone(sess, events.SessionEnded, "an administrator has ended it")
			done(nil)
		}, failed: func(err error) {
			s.unend(sess)
			done(err)
		}}
		if err := b.command(s, appendCommand(nil, cmdRemove, sess.d.id), e); err != nil {
			s.unend(sess)
			done(err)
		}
	})
}

// SubscriptionInfo is one subscription as administrators see it.
type SubscriptionInfo struct {
	ClientID, Group, Filter    string
	ID                         uint32 // the subscription identifier
	QoS                        QoS
	NoLocal, RetainAsPublished bool
	Kept                       bool // its session outlives its connection
	Connected                  bool
}

func subscriptionInfo(sess *Session, group, filter []byte, e topics.Entry) SubscriptionInfo {
	return SubscriptionInfo{ClientID: sess.id, Group: string(group), Filter: string(filter), ID: e.SubscriptionID, QoS: QoS(e.Options & 3),
		NoLocal: e.Options&optNoLocal != 0, RetainAsPublished: e.Options&optRAP != 0, Kept: sess.d != nil}
}

// SubscriptionPlace is how far a way through all subscriptions has come.
type SubscriptionPlace = topics.Place

// ListSubscriptions gives up to n subscriptions from at on: those of a tenant. It may give fewer, or none, before the end.
func (b *Broker) ListSubscriptions(tenant uint32, at SubscriptionPlace, n int) (list []SubscriptionInfo, next SubscriptionPlace, end bool) {
	entries, next, end := b.index.List(at, n, nil)
	for i := range entries {
		e := &entries[i]
		if e.Tenant != tenant {
			continue
		}
		if sess := b.slots.session(e.Entry.Subscriber); sess != nil {
			info := subscriptionInfo(sess, e.Group, e.Filter, e.Entry)
			info.Connected = b.slots.get(e.Entry.Subscriber) != nil
			list = append(list, info)
		}
	}
	return list, next, end
}

// FilterMatch is a filter that matches a topic, with how many are subscribed to it.
type FilterMatch struct {
	Group, Filter string
	Subscribers   int
	id            topics.FilterID
	entries       []topics.Entry
}

// Matching gives the filters that match a topic. Their subscribers come by Of.
func (b *Broker) Matching(tenant uint32, topic string) *Matched {
	m := &Matched{b: b}
	b.index.Match(tenant, []byte(topic), &m.found)
	for i := range m.found.Filters {
		f := &m.found.Filters[i]
		_, group, filter := b.index.Filter(f.ID)
		if filter != nil {
			m.Filters = append(m.Filters, FilterMatch{Group: string(group), Filter: string(filter), Subscribers: len(f.Entries), id: f.ID, entries: f.Entries})
		}
	}
	slices.SortFunc(m.Filters, func(a, b FilterMatch) int { return int(int64(a.id) - int64(b.id)) })
	return m
}

// Matched is what Matching has found.
type Matched struct {
	Filters []FilterMatch
	b       *Broker
	found   topics.Matches
}

// Each calls fn with every subscriber of filter i whose session is still there, until it answers false.
func (m *Matched) Each(i int, fn func(slot uint32, s SubscriptionInfo) bool) {
	f := &m.Filters[i]
	slices.SortFunc(f.entries, func(a, b topics.Entry) int { return int(int64(a.Subscriber) - int64(b.Subscriber)) })
	for _, e := range f.entries {
		sess := m.b.slots.session(e.Subscriber)
		if sess == nil {
			continue
		}
		info := subscriptionInfo(sess, []byte(f.Group), []byte(f.Filter), e)
		info.Connected = m.b.slots.get(e.Subscriber) != nil
		if !fn(e.Subscriber, info) {
			return
		}
	}
}

// Number tells filters apart, for a way that goes on later.
func (f *FilterMatch) Number() uint32 { return uint32(f.id) }
