package offload

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
)

const patience = 20 * time.Second

var bg = context.Background()

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// batch is what the simulated log has of a partition: count records from base on. Its bytes follow from the rest.
type batch struct {
	base    record.Offset
	count   int
	size    int
	time    int64
	segment uint64
}

func (b *batch) last() record.Offset { return b.base + record.Offset(b.count) - 1 }

const batchHead = 32

// appendBatch gives the bytes of a batch: a head that tells of it, then bytes that differ for each.
func appendBatch(dst []byte, p record.PartitionID, b *batch) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint64(dst, uint64(p))
	dst = le.AppendUint64(dst, uint64(b.base))
	dst = le.AppendUint64(dst, uint64(b.count))
	dst = le.AppendUint64(dst, uint64(b.size))
	for i := batchHead; i < b.size; i++ {
		dst = append(dst, byte(uint64(i)*7+uint64(b.base)+uint64(p)*31))
	}
	return dst
}

// part is a partition of the simulation.
type part struct {
	Partition
	all     []batch // ever written
	local   []batch // what the log has
	end     record.Offset
	start   record.Offset // the log start
	dropped bool
	broken  bool // its records cannot be read
	// unlisted: neither can its index.
	unlisted bool
}

// world is a log, a catalog and a store that all outlive the offloader, and what a crash leaves of them.
type world struct {
	t   testing.TB
	clk *clock.Manual
	s   *memStore
	f   *Offloader
	m   *history.Manifest
	o   Options
	// slept, if set, is called after each wait.
	slept func()

	mu struct {
		sync.Mutex
		parts    map[record.PartitionID]*part
		segment  uint64 // that is written to
		rows     map[record.ShardID]map[string][]byte
		held     int // pieces
		commitOK func(rows []Change) (apply, answer bool, err error)
		waiting  []func() // answers that have not been given
		changes  int
		unsynced int // changes of rows that a power cut would take back
		pressed  bool
	}
}

func newWorld(t testing.TB, o Options) *world {
	t.Helper()
	w := &world{t: t, clk: newClock(), o: o}
	w.s = &memStore{w: w, objects: make(map[string]memObject)}
	w.mu.parts = make(map[record.PartitionID]*part)
	w.mu.rows = make(map[record.ShardID]map[string][]byte)
	w.mu.segment = 1
	w.restart()
	return w
}

// restart begins anew with what is on stable storage: rows and store. What the log has let go is gone.
func (w *world) restart() {
	w.t.Helper()
	if w.f != nil {
		w.f.Close()
	}
	w.m = history.NewManifest()
	w.mu.Lock()
	for shard, rows := range w.mu.rows {
		for k, v := range rows {
			if err := w.m.Apply(shard, []byte(k), v); err != nil {
				w.t.Error(err)
			}
		}
	}
	w.mu.waiting, w.mu.held = nil, 0
	w.mu.Unlock()
	o := w.o
	o.Store, o.Log, o.Catalog, o.Manifest, o.Clock = w.s, simLog{w}, simCatalog{w}, w.m, w.clk
	o.Pressed = func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.mu.pressed }
	w.f = New(o)
	w.f.sleep = func(ctx context.Context, d time.Duration) error {
		w.clk.Advance(d)
		if w.slept != nil {
			w.slept()
		}
		return ctx.Err()
	}
}

// add makes a partition.
func (w *world) add(id record.PartitionID, shard record.ShardID, pol Policy) *part {
	p := &part{Partition: Partition{
		Topic: object.Topic{ID: [16]byte{byte(id), 1}, Name: fmt.Sprintf("topic-%d", id), Partition: id}, Shard: shard, Policy: pol,
		LocalMillis: -1, LocalBytes: -1, RetentionMillis: -1,
	}}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.parts[id] = p
	return p
}

