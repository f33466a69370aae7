package topics

import (
	"bytes"
	"sort"
	"sync"
)

// RetainedOptions bound what a topic may be. The zero value is production.
type RetainedOptions struct {
	MaxLevels int // 0: 128
}

// Cursor is where a Match of retained topics stopped. The zero value is the beginning. It holds no lock and no row: topics may come
// and go between two calls. Match reuses its memory.
type Cursor struct {
	seek []byte
	done bool
}

// Done says that nothing is left to match.
func (c *Cursor) Done() bool { return c.done }

type retainedKey struct {
	tenant uint32
	topic  string
}

// Retained finds the slots of retained messages by topic and by filter. Many readers and writers may use it at a time.
type Retained struct {
	opts RetainedOptions
	mu   struct {
		sync.RWMutex
		slots map[retainedKey]uint32
	}
}

// NewRetained makes an empty index.
func NewRetained(o RetainedOptions) *Retained {
	if o.MaxLevels == 0 {
		o.MaxLevels = defaultMaxLevels
	}
	r := &Retained{opts: o}
	r.mu.slots = make(map[retainedKey]uint32)
	return r
}

// Put makes slot the retained message of topic, and answers the slot that it replaces, or 0. Slots are the caller's, never 0.
// The topic is copied.
func (r *Retained) Put(tenant uint32, topic []byte, slot uint32) (old uint32, err error) {
	if err := CheckTopic(topic); err != nil {
		return 0, err
	}
	if levels(topic) > r.opts.MaxLevels {
		return 0, ErrTooManyLevels
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	k := retainedKey{tenant, string(topic)}
	old = r.mu.slots[k]
	r.mu.slots[k] = slot
	return old, nil
}

// Delete forgets topic, and answers the slot it had, or 0.
func (r *Retained) Delete(tenant uint32, topic []byte) (old uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := retainedKey{tenant, string(topic)}
	old = r.mu.slots[k]
	delete(r.mu.slots, k)
	return old
}

// Get finds the slot of topic, or 0.
func (r *Retained) Get(tenant uint32, topic []byte) uint32 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mu.slots[retainedKey{tenant, string(topic)}]
}

// Match calls fn for the topics that filter matches, from after on, until it has looked at limit topics, fn answers false, or
// nothing is left (after.Done). A topic that is there all the while comes exactly once over all calls; the topic for which fn
// answered false has come. fn runs under the lock: topic dies with the call, and fn must not call the index.
func (r *Retained) Match(tenant uint32, filter []byte, after *Cursor, limit int, fn func(slot uint32, topic []byte) bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var found []string
	for k := range r.mu.slots {
		if k.tenant == tenant && FilterMatches(filter, []byte(k.topic)) && k.topic >= string(after.seek) {
			found = append(found, k.topic)
		}
	}
	sort.Strings(found)
	for i, topic := range found {
		if i == limit || !fn(r.mu.slots[retainedKey{tenant, topic}], bytes.Clone([]byte(topic))) {
			after.seek = append(after.seek[:0], topic...)
			if i != limit {
				after.seek = append(after.seek, 0)
			}
			return
		}
	}
	after.done = true
}

// Len counts the topics.
func (r *Retained) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.mu.slots)
}

// Bytes is the memory that the index holds.
func (r *Retained) Bytes() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return int64(len(r.mu.slots)) * 150
}
