package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// droppedMax bounds what is remembered of dropped partitions: an object that was on its way when its partition went may come that much later.
const droppedMax = 1 << 16

// Manifest is the index of what lies in the tier: all objects' rows, and for each partition its runs in order. It is in memory alone; the broker
// keeps its rows. All methods may be called concurrently; none waits for anything but the others. A read costs a read lock and a binary
// search. Memory: about 75 bytes for each run, and 200 for each object and each partition with runs. A run that lies below its
// partition's log start, or whose partition was dropped, is dead: reads do not see it. An object with dead runs alone is dead itself.
type Manifest struct {
	mu struct {
		sync.RWMutex
		objects map[object.ID]*entry
		dead    map[object.ID]*entry // of those, without a live run
		epochs  map[record.Epoch]epochRow
		parts   map[record.PartitionID]*partition // those with live runs
		starts  map[record.PartitionID]record.Offset
		dropped map[record.PartitionID]struct{}
		forget  []record.PartitionID // the dropped ones, the oldest first
		classes map[string]string
		reached map[record.Epoch]uint64 // of each epoch one above the greatest sequence that there was
		stats   Stats
	}
}

// Stats are what a manifest holds.
type Stats struct {
	Objects, Runs, Partitions int
	Bytes                     int64 // of all objects
	Dead                      int   // objects
	DeadBytes                 int64 // of those
	LiveRuns                  int
	LiveBytes                 int64 // of batches in live runs
}

type epochRow struct {
	Epoch
	shard record.ShardID
}

// entry is an object.
type entry struct {
	id                  object.ID
	size, tail, created int64
	class               string
	shard               record.ShardID
	runs                []run
	live                int // runs
}

// run is a Run. Its memory is its entry's.
type run struct {
	obj           *entry
	partition     record.PartitionID
	first, last   record.Offset
	maxTime       int64
	bytes         int64
	index, blocks int32
	live          bool
	flags         uint8 // of Run
}

// NewManifest makes an empty one.
func NewManifest() *Manifest {
	m := new(Manifest)
	m.mu.objects, m.mu.dead = make(map[object.ID]*entry), make(map[object.ID]*entry)
	m.mu.epochs = make(map[record.Epoch]epochRow)
	m.mu.parts, m.mu.starts = make(map[record.PartitionID]*partition), make(map[record.PartitionID]record.Offset)
	m.mu.dropped = make(map[record.PartitionID]struct{})
	m.mu.classes = make(map[string]string)
	m.mu.reached = make(map[record.Epoch]uint64)
	return m
}

