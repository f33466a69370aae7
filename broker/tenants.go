package broker

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// TenantLimit is what a limit of a tenant bounds: all of its clients together.
type TenantLimit uint8

// The limits. Rates are for a second.
const (
	TenantConnections TenantLimit = iota // of MQTT and Kafka
	TenantConnectRate                    // of MQTT and Kafka
	TenantMessagesIn                     // PUBLISH packets from clients
	TenantMessagesOut                    // PUBLISH packets to clients
	TenantBytesIn                        // of PUBLISH packets and produced batches
	TenantBytesOut                       // of PUBLISH packets and fetched batches
	TenantTopics                         // Kafka topics
	TenantSessions                       // of MQTT, that are kept
	TenantRetained                       // retained messages
	TenantLimitKinds
)

// tenantLimitKeys are the catalog's names of the limits.
var tenantLimitKeys = [TenantLimitKinds]string{"connections", "connect_rate", "messages_in", "messages_out", "bytes_in", "bytes_out", "topics", "sessions",
	"retained"}

// String is the catalog's name of the limit.
func (k TenantLimit) String() string { return tenantLimitKeys[k] }

// TenantLimitOf finds a limit by the catalog's name.
func TenantLimitOf(key string) (TenantLimit, bool) {
	i := slices.Index(tenantLimitKeys[:], key)
	return TenantLimit(max(i, 0)), i >= 0
}

// ErrTenantTopics says that a tenant has as many topics as it may.
var ErrTenantTopics = fmt.Errorf("%w: the tenant has as many topics as it may", ErrQuota)

// LimitedTenant is a tenant with its limits: those that are above 0.
type LimitedTenant struct {
	Number uint32
	Name   string
	Limits [TenantLimitKinds]float64
}

// TenantLimits count what tenants use, and hold them to their limits. The default tenant has no row here: nothing is counted of it, and nothing bounds
// it but what bounds the node. The zero value is ready. It is safe for concurrent use; times are monotonic, on one scale for all callers.
type TenantLimits struct {
	rows  atomic.Pointer[map[uint32]*TenantUse] // by number; the map is immutable
	there atomic.Bool
	mu    sync.Mutex // of who makes another map
}

// Any says whether there are tenants beside the default one.
func (t *TenantLimits) Any() bool { return t.there.Load() }

