package broker

import (
	"hash/maphash"

	"github.com/sluicemq/sluice/alloc"
)

// sessionTable finds the sessions of a shard by their names, at a third of what a map with the names as keys takes. The zero value is
// ready; the shard's lock guards it.
type sessionTable struct {
	table alloc.Table
	rows  []*Session // by the table's slots, from 1 on
	free  []uint32
}

var sessionSeed = maphash.MakeSeed()

func (k sessionKey) hash() uint64 {
	return maphash.String(sessionSeed, k.id) ^ uint64(k.tenant)*0x9e3779b97f4a7c15
}

func (t *sessionTable) find(k sessionKey, hash uint64) (row uint32, ok bool) {
	return t.table.Lookup(hash, func(row uint32) bool {
		s := t.rows[row-1]
		return s.tenant == k.tenant && s.id == k.id
	})
}

// get gives the session with this name, or nil.
func (t *sessionTable) get(k sessionKey) *Session {
	row, ok := t.find(k, k.hash())
	if !ok {
		return nil
	}
	return t.rows[row-1]
}

// set enters s under its name, in the place of another one that has it.
func (t *sessionTable) set(s *Session) {
	k := s.key()
	hash := k.hash()
	if row, ok := t.find(k, hash); ok {
		t.rows[row-1] = s
		return
	}
	row := uint32(len(t.rows) + 1)
	if n := len(t.free); n > 0 {
		row, t.free = t.free[n-1], t.free[:n-1]
		t.rows[row-1] = s
	} else {
		t.rows = append(t.rows, s)
	}
	t.table.Insert(hash, row)
}

// remove takes s out, unless another session has its name by now.
func (t *sessionTable) remove(s *Session) {
	k := s.key()
	hash := k.hash()
	row, ok := t.find(k, hash)
	if !ok || t.rows[row-1] != s {
		return
	}
	t.table.Delete(hash, row)
	t.rows[row-1] = nil
	t.free = append(t.free, row)
}

// each calls fn with every session.
func (t *sessionTable) each(fn func(s *Session)) {
	for _, s := range t.rows {
		if s != nil {
			fn(s)
		}
	}
}