// Apply takes a row of a shard over; value nil: it is gone. It keeps neither key nor value. It is called in the order of commits, at recovery
// too, where a row may come again, or be gone that never was. ErrRow: the row is no one that this program knows, or an object's that has its row
// in another shard; the manifest is as it was.
func (m *Manifest) Apply(shard record.ShardID, key, value []byte) error {
	if len(key) == 0 {
		return fmt.Errorf("%w: no key", ErrRow)
	}
	switch {
	case key[0] == kindEpoch:
		return m.applyEpoch(shard, key, value)
	case value == nil:
		id, ok := decodeKey(key)
		if !ok {
			return fmt.Errorf("%w: key %x", ErrRow, key)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if e := m.mu.objects[id]; e != nil && e.shard == shard {
			m.removeLocked(e)
		}
		return nil
	}
	o, err := Decode(key, value)
	if err != nil {
		return err
	}
	e := &entry{id: o.ID, size: o.Size, tail: o.Tail, created: o.Created, shard: shard, runs: make([]run, len(o.Runs))}
	for i := range o.Runs {
		r := &o.Runs[i]
		e.runs[i] = run{obj: e, partition: r.Partition, first: r.First, last: r.Last, maxTime: r.MaxTime, bytes: r.Bytes, index: int32(r.Index), blocks: int32(r.Blocks), flags: uint8(r.Flags)}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.mu.objects[o.ID]; old != nil {
		if old.shard != shard {
			return fmt.Errorf("%w: object %s of shard %d has its row in shard %d", ErrRow, o.ID.Name(), shard, old.shard)
		}
		m.removeLocked(old)
	}
	e.class = m.internLocked(o.Class)
	m.addLocked(e)
	return nil
}

func (m *Manifest) applyEpoch(shard record.ShardID, key, value []byte) error {
	probe := value
	if value == nil {
		probe = []byte{version, 0, 0}
	}
	e, err := DecodeEpoch(key, probe)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if value == nil {
		delete(m.mu.epochs, e.Epoch)
	} else {
		m.mu.epochs[e.Epoch] = epochRow{e, shard}
	}
	return nil
}

// classesMax bounds the names of classes that are kept once for all objects.
const classesMax = 64

func (m *Manifest) internLocked(s string) string {
	if c, ok := m.mu.classes[s]; ok {
		return c
	}
	if len(m.mu.classes) < classesMax {
		m.mu.classes[s] = s
	}
	return s
}

func (m *Manifest) addLocked(e *entry) {
	m.mu.objects[e.id] = e
	m.mu.reached[e.id.Epoch] = max(m.mu.reached[e.id.Epoch], e.id.Sequence+1)
	m.mu.stats.Runs += len(e.runs)
	m.mu.stats.Bytes += e.size
	for i := range e.runs {
		r := &e.runs[i]
		if _, gone := m.mu.dropped[r.partition]; gone || r.last < m.mu.starts[r.partition] {
			continue
		}
		r.live = true
		e.live++
		m.mu.stats.LiveRuns++
		m.mu.stats.LiveBytes += r.bytes
		p := m.mu.parts[r.partition]
		if p == nil {
			p = new(partition)
			m.mu.parts[r.partition] = p
		}
		p.insert(r)
	}
	if e.live == 0 {
		m.dieLocked(e)
	}
}

func (m *Manifest) removeLocked(e *entry) {
	delete(m.mu.objects, e.id)
	if e.live == 0 {
		delete(m.mu.dead, e.id)
		m.mu.stats.DeadBytes -= e.size
	}
	m.mu.stats.Runs -= len(e.runs)
	m.mu.stats.Bytes -= e.size
	for i := range e.runs {
		r := &e.runs[i]
		if !r.live {
			continue
		}
		p := m.mu.parts[r.partition]
		p.remove(r)
		m.buryLocked(r)
		if p.empty() {
			delete(m.mu.parts, r.partition)
		}
	}
}

// buryLocked counts a run that its partition has let go of.
func (m *Manifest) buryLocked(r *run) {
	r.live = false
	r.obj.live--
	m.mu.stats.LiveRuns--
	m.mu.stats.LiveBytes -= r.bytes
}

func (m *Manifest) dieLocked(e *entry) {
	m.mu.dead[e.id] = e
	m.mu.stats.DeadBytes += e.size
}

// Value is the value of a row, or nil if the shard has none of that key: what a checkpoint writes.
func (m *Manifest) Value(shard record.ShardID, key []byte) []byte {
	if len(key) == epochKeySize && key[0] == kindEpoch {
		m.mu.RLock()
		defer m.mu.RUnlock()
		for _, e := range m.mu.epochs {
			if e.shard == shard && string(e.Key()) == string(key) {
				return e.Encode(nil)
			}
		}
		return nil
	}
	id, ok := decodeKey(key)
	if !ok {
		return nil
	}
	o, ok := m.Object(id)
	if !ok || o.Shard != shard {
		return nil
	}
	return o.Encode(nil)
}

// SetLogStart says that nobody needs records of p below o: runs that end below it are dead. It never moves back. What it says holds for objects that
// come later too.
func (m *Manifest) SetLogStart(p record.PartitionID, o record.Offset) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, gone := m.mu.dropped[p]; gone || o <= m.mu.starts[p] {
		return
	}
	m.mu.starts[p] = o
	part := m.mu.parts[p]
	if part == nil {
		return
	}
	part.trim(o, m.lostLocked)
	if part.empty() {
		delete(m.mu.parts, p)
	}
}

// lostLocked buries a run, and its object if that was the last.
func (m *Manifest) lostLocked(r *run) {
	m.buryLocked(r)
	if r.obj.live == 0 {
		m.dieLocked(r.obj)
	}
}

// DropPartition says that p is gone: its runs are dead, and so are those that come within the next 65,536 dropped partitions. After a start, whoever knows
// which partitions there are drops those that Partitions names beside them.
func (m *Manifest) DropPartition(p record.PartitionID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if part := m.mu.parts[p]; part != nil {
		part.all(m.lostLocked)
		delete(m.mu.parts, p)
	}
	delete(m.mu.starts, p)
	if _, ok := m.mu.dropped[p]; ok {
		return
	}
	if len(m.mu.forget) >= droppedMax {
		delete(m.mu.dropped, m.mu.forget[0])
		m.mu.forget = m.mu.forget[1:]
	}
	m.mu.dropped[p] = struct{}{}
	m.mu.forget = append(m.mu.forget, p)
}

// Object gives what is known of an object.
func (m *Manifest) Object(id object.ID) (*Object, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if e := m.mu.objects[id]; e != nil {
		return e.export(), true
	}
	return nil, false
}

// Has tells whether an object is in the manifest.
func (m *Manifest) Has(id object.ID) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mu.objects[id] != nil
}

