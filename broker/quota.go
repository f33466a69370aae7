package broker

import (
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// QuotaKind is what a quota bounds.
type QuotaKind uint8

// The kinds. QuotaConnect is for addresses, the others for users and client ids.
const (
	QuotaProduce QuotaKind = iota // bytes in a second that are published
	QuotaConsume                  // bytes in a second that are fetched
	QuotaRequest                  // percent of one loop's time; units are ns
	QuotaMutate                   // partitions in a second that are made or deleted
	QuotaConnect                  // connections in a second
	QuotaKinds
)

// quotaKeys are Kafka's names of the kinds.
var quotaKeys = [QuotaKinds]string{"producer_byte_rate", "consumer_byte_rate", "request_percentage", "controller_mutation_rate",
	"connection_creation_rate"}

// String is Kafka's name of the kind.
func (k QuotaKind) String() string { return quotaKeys[k] }

// QuotaKindOf finds a kind by Kafka's name.
func QuotaKindOf(key string) (QuotaKind, bool) {
	for k, name := range quotaKeys {
		if name == key {
			return QuotaKind(k), true
		}
	}
	return 0, false
}

// quotaBurst is how long a kind's quota can be saved up for. Changes of topics are few and come together.
var quotaBurst = [QuotaKinds]time.Duration{time.Second, time.Second, time.Second, 11 * time.Second, time.Second}

// throttleMax bounds what a client can owe, and so how long it waits at once.
const throttleMax = time.Hour

// QuotaPart is one part of an entity: not said, a name, or those that have no quota of their own.
type QuotaPart struct {
	Said, Default bool
	Name          string
}

// QuotaEntity is who a quota is for: a user, a client id, a client id of a user, or an address.
type QuotaEntity struct{ User, ClientID, IP QuotaPart }

// Quota is what an entity may have: rates by kind, those that are set. Users and client ids are those of one tenant; addresses are the default one's.
type Quota struct {
	Tenant uint32
	Entity QuotaEntity
	Set    [QuotaKinds]bool
	Rate   [QuotaKinds]float64
}

// quotaTable is a list of quotas, ready for questions. It is immutable.
type quotaTable struct {
	kinds      [QuotaKinds]map[quotaKey]float64
	generation uint16
}

// quotaKey is an entity of a tenant.
type quotaKey struct {
	QuotaEntity
	tenant uint32
}

// bucketKey names who shares a bucket.
type bucketKey struct {
	kind         QuotaKind
	tenant       uint32
	user, client string
	byUser       bool // else by client alone; with a client too, by both
	byClient     bool
	ip           netip.Addr
}

// find gives the rate of a tenant's user's client, by Kafka's order of precedence, and who shares it.
func (t *quotaTable) find(kind QuotaKind, tenant uint32, user, client string) (rate float64, key bucketKey, ok bool) {
	rates := t.kinds[kind]
	if len(rates) == 0 {
		return 0, key, false
	}
	u, c := QuotaPart{Said: true, Name: user}, QuotaPart{Said: true, Name: client}
	rest := QuotaPart{Said: true, Default: true}
	both, byUser, byClient := bucketKey{kind: kind, tenant: tenant, user: user, client: client, byUser: true, byClient: true},
		bucketKey{kind: kind, tenant: tenant, user: user, byUser: true}, bucketKey{kind: kind, tenant: tenant, client: client, byClient: true}
	for _, step := range [...]struct {
		e        QuotaEntity
		key      bucketKey
		byClient bool
	}{
		{QuotaEntity{User: u, ClientID: c}, both, true},
		{QuotaEntity{User: u, ClientID: rest}, both, true},
		{QuotaEntity{User: u}, byUser, false},
		{QuotaEntity{User: rest, ClientID: c}, both, true},
		{QuotaEntity{User: rest, ClientID: rest}, both, true},
		{QuotaEntity{User: rest}, byUser, false},
		{QuotaEntity{ClientID: c}, byClient, true},
		{QuotaEntity{ClientID: rest}, byClient, true},
	} {
		if step.byClient && client == "" {
			continue
		}
		if rate, ok = rates[quotaKey{step.e, tenant}]; ok {
			return rate, step.key, true
		}
	}
	return 0, key, false
}

// quotaBucket is what those who share a quota have used. It is one number: the time at which they owe nothing any more. What they save up
// for reaches back by the burst.
type quotaBucket struct {
	free  atomic.Int64  // monotonic ns
	each  atomic.Uint64 // ns that one unit takes: the bits of a float64
	burst int64
	refs  int  // of QuotaUses; guarded by Quotas.mu
	idle  bool // it stands in Quotas.mu.idle
}

func (b *quotaBucket) setRate(rate float64) {
	each := math.Inf(1)
	if rate > 0 {
		each = float64(time.Second) / rate
	}
	b.each.Store(math.Float64bits(each))
}

// take uses n units and tells how long it is until they are paid for.
func (b *quotaBucket) take(n float64, now int64) time.Duration {
	cost := int64(min(n*math.Float64frombits(b.each.Load()), float64(throttleMax)))
	for {
		was := b.free.Load()
		next := min(max(was, now-b.burst)+cost, now+int64(throttleMax))
		if b.free.CompareAndSwap(was, next) {
			return time.Duration(max(next-now, 0))
		}
	}
}

// owed is how long it is until what was used is paid for.
func (b *quotaBucket) owed(now int64) time.Duration { return time.Duration(max(b.free.Load()-now, 0)) }

// Quotas bound what users, client ids and addresses take of a node. Its zero value has none, and costs one atomic load where it is asked.
// It is safe for concurrent use; times are monotonic, on one scale for all callers.
type Quotas struct {
	table     atomic.Pointer[quotaTable] // nil: no quotas
	sets      atomic.Uint32
	throttles [QuotaKinds]atomic.Int64
	waited    [QuotaKinds]atomic.Int64 // ns
	mu        struct {
		sync.Mutex
		buckets map[bucketKey]*quotaBucket
		idle    []bucketKey // without refs; looked at one after the other
	}
}

// Set takes over all quotas there are. What was used stays used.
func (q *Quotas) Set(list []Quota) {
	var t *quotaTable
	for i := range list {
		for k := range QuotaKinds {
			if !list[i].Set[k] {
				continue
			}
			if t == nil {
				t = &quotaTable{}
			}
			if t.kinds[k] == nil {
				t.kinds[k] = make(map[quotaKey]float64)
			}
			rate := list[i].Rate[k]
			if k == QuotaRequest {
				rate *= float64(time.Second) / 100 // percent of a second, in ns
			}
			t.kinds[k][quotaKey{list[i].Entity, list[i].Tenant}] = rate
		}
	}
	if t != nil {
		t.generation = uint16(q.sets.Add(1)%math.MaxUint16) + 1
	}
	q.table.Store(t)
}

// Generation tells one list of quotas from another, as long as not 65,535 have come and gone meanwhile; 0: there are no quotas.
func (q *Quotas) Generation() uint16 {
	if t := q.table.Load(); t != nil {
		return t.generation
	}
	return 0
}

// Bound says whether there is a quota for a client of a tenant, of any kind but that of addresses.
func (q *Quotas) Bound(tenant uint32, user, client string) bool {
	t := q.table.Load()
	for k := QuotaKind(0); t != nil && k < QuotaConnect; k++ {
		if _, _, ok := t.find(k, tenant, user, client); ok {
			return true
		}
	}
	return false
}

// Any says whether there are quotas.
func (q *Quotas) Any() bool { return q.table.Load() != nil }

// Throttled tells how often clients had to wait for a quota of a kind, and how long all together.
func (q *Quotas) Throttled(k QuotaKind) (times int64, waited time.Duration) {
	return q.throttles[k].Load(), time.Duration(q.waited[k].Load())
}

func (q *Quotas) note(k QuotaKind, d time.Duration) {
	q.throttles[k].Add(1)
	q.waited[k].Add(int64(d))
}

// bucket finds or makes a bucket; hold says that it is kept until release.
func (q *Quotas) bucket(key bucketKey, rate float64, now int64, hold bool) *quotaBucket {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sweepLocked(now)
	b := q.mu.buckets[key]
	if b == nil {
		b = &quotaBucket{burst: int64(quotaBurst[key.kind])}
		b.free.Store(now - b.burst)
		if q.mu.buckets == nil {
			q.mu.buckets = make(map[bucketKey]*quotaBucket)
		}
		q.mu.buckets[key] = b
	}
	b.setRate(rate)
	if hold {
		b.refs++
	} else {
		q.idleLocked(key, b)
	}
	return b
}

func (q *Quotas) release(key bucketKey, now int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if b := q.mu.buckets[key]; b != nil {
		if b.refs--; b.refs == 0 {
			q.idleLocked(key, b)
		}
	}
	q.sweepLocked(now)
}

func (q *Quotas) idleLocked(key bucketKey, b *quotaBucket) {
	if !b.idle && b.refs == 0 {
		b.idle = true
		q.mu.idle = append(q.mu.idle, key)
	}
}

// sweepLocked forgets buckets that nobody holds and that are full. A client does not get rid of what it owes by coming back.
func (q *Quotas) sweepLocked(now int64) {
	for range min(len(q.mu.idle), 4) {
		key := q.mu.idle[0]
		q.mu.idle = q.mu.idle[1:]
		b := q.mu.buckets[key]
		b.idle = false
		switch {
		case b.refs > 0:
		case b.free.Load() > now-b.burst:
			q.idleLocked(key, b)
		default:
			delete(q.mu.buckets, key)
		}
	}
}

// Connect counts a connection from an address. Above 0: it is one too many, is not counted, and another one may come after so long.
func (q *Quotas) Connect(from netip.Addr, now int64) time.Duration {
	t := q.table.Load()
	if t == nil || len(t.kinds[QuotaConnect]) == 0 || !from.IsValid() {
		return 0
	}
	from = from.Unmap().WithZone("")
	rate, ok := t.kinds[QuotaConnect][quotaKey{QuotaEntity: QuotaEntity{IP: QuotaPart{Said: true, Name: from.String()}}}]
	if !ok {
		if rate, ok = t.kinds[QuotaConnect][quotaKey{QuotaEntity: QuotaEntity{IP: QuotaPart{Said: true, Default: true}}}]; !ok {
			return 0
		}
	}
	b := q.bucket(bucketKey{kind: QuotaConnect, ip: from}, rate, now, false)
	if rate == 0 {
		q.note(QuotaConnect, 0)
		return throttleMax
	}
	if d := b.owed(now); d > 0 {
		q.note(QuotaConnect, d)
		return d
	}
	b.take(1, now)
	return 0
}

// QuotaUse is one client's part in quotas. It belongs to one goroutine at a time. Make it with Use, end it with Release.
type QuotaUse struct {
	q            *Quotas
	table        *quotaTable // what the buckets were found by
	tenant       uint32
	user, client string
	buckets      [QuotaConnect]*quotaBucket // nil: no quota of the kind
	keys         [QuotaConnect]bucketKey
}

// Use begins the use of quotas by a client of a tenant; user is as Identity.Principal gives it.
func (q *Quotas) Use(tenant uint32, user, client string) *QuotaUse {
	return &QuotaUse{q: q, tenant: tenant, user: user, client: client}
}

// Is says whether u is that of a client.
func (u *QuotaUse) Is(tenant uint32, user string, client []byte) bool {
	return u.tenant == tenant && u.user == user && u.client == string(client)
}

// find looks the buckets up again if the quotas are not the same any more.
func (u *QuotaUse) find(now int64) {
	t := u.q.table.Load()
	if t == u.table {
		return
	}
	old, oldKeys := u.buckets, u.keys
	u.table, u.buckets, u.keys = t, [QuotaConnect]*quotaBucket{}, [QuotaConnect]bucketKey{}
	for k := range QuotaConnect {
		if t == nil {
			break
		}
		if rate, key, ok := t.find(k, u.tenant, u.user, u.client); ok {
			u.buckets[k], u.keys[k] = u.q.bucket(key, rate, now, true), key
		}
	}
	for k, b := range old {
		if b != nil {
			u.q.release(oldKeys[k], now)
		}
	}
}

// Bounds says whether there is a quota of a kind for the client, and at most how many units it can have at once.
func (u *QuotaUse) Bounds(k QuotaKind, now int64) (most float64, ok bool) {
	u.find(now)
	b := u.buckets[k]
	if b == nil {
		return 0, false
	}
	return float64(b.burst) / math.Float64frombits(b.each.Load()), true
}

// Left says whether there is a quota of a kind for the client, and how many units are paid for already.
func (u *QuotaUse) Left(k QuotaKind, now int64) (units float64, ok bool) {
	u.find(now)
	b := u.buckets[k]
	if b == nil {
		return 0, false
	}
	return float64(min(max(now-b.free.Load(), 0), b.burst)) / math.Float64frombits(b.each.Load()), true
}

// Take uses n units of a kind. The client is to wait for what it answers.
func (u *QuotaUse) Take(k QuotaKind, n float64, now int64) time.Duration {
	u.find(now)
	b := u.buckets[k]
	if b == nil || n <= 0 {
		return 0
	}
	d := b.take(n, now)
	if d > 0 {
		u.q.note(k, d)
	}
	return d
}

// Owed is how long the client has to wait for what was used already.
func (u *QuotaUse) Owed(k QuotaKind, now int64) time.Duration {
	u.find(now)
	if b := u.buckets[k]; b != nil {
		return b.owed(now)
	}
	return 0
}

// Release ends the use.
func (u *QuotaUse) Release(now int64) {
	for k, b := range u.buckets {
		if b != nil {
			u.q.release(u.keys[k], now)
		}
	}
	u.buckets, u.table = [QuotaConnect]*quotaBucket{}, nil
}
