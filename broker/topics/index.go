package topics

import (
	"bytes"
	"sync/atomic"
)

// FilterID is the slot of a filter row: one (tenant, share group, filter text) that has at least one subscriber. It is reused
// after the row is gone, and it is not dense. 0 is never a row.
type FilterID uint32

// Entry is one subscriber of a filter. Options are the caller's bits, which the index carries and never reads.
type Entry struct {
	Subscriber     uint32
	Options        uint32
	SubscriptionID uint32
}

// Options bound what a filter may be. The zero value is production.
type Options struct {
	MaxLevels int // 0: 128
	MaxLength int // bytes of a filter without its $share prefix; 0: 65,535
}

// MatchedFilter is one filter row that matched. Entries is a view into the buffer of its Matches.
type MatchedFilter struct {
	ID      FilterID
	Mark    uint64
	Shared  bool
	Entries []Entry
}

// Matches is a reusable result of Match, owned by one goroutine. Filters and its views hold until the next Match with it.
type Matches struct {
	Filters []MatchedFilter
	entries []Entry
	levels  []matchLevel
	stack   []matchFrame
}

// Filters without wildcards are spread by their text, filters with wildcards by their first level; those that begin with a
// wildcard have a shard of their own. A FilterID is the row's number in its shard and the shard's.
const (
	exactShards = 32
	levelShards = 32
	anyShard    = exactShards + levelShards
	shards      = anyShard + 1
	shardBits   = 7
	maxRows     = 1<<(32-shardBits) - 1 // of a shard

	// keepBytes is what an empty shard may keep of its memory, so that one filter that comes and goes allocates nothing.
	keepBytes = 256 << 10
)

func filterID(row, shard uint32) FilterID { return FilterID(row<<shardBits | shard) }

// Index finds the filters, and their subscribers, that match a topic. Many readers and writers may use it at a time: a match takes
// at most three shards' locks, one after the other, to read; a change takes one.
type Index struct {
	opts          Options
	hash          hasher
	generation    atomic.Uint64
	filters       atomic.Int64
	subscriptions atomic.Int64
	shards        [shards]shard
}

// New makes an empty index.
func New(o Options) *Index {
	if o.MaxLevels == 0 {
		o.MaxLevels = defaultMaxLevels
	}
	if o.MaxLength == 0 {
		o.MaxLength = defaultMaxLength
	}
	return &Index{opts: o, hash: newHasher()}
}

// shard is the number of the shard that holds a valid filter.
func (x *Index) shard(tenant uint32, filter []byte) (number uint32, wild bool) {
	switch {
	case !HasWildcard(filter):
		return exactShard(x.hash.text(tenant, filter)), false
	case filter[0] == singleLevelMarker || filter[0] == multiLevelMarker:
		return anyShard, true
	default:
		first, _, _ := bytes.Cut(filter, separator)
		return levelShard(x.hash.text(tenant, first)), true
	}
}

// The tables of a shard part their entries by the upper and lower bits of a hash's halves: these are from between.
func exactShard(hash uint64) uint32 { return uint32(hash>>40) % exactShards }
func levelShard(hash uint64) uint32 { return exactShards + uint32(hash>>40)%levelShards }

// Subscribe adds or replaces e.Subscriber's entry under filter; group is the $share name, or nil. isNew says that this
// subscriber had no entry there. The bytes are copied.
func (x *Index) Subscribe(tenant uint32, group, filter []byte, e Entry) (id FilterID, isNew bool, err error) {
	if len(filter) > x.opts.MaxLength {
		return 0, false, ErrTooLong
	}
	if err := CheckFilter(filter); err != nil {
		return 0, false, err
	}
	if levels(filter) > x.opts.MaxLevels {
		return 0, false, ErrTooManyLevels
	}
	number, wild := x.shard(tenant, filter)
	s := &x.shards[number]
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.mu.tables
	if t.rows.Len() >= maxRows {
		return 0, false, ErrFull
	}
	p := t.find(&x.hash, tenant, filter, wild, true)
	at := t.rowAt(&x.hash, &p, tenant, group, filter)
	if at == 0 {
		at = t.addRow(&x.hash, &p, tenant, group, filter)
		s.filters.Add(1)
		x.filters.Add(1)
	}
	r := t.rows.At(at)
	if old := t.entries.find(&x.hash, at, r, e.Subscriber); old != nil {
		if *old != e {
			*old = e
			x.generation.Add(1)
		}
		return filterID(at, number), false, nil
	}
	t.entries.add(&x.hash, at, r, e)
	x.subscriptions.Add(1)
	x.generation.Add(1)
	return filterID(at, number), true, nil
}

