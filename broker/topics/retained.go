package topics

import (
	"bytes"
	"sync"

	"github.com/sluicemq/sluice/alloc"
)

// RetainedOptions bound what a topic may be. The zero value is production.
type RetainedOptions struct {
	MaxLevels int // 0: 128
}

// Cursor is where a Match of retained topics stopped. The zero value is the beginning. It holds no lock and no row: topics may come
// and go between two calls. Match reuses its memory.
type Cursor struct {
	seek []byte // nothing below this is left
	done bool
}

// Done says that nothing is left to match.
func (c *Cursor) Done() bool { return c.done }

// Reset moves the cursor to the beginning, where another Match begins in its memory.
func (c *Cursor) Reset() { c.seek, c.done = c.seek[:0], false }

// Place is what CursorFrom goes on from: a copy. It holds as long as the order of topics does, also on disk.
func (c *Cursor) Place() []byte { return append([]byte(nil), c.seek...) }

// CursorFrom gives a cursor at a place, which is copied.
func CursorFrom(place []byte) Cursor { return Cursor{seek: append([]byte(nil), place...)} }

// Retained finds the slots of retained messages by topic and by filter. Many readers and writers may use it at a time.
type Retained struct {
	opts RetainedOptions
	hash hasher
	mu   struct {
		sync.RWMutex
		retainedTables
	}
}

// retainedTables are the topics, by hash for one and in order for filters.
type retainedTables struct {
	rows  alloc.Slab[retainedRow]
	text  alloc.Arena
	exact alloc.Table
	tree  tree
}

type retainedRow struct {
	text   alloc.Handle
	tenant uint32
	slot   uint32
}

// NewRetained makes an empty index.
func NewRetained(o RetainedOptions) *Retained {
	if o.MaxLevels == 0 {
		o.MaxLevels = defaultMaxLevels
	}
	return &Retained{opts: o, hash: newHasher()}
}

// find is the row of a topic, or 0.
func (r *retainedTables) find(hash uint64, tenant uint32, topic []byte) uint32 {
	id, _ := r.exact.Lookup(hash, func(id uint32) bool {
		row := r.rows.At(id)
		return row.tenant == tenant && bytes.Equal(r.text.Get(row.text), topic)
	})
	return id
}

func (r *retainedTables) bytes() int64 {
	return r.rows.Bytes() + r.text.Bytes() + r.exact.Bytes() + r.tree.bytes()
}

// Put makes slot the retained message of topic, and answers the slot that it replaces, or 0. Slots are the caller's, never 0.
// The topic is copied.
func (r *Retained) Put(tenant uint32, topic []byte, slot uint32) (old uint32, err error) {
	if err := r.check(topic); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	row, isNew := r.mu.enter(r.hash.text(tenant, topic), tenant, topic)
	if !isNew {
		old = row.slot
	}
	row.slot = slot
	return old, nil
}

// PutNew makes slot the retained message of topic if it has none, and answers the slot that it has then.
func (r *Retained) PutNew(tenant uint32, topic []byte, slot uint32) (have uint32, err error) {
	if err := r.check(topic); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	row, isNew := r.mu.enter(r.hash.text(tenant, topic), tenant, topic)
	if isNew {
		row.slot = slot
	}
	return row.slot, nil
}

func (r *Retained) check(topic []byte) error {
	if err := CheckTopic(topic); err != nil {
		return err
	}
	if levels(topic) > r.opts.MaxLevels {
		return ErrTooManyLevels
	}
	return nil
}

// enter gives the row of a topic, a new one without a slot if it has none.
func (r *retainedTables) enter(hash uint64, tenant uint32, topic []byte) (row *retainedRow, isNew bool) {
	if id := r.find(hash, tenant, topic); id != 0 {
		return r.rows.At(id), false
	}
	id := r.rows.Alloc()
	row = r.rows.At(id)
	*row = retainedRow{text: r.text.Alloc(topic), tenant: tenant}
	r.exact.Insert(hash, id)
	r.insert(id, tenant, topic)
	return row, true
}

// Delete forgets topic, and answers the slot it had, or 0.
func (r *Retained) Delete(tenant uint32, topic []byte) (old uint32) {
	hash := r.hash.text(tenant, topic)
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.mu.retainedTables
	id := t.find(hash, tenant, topic)
	if id == 0 {
		return 0
	}
	row := t.rows.At(id)
	old = row.slot
	t.remove(tenant, topic)
	t.exact.Delete(hash, id)
	t.text.Free(row.text)
	t.rows.Free(id)
	if t.rows.Len() == 0 && t.bytes() > keepBytes {
		*t = retainedTables{}
	}
	return old
}

// Get finds the slot of topic, or 0.
func (r *Retained) Get(tenant uint32, topic []byte) uint32 {
	hash := r.hash.text(tenant, topic)
	r.mu.RLock()
	defer r.mu.RUnlock()
	if id := r.mu.find(hash, tenant, topic); id != 0 {
		return r.mu.rows.At(id).slot
	}
	return 0
}