// produce writes a batch.
func (w *world) produce(p *part, count, size int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := batch{base: p.end, count: count, size: max(size, batchHead), time: w.clk.Now().UnixMilli(), segment: w.mu.segment}
	p.all, p.local = append(p.all, b), append(p.local, b)
	p.end = b.last() + 1
	p.LastStable = p.end
}

// seal ends the segment that is written to.
func (w *world) seal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.segment++
}

// deleteBelow moves the log start.
func (w *world) deleteBelow(p *part, o record.Offset) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p.start = max(p.start, min(o, p.end))
	p.local = slices.DeleteFunc(p.local, func(b batch) bool { return b.last() < p.start })
	w.m.SetLogStart(p.Partition.Partition, p.start)
}

func (w *world) drop(p *part) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p.dropped, p.local = true, nil
	w.m.DropPartition(p.Partition.Partition)
}

func (w *world) turn() {
	w.t.Helper()
	if err := w.f.Turn(bg); err != nil {
		w.t.Fatal(err)
	}
}

// localStart is the first offset that the log has of p.
func (w *world) localStartLocked(p *part) record.Offset {
	if len(p.local) == 0 {
		return p.end
	}
	return max(p.local[0].base, p.start)
}

func (w *world) localStart(p *part) record.Offset {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.localStartLocked(p)
}

// simLog is the world's log.
type simLog struct{ w *world }

// listLocked is what of p may be offloaded.
func (w *world) listLocked(p *part, from, until record.Offset) []batch {
	var out []batch
	if p == nil || p.dropped {
		return nil
	}
	for _, b := range p.local {
		if b.segment >= w.mu.segment || b.last() >= until {
			break
		}
		if b.last() >= from {
			out = append(out, b)
		}
	}
	return out
}

func (l simLog) Ready(id record.PartitionID, from, until record.Offset) (bytes int64, oldest uint64) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	for _, b := range l.w.listLocked(l.w.mu.parts[id], from, until) {
		if bytes == 0 {
			oldest = b.segment
		}
		bytes += int64(b.size)
	}
	return bytes, oldest
}

func (l simLog) Pieces(id record.PartitionID, from, until record.Offset, maxBytes int64) (Pieces, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	p := l.w.mu.parts[id]
	if p.unlisted {
		return nil, errBroken
	}
	list := l.w.listLocked(p, from, until)
	if len(list) == 0 {
		return nil, nil
	}
	ps := &simPieces{w: l.w, p: p}
	bytes := int64(0)
	for _, b := range list {
		if bytes += int64(b.size); bytes > maxBytes && len(ps.batches) > 0 {
			break
		}
		ps.batches = append(ps.batches, b)
		ps.extents = append(ps.extents, object.Extent{First: b.base, Last: b.last(), MaxTime: b.time, Bytes: int64(b.size)})
	}
	l.w.mu.held++
	return ps, nil
}

func (l simLog) LocalStart(id record.PartitionID) record.Offset {
	return l.w.localStart(l.w.mu.parts[id])
}

// SetLocalStart lets go at once of what the log may let go, and makes sure that it may.
func (l simLog) SetLocalStart(id record.PartitionID, o record.Offset) {
	w := l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.mu.parts[id]
	n := 0
	for n < len(p.local) && p.local[n].last() < o {
		if b := &p.local[n]; b.last() >= p.start {
			if err := w.storedLocked(p, b); err != nil {
				w.t.Errorf("partition %d lets go of offset %d: %v", id, b.base, err)
			}
		}
		n++
	}
	p.local = slices.Delete(p.local, 0, n)
}

func (l simLog) Excess(id record.PartitionID, before, bytes int64) record.Offset {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	p := l.w.mu.parts[id]
	surplus := -bytes
	for _, b := range p.local {
		surplus += int64(b.size)
	}
	start := p.start
	for _, b := range p.local {
		if b.time >= before && int64(b.size) > surplus {
			return max(start, b.base)
		}
		start, surplus = b.last()+1, surplus-int64(b.size)
	}
	return max(start, p.start)
}

