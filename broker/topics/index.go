package topics

import (
	"sync"
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
}

type rowKey struct {
	tenant        uint32
	shared        bool
	group, filter string
}

type row struct {
	key     rowKey
	mark    uint64
	entries []Entry
}

// Index finds the filters, and their subscribers, that match a topic. Many readers and writers may use it at a time.
type Index struct {
	opts       Options
	generation atomic.Uint64
	mu         struct {
		sync.RWMutex
		ids           map[rowKey]FilterID
		rows          map[FilterID]*row
		free          []FilterID
		last          FilterID
		subscriptions int
	}
}

// New makes an empty index.
func New(o Options) *Index {
	if o.MaxLevels == 0 {
		o.MaxLevels = defaultMaxLevels
	}
	if o.MaxLength == 0 {
		o.MaxLength = defaultMaxLength
	}
	x := &Index{opts: o}
	x.mu.ids = make(map[rowKey]FilterID)
	x.mu.rows = make(map[FilterID]*row)
	return x
}

func key(tenant uint32, group, filter []byte) rowKey {
	return rowKey{tenant, group != nil, string(group), string(filter)}
}

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
	x.mu.Lock()
	defer x.mu.Unlock()
	k := key(tenant, group, filter)
	id = x.mu.ids[k]
	if id == 0 {
		if n := len(x.mu.free); n > 0 {
			id, x.mu.free = x.mu.free[n-1], x.mu.free[:n-1]
		} else {
			x.mu.last++
			id = x.mu.last
		}
		x.mu.ids[k] = id
		x.mu.rows[id] = &row{key: k}
	}
	r := x.mu.rows[id]
	for i := range r.entries {
		if r.entries[i].Subscriber == e.Subscriber {
			r.entries[i] = e
			x.generation.Add(1)
			return id, false, nil
		}
	}
	r.entries = append(r.entries, e)
	x.mu.subscriptions++
	x.generation.Add(1)
	return id, true, nil
}

// Unsubscribe removes subscriber's entry. A row that loses its last entry is gone, with its mark; id is what it was.
func (x *Index) Unsubscribe(tenant uint32, group, filter []byte, subscriber uint32) (id FilterID, existed bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	k := key(tenant, group, filter)
	id = x.mu.ids[k]
	if id == 0 {
		return 0, false
	}
	r := x.mu.rows[id]
	for i := range r.entries {
		if r.entries[i].Subscriber != subscriber {
			continue
		}
		r.entries = append(r.entries[:i], r.entries[i+1:]...)
		x.mu.subscriptions--
		if len(r.entries) == 0 {
			delete(x.mu.ids, k)
			delete(x.mu.rows, id)
			x.mu.free = append(x.mu.free, id)
		}
		x.generation.Add(1)
		return id, true
	}
	return 0, false
}

// Lookup finds the row of a filter.
func (x *Index) Lookup(tenant uint32, group, filter []byte) (FilterID, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	id, ok := x.mu.ids[key(tenant, group, filter)]
	return id, ok
}

// Filter says which filter id is, in fresh copies; group is nil if it is not shared, and filter is nil if there is no such row.
func (x *Index) Filter(id FilterID) (tenant uint32, group, filter []byte) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	r := x.mu.rows[id]
	if r == nil {
		return 0, nil, nil
	}
	if r.key.shared {
		group = []byte(r.key.group)
	}
	return r.key.tenant, group, []byte(r.key.filter)
}

// SetMark keeps one word of the caller's with the row; a new row has 0. It does nothing if there is no such row.
func (x *Index) SetMark(id FilterID, mark uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if r := x.mu.rows[id]; r != nil {
		r.mark = mark
		x.generation.Add(1)
	}
}

// Mark is what SetMark kept.
func (x *Index) Mark(id FilterID) uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if r := x.mu.rows[id]; r != nil {
		return r.mark
	}
	return 0
}

// Generation moves after every change that can alter a match, before the call that made the change returns. Who caches a match
// loads the generation first, matches then, and trusts the cache while the generation stands.
func (x *Index) Generation() uint64 { return x.generation.Load() }

// Match fills m with every filter of tenant that matches topic, in no order. It allocates nothing once m has grown.
func (x *Index) Match(tenant uint32, topic []byte, m *Matches) {
	m.Filters = m.Filters[:0]
	x.mu.RLock()
	defer x.mu.RUnlock()
	for id, r := range x.mu.rows {
		if r.key.tenant == tenant && FilterMatches([]byte(r.key.filter), topic) {
			m.Filters = append(m.Filters, MatchedFilter{id, r.mark, r.key.shared, append([]Entry(nil), r.entries...)})
		}
	}
}

// Len counts the filter rows and the entries under them.
func (x *Index) Len() (filters, subscriptions int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.mu.rows), x.mu.subscriptions
}

// Bytes is the memory that the index holds.
func (x *Index) Bytes() int64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return int64(len(x.mu.rows)) * 200
}