// Match calls fn for the topics that filter matches, from after on, until it has looked at limit topics, fn answers false, or
// nothing is left (after.Done). Topics that cannot match are passed over by levels, not one by one; a jump counts as up to
// seekLooks topics. limit is at least 1. A topic that is there all the while comes exactly once over all calls, in the order of the
// levels; the one for which fn answered false has come. fn runs under the lock: topic dies with the call, and fn must not call the
// index.
func (r *Retained) Match(tenant uint32, filter []byte, after *Cursor, limit int, fn func(slot uint32, topic []byte) bool) {
	if after.done || len(filter) == 0 {
		after.done = true
		return
	}
	if !HasWildcard(filter) {
		r.matchOne(tenant, filter, after, fn)
		return
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	t := &r.mu.retainedTables
	if t.tree.root == 0 {
		after.done = true
		return
	}
	if len(after.seek) == 0 {
		after.seek = append(after.seek, bytes.TrimSuffix(filter[:bytes.IndexAny(filter, "+#")], separator)...)
	}
	var p treePath
	t.seek(&p, tenant, after.seek)
	for looked := 0; ; {
		id := t.tree.row(&p)
		if id == 0 || t.rows.At(id).tenant != tenant {
			after.done = true
			return
		}
		row := t.rows.At(id)
		topic := t.text.Get(row.text)
		if looked >= limit {
			after.seek = append(after.seek[:0], topic...)
			return
		}
		match := after.step(filter, topic)
		switch {
		case match && !fn(row.slot, topic):
			after.seek = append(append(after.seek[:0], topic...), levelSeparator) // the next key of all
			return
		case match:
			p.at++
			looked++
		case after.done:
			return
		default:
			looked += t.seekOn(&p, tenant, after.seek)
		}
	}
}

func (r *Retained) matchOne(tenant uint32, topic []byte, after *Cursor, fn func(slot uint32, topic []byte) bool) {
	after.done = true
	hash := r.hash.text(tenant, topic)
	r.mu.RLock()
	defer r.mu.RUnlock()
	if id := r.mu.find(hash, tenant, topic); id != 0 {
		row := r.mu.rows.At(id)
		fn(row.slot, r.mu.text.Get(row.text))
	}
}

// step says whether filter matches topic. If not, it moves c to the lowest key above topic that filter may match, or to the end.
func (c *Cursor) step(filter, topic []byte) bool {
	if topic[0] == '$' && (filter[0] == singleLevelMarker || filter[0] == multiLevelMarker) {
		c.seek = append(c.seek[:0], '$'+1)
		return false
	}
	plus := -1 // the end in topic of the level that the last '+' took
	for f, t := 0, 0; ; {
		fEnd, tEnd := levelEnd(filter, f), levelEnd(topic, t)
		level := filter[f:fEnd]
		switch {
		case len(level) == 1 && level[0] == multiLevelMarker:
			return true
		case len(level) == 1 && level[0] == singleLevelMarker:
			plus = tEnd
		default:
			switch order := bytes.Compare(level, topic[t:tEnd]); {
			case order > 0: // the same levels before, then this one
				c.seek = append(append(c.seek[:0], topic[:t]...), level...)
				return false
			case order < 0:
				return c.nextPlus(topic, plus)
			}
		}
		if fEnd == len(filter) {
			if tEnd == len(topic) {
				return true
			}
			return c.nextPlus(topic, plus)
		}
		f = fEnd + 1
		if tEnd == len(topic) {
			return c.below(topic, filter[f:])
		}
		t = tEnd + 1
	}
}

// nextPlus moves c behind all topics that share topic's levels up to plus: what follows has passed with them.
func (c *Cursor) nextPlus(topic []byte, plus int) bool {
	if plus < 0 {
		c.done = true
		return false
	}
	c.seek = append(append(c.seek[:0], topic[:plus]...), 0) // no topic holds U+0000, and only '/' is lower
	return false
}

// below moves c to the topics below topic, of which rest of the filter is asked. "a/#" matches "a" itself.
func (c *Cursor) below(topic, rest []byte) bool {
	if len(rest) == 1 && rest[0] == multiLevelMarker {
		return true
	}
	c.seek = append(append(c.seek[:0], topic...), levelSeparator)
	if len(rest) > 0 && rest[0] != singleLevelMarker { // a level that begins with '+' is '+'
		c.seek = append(c.seek, rest[:levelEnd(rest, 0)]...)
	}
	return false
}

func levelEnd(name []byte, from int) int {
	if i := bytes.IndexByte(name[from:], levelSeparator); i >= 0 {
		return from + i
	}
	return len(name)
}

// Len counts the topics.
func (r *Retained) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mu.rows.Len()
}

// Bytes is the memory that the index holds.
func (r *Retained) Bytes() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mu.bytes()
}