func (l simLog) Rotate() { l.w.seal() }

// Sync makes rows durable.
func (l simLog) Sync() error {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.w.mu.unsynced = 0
	return nil
}

type simPieces struct {
	w       *world
	p       *part
	batches []batch
	extents []object.Extent
	freed   bool
}

func (ps *simPieces) Extents() []object.Extent { return ps.extents }

var errBroken = errors.New("checksum of a frame")

func (ps *simPieces) Open(from, to int) io.ReadCloser {
	var b []byte
	for i := from; i < to; i++ {
		b = appendBatch(b, ps.p.Partition.Partition, &ps.batches[i])
	}
	ps.w.mu.Lock()
	defer ps.w.mu.Unlock()
	if ps.freed {
		ps.w.t.Error("read after release")
	}
	if ps.p.broken {
		return io.NopCloser(io.MultiReader(bytes.NewReader(b[:len(b)/2]), failing{errBroken}))
	}
	return io.NopCloser(bytes.NewReader(b))
}

func (ps *simPieces) Release() {
	ps.w.mu.Lock()
	defer ps.w.mu.Unlock()
	if ps.freed {
		ps.w.t.Error("released twice")
	}
	ps.freed = true
	ps.w.mu.held--
}

type failing struct{ err error }

func (r failing) Read([]byte) (int, error) { return 0, r.err }

// simCatalog is the world's catalog.
type simCatalog struct{ w *world }

func (c simCatalog) Partitions(yield func(Partition) bool) {
	c.w.mu.Lock()
	var list []Partition
	for _, p := range c.w.mu.parts {
		if !p.dropped && p.Policy != None {
			q := p.Partition
			q.LogStart = p.start
			list = append(list, q)
		}
	}
	c.w.mu.Unlock()
	slices.SortFunc(list, func(a, b Partition) int { return int(a.Partition) - int(b.Partition) })
	for i := range list {
		if !yield(list[i]) {
			return
		}
	}
}

func (c simCatalog) Exists(id record.PartitionID) bool {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	p := c.w.mu.parts[id]
	return p != nil && !p.dropped
}

func (c simCatalog) Aborted(p record.PartitionID, first, last record.Offset) []object.Aborted {
	// Told in any order: the offloader sorts them.
	return []object.Aborted{{ProducerID: 7, First: last, Last: last, LastStable: last}, {ProducerID: 7, First: first, Last: first, LastStable: first}}
}

func (simCatalog) Forget(record.PartitionID, record.Offset) {}

func (c simCatalog) Change(shard record.ShardID, changes []Change, done func(error)) {
	w := c.w
	w.mu.Lock()
	w.mu.changes++
	w.mu.unsynced++
	apply, answer, err := true, true, error(nil)
	if w.mu.commitOK != nil {
		apply, answer, err = w.mu.commitOK(changes)
	}
	if apply {
		w.applyLocked(shard, changes)
	}
	if !answer {
		w.mu.waiting = append(w.mu.waiting, func() { done(err) })
	}
	w.mu.Unlock()
	if answer {
		go done(err)
	}
}

func (w *world) applyLocked(shard record.ShardID, changes []Change) {
	if w.mu.rows[shard] == nil {
		w.mu.rows[shard] = make(map[string][]byte)
	}
	for _, ch := range changes {
		if ch.Value == nil {
			delete(w.mu.rows[shard], string(ch.Key))
		} else {
			w.mu.rows[shard][string(ch.Key)] = ch.Value
		}
		if err := w.m.Apply(shard, ch.Key, ch.Value); err != nil {
			w.t.Error(err)
		}
	}
}

// objectsLocked are the objects of the rows that are on stable storage.
func (w *world) objectsLocked() []*history.Object {
	var out []*history.Object
	for _, rows := range w.mu.rows {
		for k, v := range rows {
			if k[0] != 'o' {
				continue
			}
			o, err := history.Decode([]byte(k), v)
			if err != nil {
				w.t.Fatal(err)
			}
			out = append(out, o)
		}
	}
	return out
}