// Use is what a tenant uses; nil for the default one. Who has it may keep it.
func (t *TenantLimits) Use(tenant uint32) *TenantUse {
	if tenant == 0 {
		return nil
	}
	if u := t.find(tenant); u != nil {
		return u
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rowLocked(tenant)
}

func (t *TenantLimits) find(tenant uint32) *TenantUse {
	if rows := t.rows.Load(); rows != nil {
		return (*rows)[tenant]
	}
	return nil
}

// rowLocked finds a row or makes it: what lies in the log of a tenant is counted before the catalog is known.
func (t *TenantLimits) rowLocked(tenant uint32) *TenantUse {
	if u := t.find(tenant); u != nil {
		return u
	}
	rows := make(map[uint32]*TenantUse)
	if old := t.rows.Load(); old != nil {
		for n, u := range *old {
			rows[n] = u
		}
	}
	u := &TenantUse{}
	for i := range u.rates {
		u.rates[i].burst = int64(time.Second)
	}
	rows[tenant] = u
	t.rows.Store(&rows)
	return u
}

// Set takes over all tenants there are beside the default one. What they use stays used; of a rate that is another one now nothing is owed.
func (t *TenantLimits) Set(list []LimitedTenant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	there := make(map[uint32]bool, len(list))
	for i := range list {
		there[list[i].Number] = true
		u := t.rowLocked(list[i].Number)
		u.name.Store(&list[i].Name)
		for k, v := range list[i].Limits {
			u.set(TenantLimit(k), v)
		}
	}
	rows := make(map[uint32]*TenantUse, len(list))
	if old := t.rows.Load(); old != nil {
		for n, u := range *old {
			if !there[n] && u.name.Load() != nil {
				u.name.Store(nil)
				for k := range TenantLimitKinds {
					u.set(k, 0)
				}
				if u.empty() {
					continue // numbers are given once: nobody asks for it again
				}
			}
			rows[n] = u
		}
	}
	t.rows.Store(&rows)
	t.there.Store(len(list) > 0)
}

// List are the tenants there are beside the default one, by name.
func (t *TenantLimits) List() (list []*TenantUse) {
	if rows := t.rows.Load(); rows != nil {
		for _, u := range *rows {
			if u.name.Load() != nil {
				list = append(list, u)
			}
		}
	}
	slices.SortFunc(list, func(a, b *TenantUse) int { return cmp.Compare(a.Name(), b.Name()) })
	return list
}

// The rates, by their place in TenantUse.rates.
const (
	rateFirst = TenantConnectRate
	rateLast  = TenantBytesOut
)

// TenantUse is what a tenant uses. Methods of a nil one, the default tenant's, do nothing and refuse nothing.
type TenantUse struct {
	name   atomic.Pointer[string]          // nil: there is no such tenant
	limits [TenantLimitKinds]atomic.Uint64 // bits of a float64; 0: none
	rates  [rateLast - rateFirst + 1]quotaBucket

	connections, topics, sessions, retained atomic.Int64

	refused                                  [TenantLimitKinds]atomic.Uint64
	messagesIn, messagesOut, inByte, outByte atomic.Uint64
}

// TenantCounts are what a tenant uses now, and has used since the node was started.
type TenantCounts struct {
	Connections, Topics, Sessions, Retained    int64
	MessagesIn, MessagesOut, BytesIn, BytesOut uint64
	Refused                                    [TenantLimitKinds]uint64 // of a rate: how often somebody had to wait
}

// Name is the tenant's; empty if there is none any more.
func (u *TenantUse) Name() string {
	if p := u.name.Load(); p != nil {
		return *p
	}
	return ""
}

// Counts are the tenant's.
func (u *TenantUse) Counts() (c TenantCounts) {
	c = TenantCounts{Connections: u.connections.Load(), Topics: u.topics.Load(), Sessions: u.sessions.Load(), Retained: u.retained.Load(),
		MessagesIn: u.messagesIn.Load(), MessagesOut: u.messagesOut.Load(), BytesIn: u.inByte.Load(), BytesOut: u.outByte.Load()}
	for k := range u.refused {
		c.Refused[k] = u.refused[k].Load()
	}
	return c
}

func (u *TenantUse) empty() bool {
	return u.connections.Load() == 0 && u.topics.Load() == 0 && u.sessions.Load() == 0 && u.retained.Load() == 0
}

func (u *TenantUse) set(k TenantLimit, limit float64) {
	bits := math.Float64bits(max(limit, 0))
	if u.limits[k].Swap(bits) == bits || k < rateFirst || k > rateLast {
		return
	}
	b := &u.rates[k-rateFirst]
	b.setRate(limit)
	b.free.Store(math.MinInt64 / 2)
}

func (u *TenantUse) limit(k TenantLimit) (most float64, ok bool) {
	bits := u.limits[k].Load()
	return math.Float64frombits(bits), bits != 0
}

// over says whether n are more than a limit allows, and counts that somebody is refused then.
func (u *TenantUse) over(k TenantLimit, n int64) bool {
	most, ok := u.limit(k)
	if !ok || float64(n) <= most {
		return false
	}
	u.refused[k].Add(1)
	return true
}

// take uses n units of a rate, and says how long it is until they are paid for.
func (u *TenantUse) take(k TenantLimit, n int, now int64) time.Duration {
	if n <= 0 || u.limits[k].Load() == 0 {
		return 0
	}
	d := u.rates[k-rateFirst].take(float64(n), now)
	if d > 0 {
		u.refused[k].Add(1)
	}
	return d
}

func (u *TenantUse) owed(k TenantLimit, now int64) time.Duration {
	if u.limits[k].Load() == 0 {
		return 0
	}
	return u.rates[k-rateFirst].owed(now)
}

// Enter counts a connection, until Leave. ok false: it is one too many, by the limit over, and is not counted. instead, which may be nil, is asked where
// there are as many as may be: whether this one takes the place of one that is there, and is let in beside it until that has gone.
func (u *TenantUse) Enter(now int64, instead func() bool) (over TenantLimit, ok bool) {
	if u == nil {
		return 0, true
	}
	n := u.connections.Add(1)
	most, bound := u.limit(TenantConnections)
	switch {
	case bound && float64(n) > most && (instead == nil || !instead()):
		u.refused[TenantConnections].Add(1)
		over = TenantConnections
	case u.owed(TenantConnectRate, now) > 0:
		u.refused[TenantConnectRate].Add(1)
		over = TenantConnectRate
	default:
		if u.limits[TenantConnectRate].Load() != 0 {
			u.rates[0].take(1, now)
		}
		return 0, true
	}
	u.connections.Add(-1)
	return over, false
}

// MostOut is how many bytes clients can be sent at once; ok false: any number.
func (u *TenantUse) MostOut() (bytes float64, ok bool) {
	if u == nil {
		return 0, false
	}
	return u.limit(TenantBytesOut)
}

// Leave ends what Enter began.
func (u *TenantUse) Leave() {
	if u != nil {
		u.connections.Add(-1)
	}
}

// In uses messages and bytes that clients have sent. Who has sent them is not to be read from for as long as it says.
func (u *TenantUse) In(messages, bytes int, now int64) time.Duration {
	if u == nil {
		return 0
	}
	u.messagesIn.Add(uint64(messages))
	u.inByte.Add(uint64(bytes))
	return max(u.take(TenantMessagesIn, messages, now), u.take(TenantBytesIn, bytes, now))
}

// OwedIn is how long it is until what clients have sent is paid for.
func (u *TenantUse) OwedIn(now int64) time.Duration {
	if u == nil {
		return 0
	}
	return max(u.owed(TenantMessagesIn, now), u.owed(TenantBytesIn, now))
}

// Out uses messages and bytes that clients were sent. Who was sent them is not to be sent more for as long as it says.
func (u *TenantUse) Out(messages, bytes int, now int64) time.Duration {
	if u == nil {
		return 0
	}
	u.messagesOut.Add(uint64(messages))
	u.outByte.Add(uint64(bytes))
	return max(u.take(TenantMessagesOut, messages, now), u.take(TenantBytesOut, bytes, now))
}

// OwedOut is how long it is until what clients were sent is paid for.
func (u *TenantUse) OwedOut(now int64) time.Duration {
	if u == nil {
		return 0
	}
	return max(u.owed(TenantMessagesOut, now), u.owed(TenantBytesOut, now))
}

// Tenants are what tenants use of the node, and their limits.
func (b *Broker) Tenants() *TenantLimits { return &b.tenants }

// mayKeepSession says whether a tenant may have one more session that outlives its connection.
func (b *Broker) mayKeepSession(tenant uint32) bool {
	u := b.tenants.Use(tenant)
	return u == nil || !u.over(TenantSessions, u.sessions.Load()+1)
}

// countSession counts a session that is kept, or is no more.
func (b *Broker) countSession(sess *Session, n int64) {
	b.stats.Sessions.Add(n)
	if u := b.tenants.Use(sess.tenant); u != nil {
		u.sessions.Add(n)
	}
}

// countRetained counts a retained message that has come, or is gone.
func (b *Broker) countRetained(tenant uint32, n int64) {
	b.stats.RetainedMessages.Add(n)
	if u := b.tenants.Use(tenant); u != nil {
		u.retained.Add(n)
	}
}

// countTopic counts a topic that has come, or is gone. The broker's own take nothing of what a tenant may have: nobody asked for them.
func (b *Broker) countTopic(spec *TopicSpec, n int64) {
	if u := b.tenants.Use(spec.Tenant); u != nil && !spec.Internal {
		u.topics.Add(n)
	}
}

// mayAddTopic says whether a tenant may have one more topic: with those that are on their way into the log, which key is one of.
func (b *Broker) mayAddTopic(key topicKey) bool {
	u := b.tenants.Use(key.tenant)
	if u == nil || key.name == OffsetsTopic {
		return true
	}
	ts, tt := &b.topicStore, &b.topicTable
	ts.mu.Lock()
	defer ts.mu.Unlock()
	tt.mu.Lock() // so that each of them is either there or on its way
	defer tt.mu.Unlock()
	n := u.topics.Load()
	for k := range ts.running {
		if k.tenant == key.tenant && k.name != OffsetsTopic && b.Topic(k.tenant, k.name) == nil {
			n++
		}
	}
	return !u.over(TenantTopics, n)
}

// Held says whether a client has a connection. Any goroutine may ask.
func (b *Broker) Held(tenant uint32, clientID string) bool {
	s := b.shardOf(tenant, []byte(clientID))
	s.mu.Lock()
	defer s.mu.Unlock()
	sess := s.mu.sessions.get(sessionKey{tenant, clientID})
	return sess != nil && sess.client != nil
}
