package meta

import (
	"hash/maphash"
	"iter"
	"maps"
	"slices"
)

// Snapshot is the catalog at one moment. It is immutable, safe for concurrent use, and so is what it holds.
type Snapshot struct {
	generation uint64
	index      uint64 // of the last command in it
	tables     [kindCount]*table
}

// Generation is one higher in each later snapshot of a run.
func (s *Snapshot) Generation() uint64 { return s.generation }

// Index is the place of the snapshot's last command in the group's log, 0 for a group that has one node alone.
func (s *Snapshot) Index() uint64 { return s.index }

// stripes is how many parts a table has: a change copies the part that it is in.
const stripes = 256

// table has the entries of one kind by name.
type table struct {
	parts [stripes]*part // nil: empty
	count int
}

// part is immutable once its snapshot is taken: two tables that share it have the same entries there.
type part struct{ entries map[string]any }

func (p *part) get(name string) (v any, found bool) {
	if p == nil {
		return nil, false
	}
	v, found = p.entries[name]
	return v, found
}

func (p *part) all() map[string]any {
	if p == nil {
		return nil
	}
	return p.entries
}

var (
	noTable    table
	stripeSeed = maphash.MakeSeed()
)

func stripeOf(name string) int { return int(maphash.String(stripeSeed, name) % stripes) }

// get finds an entry; the zero value if there is none.
func get[V any](s *Snapshot, k kindID, name string) (v V, found bool) {
	e, found := s.tables[k].parts[stripeOf(name)].get(name)
	if found {
		v = e.(V)
	}
	return v, found
}

// all walks the entries of a kind in the order of their names. It sorts: not for hot paths.
func all[V any](s *Snapshot, k kindID) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		t := s.tables[k]
		names := make([]string, 0, t.count)
		for _, p := range t.parts {
			names = slices.AppendSeq(names, maps.Keys(p.all()))
		}
		slices.Sort(names)
		for _, name := range names {
			if v, _ := get[V](s, k, name); !yield(name, v) {
				return
			}
		}
	}
}

// changed says whether entries of a kind may differ between two snapshots. Entries that do not change are the same values in both.
func (s *Snapshot) changed(k kindID, old *Snapshot) bool { return s.tables[k] != old.tables[k] }

// differing calls fn with every name of a kind that has another value in now than in old, or is in one of them only.
func differing(k kindID, old, now *Snapshot, fn func(name string)) {
	if !now.changed(k, old) {
		return
	}
	for i := range stripes {
		before, after := old.tables[k].parts[i], now.tables[k].parts[i]
		if before == after {
			continue
		}
		was, is := before.all(), after.all()
		for name, v := range is {
			if w, found := was[name]; !found || w != v {
				fn(name)
			}
		}
		for name := range was {
			if _, found := is[name]; !found {
				fn(name)
			}
		}
	}
}

func emptySnapshot() *Snapshot {
	s := &Snapshot{}
	for i := range s.tables {
		s.tables[i] = &noTable
	}
	return s
}

// edit makes the next snapshot out of one. What it has copied once it changes in place, until the snapshot is taken.
type edit struct {
	next Snapshot
	own  [kindCount]*[stripes]bool
}

func (s *Snapshot) edit() *edit { return &edit{next: *s} }

// set enters v, or takes the entry out if v is nil.
func (e *edit) set(k kindID, name string, v any) {
	t := e.next.tables[k]
	if e.own[k] == nil {
		e.own[k] = new([stripes]bool)
		c := *t
		t = &c
		e.next.tables[k] = t
	}
	i := stripeOf(name)
	if !e.own[k][i] {
		e.own[k][i] = true
		p := &part{maps.Clone(t.parts[i].all())}
		if p.entries == nil {
			p.entries = make(map[string]any)
		}
		t.parts[i] = p
	}
	entries := t.parts[i].entries
	if _, found := entries[name]; found {
		t.count--
	}
	if v == nil {
		delete(entries, name)
		return
	}
	entries[name] = v
	t.count++
}

// take gives the snapshot. The edit goes on from it.
func (e *edit) take() *Snapshot {
	e.next.generation++
	s := e.next
	e.own = [kindCount]*[stripes]bool{}
	return &s
}