// Reached gives, of each epoch, a bound above the sequences of all objects that the manifest has, or has had since it was made.
func (m *Manifest) Reached() map[record.Epoch]uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return maps.Clone(m.mu.reached)
}

func (e *entry) export() *Object {
	o := &Object{ID: e.id, Size: e.size, Tail: e.tail, Created: e.created, Class: e.class, Shard: e.shard, Runs: make([]Run, len(e.runs))}
	for i := range e.runs {
		o.Runs[i] = e.runs[i].export()
	}
	return o
}

func (r *run) export() Run {
	return Run{Partition: r.partition, Index: int(r.index), First: r.first, Last: r.last, MaxTime: r.maxTime, Bytes: r.bytes, Blocks: int(r.blocks), Flags: object.RunFlags(r.flags)}
}

// Objects calls yield for each object of a shard, in the order of IDs, until it answers false. It holds no lock while it does: objects that come or go
// meanwhile may be told or not.
func (m *Manifest) Objects(shard record.ShardID) func(yield func(*Object) bool) {
	return m.objects(func(e *entry) bool { return e.shard == shard })
}

// All is Objects of all shards.
func (m *Manifest) All() func(yield func(*Object) bool) {
	return m.objects(func(*entry) bool { return true })
}

func (m *Manifest) objects(want func(*entry) bool) func(yield func(*Object) bool) {
	return func(yield func(*Object) bool) {
		m.mu.RLock()
		ids := make([]object.ID, 0, len(m.mu.objects))
		for id, e := range m.mu.objects {
			if want(e) {
				ids = append(ids, id)
			}
		}
		m.mu.RUnlock()
		slices.SortFunc(ids, compareIDs)
		for _, id := range ids {
			if o, ok := m.Object(id); ok && !yield(o) {
				return
			}
		}
	}
}

func compareIDs(a, b object.ID) int {
	return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Sequence, b.Sequence))
}

// Dead gives the objects that nobody needs any more, in the order of IDs.
func (m *Manifest) Dead() []*Object {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]*Object, 0, len(m.mu.dead))
	for _, e := range m.mu.dead {
		out = append(out, e.export())
	}
	slices.SortFunc(out, func(a, b *Object) int { return compareIDs(a.ID, b.ID) })
	return out
}

// Epochs gives the epochs that this node has minted, ascending.
func (m *Manifest) Epochs() []Epoch {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]Epoch, 0, len(m.mu.epochs))
	for _, e := range m.mu.epochs {
		out = append(out, e.Epoch)
	}
	slices.SortFunc(out, func(a, b Epoch) int { return cmp.Compare(a.Epoch, b.Epoch) })
	return out
}

// Minted tells whether this node has minted an epoch.
func (m *Manifest) Minted(e record.Epoch) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	_, ok := m.mu.epochs[e]
	return ok
}

// Partitions are those that have live runs, in no order.
func (m *Manifest) Partitions() []record.PartitionID {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]record.PartitionID, 0, len(m.mu.parts))
	for p := range m.mu.parts {
		out = append(out, p)
	}
	return out
}

// Stats tells what there is.
func (m *Manifest) Stats() Stats {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := m.mu.stats
	s.Objects, s.Dead, s.Partitions = len(m.mu.objects), len(m.mu.dead), len(m.mu.parts)
	return s
}