// Unsubscribe removes subscriber's entry. A row that loses its last entry is gone, with its mark; id is what it was.
func (x *Index) Unsubscribe(tenant uint32, group, filter []byte, subscriber uint32) (id FilterID, existed bool) {
	if CheckFilter(filter) != nil {
		return 0, false
	}
	number, wild := x.shard(tenant, filter)
	s := &x.shards[number]
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.mu.tables
	p := t.find(&x.hash, tenant, filter, wild, false)
	at := t.rowAt(&x.hash, &p, tenant, group, filter)
	if at == 0 {
		return 0, false
	}
	r := t.rows.At(at)
	if !t.entries.remove(&x.hash, at, r, subscriber) {
		return 0, false
	}
	x.subscriptions.Add(-1)
	if r.n == 0 {
		t.dropRow(&x.hash, &p, at)
		x.filters.Add(-1)
		if s.filters.Add(-1) == 0 && t.bytes() > keepBytes {
			*t = tables{}
		}
	}
	x.generation.Add(1)
	return filterID(at, number), true
}

// Lookup finds the row of a filter.
func (x *Index) Lookup(tenant uint32, group, filter []byte) (FilterID, bool) {
	if CheckFilter(filter) != nil {
		return 0, false
	}
	number, wild := x.shard(tenant, filter)
	s := &x.shards[number]
	s.mu.RLock()
	defer s.mu.RUnlock()
	t := &s.mu.tables
	p := t.find(&x.hash, tenant, filter, wild, false)
	if at := t.rowAt(&x.hash, &p, tenant, group, filter); at != 0 {
		return filterID(at, number), true
	}
	return 0, false
}

// of is the shard of a FilterID, which may be stale or nonsense, and the row's number in it.
func (x *Index) of(id FilterID) (s *shard, row uint32) {
	number := uint32(id) % (1 << shardBits)
	if number >= shards {
		return &x.shards[0], 0
	}
	return &x.shards[number], uint32(id) >> shardBits
}

// Filter says which filter id is, in fresh copies; group is nil if it is not shared, and filter is nil if there is no such row.
func (x *Index) Filter(id FilterID) (tenant uint32, group, filter []byte) {
	s, at := x.of(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	t := &s.mu.tables
	r := t.row(at)
	if r == nil {
		return 0, nil, nil
	}
	group, filter = t.textOf(r)
	return r.tenant, group, filter
}

// SetMark keeps one word of the caller's with the row; a new row has 0. It does nothing if there is no such row.
func (x *Index) SetMark(id FilterID, mark uint64) {
	s, at := x.of(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.mu.row(at); r != nil && r.mark != mark {
		r.mark = mark
		x.generation.Add(1)
	}
}

// Mark is what SetMark kept.
func (x *Index) Mark(id FilterID) uint64 {
	s, at := x.of(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.mu.row(at); r != nil {
		return r.mark
	}
	return 0
}

// Generation moves after every change that can alter a match, before the call that made the change returns. Who caches a match
// loads the generation first, matches then, and trusts the cache while the generation stands.
func (x *Index) Generation() uint64 { return x.generation.Load() }

// Match fills m with every filter of tenant that matches topic, in no order. It allocates nothing once m has grown. Changes that
// run beside it are in it or not, each by itself.
func (x *Index) Match(tenant uint32, topic []byte, m *Matches) {
	m.Filters, m.entries, m.levels = m.Filters[:0], m.entries[:0], m.levels[:0]
	if len(topic) == 0 {
		return
	}
	hash := x.hash.text(tenant, topic)
	number := exactShard(hash)
	if s := &x.shards[number]; s.filters.Load() != 0 {
		s.mu.RLock()
		t := &s.mu.tables
		first, ok := t.exact.Lookup(hash, func(id uint32) bool {
			r := t.rows.At(id)
			return r.tenant == tenant && bytes.Equal(t.text.Get(r.text), topic)
		})
		if ok {
			t.collect(m, number, first)
		}
		s.mu.RUnlock()
	}
	number = levelShard(x.hash.pair(m.level(&x.hash, topic, 0).hash, tenant))
	if s := &x.shards[number]; s.filters.Load() != 0 {
		s.mu.RLock()
		s.mu.match(&x.hash, tenant, topic, m, number)
		s.mu.RUnlock()
	}
	if s := &x.shards[anyShard]; topic[0] != '$' && s.filters.Load() != 0 {
		s.mu.RLock()
		s.mu.match(&x.hash, tenant, topic, m, anyShard)
		s.mu.RUnlock()
	}
}

// Len counts the filter rows and the entries under them.
func (x *Index) Len() (filters, subscriptions int) {
	return int(x.filters.Load()), int(x.subscriptions.Load())
}

// Bytes is the memory that the index holds.
func (x *Index) Bytes() int64 {
	total := int64(0)
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.RLock()
		total += s.mu.bytes()
		s.mu.RUnlock()
	}
	return total
}