// storedLocked tells whether a batch is in the store and in a committed row, with the right bytes.
func (w *world) storedLocked(p *part, b *batch) error {
	for _, o := range w.objectsLocked() {
		for _, r := range o.Runs {
			if r.Partition != p.Partition.Partition || r.First > b.base || r.Last < b.last() {
				continue
			}
			return w.s.has(o, r.Index, p.Partition.Partition, b)
		}
	}
	return errors.New("no row has it")
}

// check makes sure that each record that may be asked for is there, in the log or in the store.
func (w *world) check() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.held != 0 {
		w.t.Errorf("%d pieces are held", w.mu.held)
	}
	for id, p := range w.mu.parts {
		if p.dropped {
			continue
		}
		for i := range p.all {
			b := &p.all[i]
			if b.last() < p.start || slices.Contains(p.local, *b) {
				continue
			}
			if err := w.storedLocked(p, b); err != nil {
				w.t.Errorf("partition %d has lost offset %d: %v", id, b.base, err)
			}
		}
	}
}

// memStore is a store in memory, with faults.
type memStore struct {
	w *world

	mu       sync.Mutex
	objects  map[string]memObject
	fault    func(op, name string) *fault
	uncond   bool // it cannot put if absent
	puts     int
	putBytes int64
	swept    int
}

type memObject struct {
	b   []byte
	mod time.Time
}

// fault is what a call meets.
type fault struct {
	err   error
	after bool // the call has done its work
	cut   bool // within the bytes
	stall bool // until its context ends
	do    func()
}

func storeError(k tier.Kind) error { return &tier.Error{Store: "mem", Op: "call", Kind: k} }

// begin gives what a call meets.
func (s *memStore) begin(ctx context.Context, op, name string) (*fault, error) {
	s.mu.Lock()
	fn := s.fault
	s.mu.Unlock()
	if ctx.Err() != nil {
		return nil, tier.Wrap(ctx, "mem", op, name, tier.Unavailable, ctx.Err())
	}
	if fn == nil {
		return nil, nil
	}
	f := fn(op, name)
	if f == nil {
		return nil, nil
	}
	if f.do != nil {
		f.do()
	}
	if f.stall {
		<-ctx.Done()
		return nil, tier.Wrap(ctx, "mem", op, name, tier.Unavailable, ctx.Err())
	}
	if f.err != nil && !f.after && !f.cut {
		return nil, f.err
	}
	return f, nil
}

func (f *fault) end(err error) error {
	if f != nil && f.after && f.err != nil {
		return f.err
	}
	return err
}

func (s *memStore) Put(ctx context.Context, name string, r io.Reader, size int64, o tier.PutOptions) error {
	f, err := s.begin(ctx, "put", name)
	if err != nil {
		return err
	}
	src := tier.Exactly(ctx, r, size)
	if f != nil && f.cut {
		_, _ = io.CopyN(io.Discard, src, size/2)
		return f.err
	}
	if o.IfAbsent && s.uncond {
		return storeError(tier.Unsupported)
	}
	s.mu.Lock()
	_, taken := s.objects[name]
	s.mu.Unlock()
	if taken && o.IfAbsent {
		return storeError(tier.Exists)
	}
	b, err := io.ReadAll(src)
	if err != nil {
		return tier.Wrap(ctx, "mem", "put", name, tier.Unavailable, err)
	}
	s.mu.Lock()
	s.objects[name] = memObject{b, s.w.clk.Now()}
	if !strings.HasPrefix(name, epochPrefix) {
		s.puts++
		s.putBytes += size
	}
	s.mu.Unlock()
	return f.end(nil)
}

func (s *memStore) Get(ctx context.Context, name string, rng tier.Range) (io.ReadCloser, tier.Info, error) {
	f, err := s.begin(ctx, "get", name)
	if err != nil {
		return nil, tier.Info{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[name]
	if !ok {
		return nil, tier.Info{}, storeError(tier.NotFound)
	}
	off, n, err := rng.In(int64(len(o.b)))
	if err != nil {
		return nil, tier.Info{}, err
	}
	return io.NopCloser(bytes.NewReader(o.b[off : off+n])), tier.Info{Name: name, Size: int64(len(o.b)), ModTime: o.mod}, f.end(nil)
}

func (s *memStore) Stat(ctx context.Context, name string) (tier.Info, error) {
	f, err := s.begin(ctx, "stat", name)
	if err != nil {
		return tier.Info{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[name]
	if !ok {
		return tier.Info{}, storeError(tier.NotFound)
	}
	return tier.Info{Name: name, Size: int64(len(o.b)), ModTime: o.mod}, f.end(nil)
}

func (s *memStore) List(ctx context.Context, prefix, after string, limit int) ([]tier.Info, bool, error) {
	f, err := s.begin(ctx, "list", prefix)
	if err != nil {
		return nil, false, err
	}
	if limit == 0 {
		limit = tier.MaxPage
	}
	var page []tier.Info
	for _, name := range s.names() {
		if strings.HasPrefix(name, prefix) && name > after {
			s.mu.Lock()
			o := s.objects[name]
			s.mu.Unlock()
			page = append(page, tier.Info{Name: name, Size: int64(len(o.b)), ModTime: o.mod})
		}
	}
	n := min(len(page), limit)
	return page[:n], n < len(page), f.end(nil)
}

func (s *memStore) Delete(ctx context.Context, name string) error {
	f, err := s.begin(ctx, "delete", name)
	if err != nil {
		return err
	}
	s.remove(name)
	return f.end(nil)
}

func (s *memStore) Close() error { return nil }

func (s *memStore) Sweep(ctx context.Context, _ time.Duration) (int, error) {
	if _, err := s.begin(ctx, "sweep", ""); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swept++
	return 1, nil
}

func (s *memStore) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, name)
}

func (s *memStore) setFault(fn func(op, name string) *fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fn
}

// names are all names, in order.
func (s *memStore) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]string, 0, len(s.objects))
	for name := range s.objects {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// objectNames are those of objects, in order.
func (s *memStore) objectNames() []string {
	return slices.DeleteFunc(s.names(), func(n string) bool { return strings.HasPrefix(n, epochPrefix) || strings.HasPrefix(n, holdPrefix) })
}

// has makes sure that a run of an object has a batch.
func (s *memStore) has(o *history.Object, run int, id record.PartitionID, want *batch) error {
	s.mu.Lock()
	stored, ok := s.objects[o.ID.Name()]
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("object %s is not there", o.ID.Name())
	}
	sum, err := object.ParseTail(o.ID.Name(), stored.b[int64(len(stored.b))-o.Tail:], o.Size)
	if err != nil {
		return err
	}
	r := &sum.Runs[run]
	b := stored.b[r.Pos : r.Pos+r.Bytes]
	for len(b) >= batchHead {
		le := binary.LittleEndian
		size := le.Uint64(b[24:])
		if record.Offset(le.Uint64(b[8:])) == want.base {
			if !bytes.Equal(b[:size], appendBatch(nil, id, want)) {
				return errors.New("other bytes")
			}
			return nil
		}
		b = b[size:]
	}
	return errors.New("the run has not got it")
}

func newClock() *clock.Manual { return clock.NewManual(time.UnixMilli(1_700_000_000_000)) }

// mint has an Offloader mint an epoch.
func mint(f *Offloader) (e record.Epoch, err error) {
	err = f.Alone(bg, func(ctx context.Context, mint Mint) (err error) {
		e, err = mint(ctx)
		return err
	})
	return e, err
}
