package offload

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/record/compress"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
	"github.com/sluicemq/sluice/journal/tier/rebuild"
)

// keyed is a compacted partition in a world of its own: what was written, what the log has of it, and a store.
type keyed struct {
	t   testing.TB
	w   *world // of the store
	f   *Offloader
	m   *history.Manifest
	o   Options
	rnd *rand.Rand

	p       Partition
	rows    map[record.ShardID]map[string][]byte
	files   []record.Batch // all that the log's files have: a restart brings it back
	local   record.Offset
	sealed  record.Offset // behind what does not change any more
	next    record.Offset
	wrote   map[record.Offset]keyedRecord
	aborted []object.Aborted // that are known
	ended   []object.Aborted // all
	open    map[int64]record.Offset
	twin    record.Offset // another partition, which no pass is made of, has the same below it, and lies in the same objects
	reached record.Offset // behind what the store had at any time
}

type keyedRecord struct {
	key, value string
	deletes    bool
	aborted    bool
}

const keyedPart, twinPart = record.PartitionID(100), record.PartitionID(101)

func newKeyed(t testing.TB, seed uint64, o Options) *keyed {
	t.Helper()
	k := &keyed{t: t, o: o, rnd: rand.New(rand.NewPCG(seed, 1)), rows: make(map[record.ShardID]map[string][]byte), wrote: make(map[record.Offset]keyedRecord), open: make(map[int64]record.Offset)}
	k.w = &world{t: t, clk: newClock()}
	k.w.s = &memStore{w: k.w, objects: make(map[string]memObject)}
	k.p = Partition{Topic: object.Topic{ID: [16]byte{1}, Name: "keyed", Partition: keyedPart}, Shard: 1, Policy: Immediate, LocalMillis: -1, LocalBytes: -1, RetentionMillis: -1,
		Cleaning: Cleaning{Compact: true, DirtyShare: 0.3, KeepDeletesMillis: 60_000}}
	k.restart()
	return k
}

// restart begins anew with rows and store; the log has all of its files again, the catalog the transactions that it had.
func (k *keyed) restart() {
	if k.f != nil {
		k.f.Close()
	}
	k.m = history.NewManifest()
	for shard, rows := range k.rows {
		for key, v := range rows {
			if err := k.m.Apply(shard, []byte(key), v); err != nil {
				k.t.Error(err)
			}
		}
	}
	k.m.SetLogStart(keyedPart, k.p.LogStart)
	k.local, k.aborted = k.p.LogStart, slices.Clone(k.ended)
	k.aborted = slices.DeleteFunc(k.aborted, func(a object.Aborted) bool { return a.Last < k.p.LogStart })
	o := k.o
	o.Store, o.Log, o.Catalog, o.Manifest, o.Clock, o.StoreName = k.w.s, keyedLog{k}, keyedCatalog{k}, k.m, k.w.clk, cmp.Or(k.o.StoreName, "mem")
	Recovered(k.m, o.Log, o.Catalog)
	k.f = New(o)
}

type keyedLog struct{ k *keyed }

func (l keyedLog) list(p record.PartitionID, from, until record.Offset) (out []record.Batch) {
	for _, b := range l.k.files {
		if b.LastOffset() >= max(from, l.LocalStart(p)) && b.NextOffset() <= min(until, l.k.sealed) {
			out = append(out, b)
		}
	}
	return out
}

func (l keyedLog) Ready(p record.PartitionID, from, until record.Offset) (bytes int64, oldest uint64) {
	for _, b := range l.list(p, from, until) {
		bytes += int64(len(b))
	}
	return bytes, 1
}

func (l keyedLog) Pieces(p record.PartitionID, from, until record.Offset, maxBytes int64) (Pieces, error) {
	s := &spooled{s: &memorySpool{}, fresh: true}
	for _, b := range l.list(p, from, until) {
		if len(s.extents) > 0 && s.size+int64(len(b)) > maxBytes {
			break
		}
		s.fresh = true
		if err := s.add(b); err != nil {
			return nil, err
		}
	}
	return s, s.flush()
}

func (l keyedLog) LocalStart(p record.PartitionID) record.Offset {
	if p == twinPart {
		return 0
	}
	return l.k.local
}

func (l keyedLog) Rotate() { l.k.sealed = l.k.next }

func (keyedLog) Sync() error { return nil }

func (l keyedLog) SetLocalStart(p record.PartitionID, o record.Offset) {
	if p == twinPart {
		return
	}
	if start, end, ok := l.k.m.Bounds(keyedPart); !ok || o > end || start > l.k.local {
		l.k.t.Errorf("the log lets go of %d to %d, and the store has %d to %d", l.k.local, o, start, end)
	}
	l.k.local = max(l.k.local, o)
}

func (l keyedLog) Excess(_ record.PartitionID, _, bytes int64) record.Offset {
	if bytes == math.MaxInt64 {
		return 0
	}
	return l.k.next
}

type keyedCatalog struct{ k *keyed }

func (c keyedCatalog) Partitions(yield func(Partition) bool) {
	if yield(c.k.p) && c.k.twin > 0 {
		p := c.k.p
		p.Topic, p.LogStart, p.Cleaning = object.Topic{ID: [16]byte{2}, Name: "twin", Partition: twinPart}, 0, Cleaning{Compact: true, DirtyShare: 2}
		p.LastStable = min(p.LastStable, c.k.twin)
		yield(p)
	}
}

func (c keyedCatalog) Exists(p record.PartitionID) bool { return p == keyedPart || p == twinPart }
func (c keyedCatalog) Forget(_ record.PartitionID, below record.Offset) {
	c.k.aborted = slices.DeleteFunc(c.k.aborted, func(a object.Aborted) bool { return a.Last < below })
}

func (c keyedCatalog) Aborted(_ record.PartitionID, first, last record.Offset) (out []object.Aborted) {
	for _, a := range c.k.aborted {
		if a.Last >= first && a.First <= last {
			out = append(out, a)
		}
	}
	return out
}

func (c keyedCatalog) Change(shard record.ShardID, changes []Change, done func(error)) {
	k := c.k
	if k.rows[shard] == nil {
		k.rows[shard] = make(map[string][]byte)
	}
	for _, ch := range changes {
		if ch.Value == nil {
			delete(k.rows[shard], string(ch.Key))
		} else {
			k.rows[shard][string(ch.Key)] = ch.Value
		}
		if err := k.m.Apply(shard, ch.Key, ch.Value); err != nil {
			k.t.Error(err)
		}
		k.check() // whoever reads between two rows of a command
	}
	done(nil)
}

// produce writes a batch of some records, in a transaction or not.
func (k *keyed) produce(keys int) {
	producer := int64(k.rnd.IntN(4)) // 0: none
	var b record.BatchBuilder
	now := k.w.clk.Now().UnixMilli()
	b.Begin(nil, now)
	n := 1 + k.rnd.IntN(5)
	for i := range n {
		r := keyedRecord{key: fmt.Sprint("k", k.rnd.IntN(keys)), deletes: k.rnd.IntN(5) == 0}
		in := record.Input{OffsetDelta: int32(i), Timestamp: now, Key: []byte(r.key)}
		if !r.deletes {
			r.value = fmt.Sprint("v", k.next+record.Offset(i))
			in.Value = append([]byte(r.value+" "), make([]byte, k.rnd.IntN(300))...)
		}
		b.Append(&in)
		k.wrote[k.next+record.Offset(i)] = r
	}
	o := record.BatchOptions{BaseOffset: k.next}
	if producer > 0 {
		o.Attributes, o.Producer = record.Transactional, record.Producer{Known: true, ID: producer}
		if _, ok := k.open[producer]; !ok {
			k.open[producer] = k.next
		}
	}
	out := record.Batch(b.Finish(&o))
	if k.rnd.IntN(3) == 0 {
		out = compress.AppendBatch(nil, compress.Settings{Codec: record.LZ4}, out)
	}
	k.append(slices.Clone(out))
}

func (k *keyed) append(b record.Batch) {
	k.files = append(k.files, b)
	k.next = b.NextOffset()
	k.p.LastStable = k.next
	for _, first := range k.open {
		k.p.LastStable = min(k.p.LastStable, first)
	}
}

// end ends a transaction.
func (k *keyed) end(producer int64, commit bool) {
	first, ok := k.open[producer]
	if !ok {
		return
	}
	delete(k.open, producer)
	kind := byte(1)
	if !commit {
		kind = 0
		k.ended = append(k.ended, object.Aborted{ProducerID: producer, First: first, Last: k.next, LastStable: k.next})
		k.aborted = append(k.aborted, k.ended[len(k.ended)-1])
		for _, b := range k.files {
			if b.ProducerID() == producer && b.BaseOffset() >= first && b.Attributes()&record.Control == 0 {
				for o := b.BaseOffset(); o <= b.LastOffset(); o++ {
					r := k.wrote[o]
					r.aborted = true
					k.wrote[o] = r
				}
			}
		}
	}
	now := k.w.clk.Now().UnixMilli()
	var b record.BatchBuilder
	b.Begin(nil, now)
	b.Append(&record.Input{Timestamp: now, Key: []byte{0, 0, 0, kind}, Value: make([]byte, 6)})
	k.append(b.Finish(&record.BatchOptions{BaseOffset: k.next, Attributes: record.Control | record.Transactional, Producer: record.Producer{Known: true, ID: producer, Sequence: -1}}))
}

// write does some of all that.
func (k *keyed) write(n, keys int) {
	for range n {
		k.produce(keys)
		if k.rnd.IntN(3) == 0 {
			k.end(1+int64(k.rnd.IntN(3)), k.rnd.IntN(2) == 0)
		}
	}
	for producer := range int64(4) {
		k.end(producer, k.rnd.IntN(2) == 0)
	}
	k.sealed = k.next
}

// model is what a reader has who has read all before an offset.
func (k *keyed) model(end record.Offset) map[string]string { return k.modelFrom(k.p.LogStart, end) }

// modelFrom is what he would have where the log begins at start.
func (k *keyed) modelFrom(start, end record.Offset) map[string]string {
	out := make(map[string]string)
	for o := range end {
		r, ok := k.wrote[o]
		switch {
		case !ok || r.aborted:
		case r.deletes || o < start:
			delete(out, r.key)
		default:
			out[r.key] = r.value
		}
	}
	return out
}

// client is a consumer of committed records as Kafka's are: it knows of the aborted transactions of what it is sent, and leaves out what such a producer
// has written until it meets his marker.
type client struct {
	k       *keyed
	pending []object.Aborted
	dead    map[int64]bool
	state   map[string]string
	next    record.Offset
	start   record.Offset // what lies below is not there for him
}

func (c *client) batch(b record.Batch) {
	k := c.k
	if b.BaseOffset() < c.next {
		k.t.Fatalf("offset %d behind %d", b.BaseOffset(), c.next)
	}
	c.next = b.NextOffset()
	for len(c.pending) > 0 && c.pending[0].First <= b.LastOffset() {
		c.dead[c.pending[0].ProducerID] = true
		c.pending = c.pending[1:]
	}
	if b.Attributes()&record.Control != 0 {
		for it := b.Records(); it.Next(); {
			if it.Record().Key[3] == 0 {
				delete(c.dead, b.ProducerID())
			}
		}
		return
	}
	if b.Attributes()&record.Transactional != 0 && c.dead[b.ProducerID()] {
		return
	}
	plain := b
	if b.Attributes().Compressed() {
		var err error
		if plain, err = compress.OpenBatch(nil, b, 1<<20); err != nil {
			k.t.Fatal(err)
		}
	}
	for it := plain.Records(); it.Next(); {
		rec := it.Record()
		want := k.wrote[rec.Offset]
		if string(rec.Key) != want.key || want.aborted || want.deletes != (rec.Value == nil) {
			k.t.Fatalf("offset %d: %s, and %+v was written", rec.Offset, rec.Key, want)
		}
		if rec.Offset < c.start {
			continue
		}
		if want.deletes {
			delete(c.state, want.key)
		} else {
			c.state[want.key] = want.value
		}
	}
}

func (k *keyed) client(aborted []object.Aborted) *client {
	c := &client{k: k, start: k.p.LogStart, dead: make(map[int64]bool), state: make(map[string]string), pending: slices.Clone(aborted)}
	slices.SortFunc(c.pending, func(a, b object.Aborted) int { return int(a.First - b.First) })
	return c
}

// tiered has a client read what m says, up to an offset.
func (k *keyed) tiered(c *client, m *history.Manifest, end record.Offset) {
	r := history.NewReader(m, k.w.s, history.ReaderOptions{})
	defer r.Close()
	for at := m.LogStart(keyedPart); ; {
		batches, ref, err := r.ReadBatches(bg, keyedPart, at, end, 1<<20, nil)
		if err != nil {
			k.t.Fatal(err)
		}
		if len(batches) == 0 {
			return
		}
		for _, raw := range batches {
			c.batch(record.Batch(slices.Clone(raw)))
			at = record.Batch(raw).NextOffset()
		}
		ref.Release()
	}
}

// check has a client read all: what lies in the store, then in the log.
func (k *keyed) check() {
	k.t.Helper()
	_, end, _ := k.m.Bounds(keyedPart)
	if end < k.local && k.local > k.p.LogStart {
		k.t.Fatalf("nobody has %d to %d", end, k.local)
	}
	for _, from := range []record.Offset{k.local, max(end, k.local)} { // the log's copies, or the store's, of what both have
		c := k.client(k.aborted)
		k.tiered(c, k.m, from)
		for _, b := range k.files {
			if b.LastOffset() >= max(from, c.next) {
				c.batch(b)
			}
		}
		if want := k.model(k.next); !maps.Equal(c.state, want) {
			k.t.Fatalf("read from the log from %d of %d on:\n%v\nwant\n%v\nlog start %d, local %d, in the store to %d, aborted %v", from, k.next, c.state, want, k.p.LogStart, k.local, end, k.aborted)
		}
	}
}

// rebuilt makes a manifest from the store alone, and has a client read it: it meets what there was at an offset. Of what lies below the log start
// he may meet what is the newest of its key in all that was ever offloaded, and of no key anything older.
func (k *keyed) rebuilt() {
	k.t.Helper()
	_, end, _ := k.m.Bounds(keyedPart)
	k.reached = max(k.reached, end)
	found, err := rebuild.Scan(bg, k.w.s, rebuild.Options{})
	if err != nil {
		k.t.Fatal(err)
	}
	if len(found.Parts) == 0 {
		return
	}
	if len(found.Parts) > 1 && k.twin == 0 || len(found.Older) > 0 {
		k.t.Fatalf("%d partitions, %d older topics", len(found.Parts), len(found.Older))
	}
	mine := slices.IndexFunc(found.Parts, func(p *rebuild.Partition) bool { return p.Topic.Name == k.p.Name })
	if mine < 0 {
		return
	}
	m := history.NewManifest()
	var list strings.Builder
	for _, o := range found.Objects {
		fmt.Fprintf(&list, "%s %+v\n", o.ID.Name(), o.Runs)
		for i := range o.Runs {
			if r := &o.Runs[i]; int(r.Partition) == mine {
				r.Partition = keyedPart
			} else {
				r.Partition = twinPart
			}
		}
		if err := m.Apply(o.ID.Shard, o.Key(), o.Encode(nil)); err != nil {
			k.t.Fatal(err)
		}
	}
	c := k.client(found.Parts[mine].Aborted)
	c.start = 0
	k.tiered(c, m, math.MaxInt64)
	least, most := k.model(c.next), k.modelFrom(0, max(c.next, k.reached))
	for key, v := range least {
		if c.state[key] != v {
			k.t.Fatalf("from the store alone, to %d: %s is %q, want %q\n%s", c.next, key, c.state[key], v, list.String())
		}
	}
	for key, v := range c.state {
		if most[key] != v {
			k.t.Fatalf("from the store alone, to %d of %d, where the log begins at %d: %s is %q, and was %q \n%s", c.next, k.next, k.p.LogStart, key, v, most[key], list.String())
		}
	}
}

// turns makes turns until no pass is due.
func (k *keyed) turns(n int) {
	k.t.Helper()
	for rests := 0; n > 0; n-- {
		if err := k.f.Turn(bg); err != nil {
			k.t.Fatal(err)
		}
		if k.f.more {
			rests = 0
		} else if rests++; rests == 2 { // what a turn has put, the next one compacts
			return
		}
	}
	k.t.Fatal("it does not come to rest")
}

func passOptions() Options {
	return Options{ObjectBytes: 8 * kib, MinObjectBytes: 1 * kib}
}

// TestPass: what lies in the store is compacted again and again, with what it says about keys, deletions and transactions; it becomes small.
func TestPass(t *testing.T) {
	k := newKeyed(t, 1, passOptions())
	defer func() { k.f.Close() }()
	for range 12 {
		k.write(40, 10)
		k.turns(100)
		k.check()
		k.rebuilt()
		k.w.clk.Advance(40 * time.Second)
	}
	d, ok := k.m.Dirt(keyedPart)
	if size := k.m.Size(keyedPart); !ok || d.Clean != d.End && d.CleanBytes == 0 || size > 20*kib {
		t.Errorf("%+v, %d bytes of %d offsets", d, size, k.next)
	}
	if k.local < d.Clean {
		t.Errorf("the log has its copies from %d on, and %d is compacted", k.local, d.Clean)
	}
	if k.f.stats.Passes.Load() == 0 || len(k.aborted) == len(k.ended) {
		t.Errorf("%d passes, %d aborted transactions of %d are known", k.f.stats.Passes.Load(), len(k.aborted), len(k.ended))
	}
	for range 4 {
		k.w.clk.Advance(7 * time.Hour)
		k.turns(100)
	}
	if there, rows := len(k.w.s.objectNames()), k.m.Stats().Objects; there != rows {
		t.Errorf("%d objects in the store, %d in the manifest", there, rows)
	}
}

// TestPassKeys: where the memory for keys is too small for all, passes end within runs, and come to the end all the same.
func TestPassKeys(t *testing.T) {
	o := passOptions()
	o.KeyBytes = 256
	k := newKeyed(t, 2, o)
	defer func() { k.f.Close() }()
	k.write(300, 1000)
	k.turns(2000)
	k.check()
	k.rebuilt()
	if d, _ := k.m.Dirt(keyedPart); d.Clean < d.End/2 {
		t.Errorf("%+v", d)
	}
}

// TestPassLeaves: what has no key twice is read, noted as compacted, and not put again.
func TestPassLeaves(t *testing.T) {
	o := passOptions()
	o.ObjectBytes = 64 * kib
	k := newKeyed(t, 3, o)
	defer func() { k.f.Close() }()
	for i := range 100 {
		var b record.BatchBuilder
		b.Begin(nil, 5)
		r := keyedRecord{key: fmt.Sprint("unique ", i), value: "v"}
		b.Append(&record.Input{Timestamp: 5, Key: []byte(r.key), Value: []byte(r.value)})
		k.wrote[k.next] = r
		k.append(b.Finish(&record.BatchOptions{BaseOffset: k.next}))
	}
	k.sealed = k.next
	k.turns(100)
	k.check()
	if d, _ := k.m.Dirt(keyedPart); d.Clean != 100 || len(k.w.s.objectNames()) != 1 || k.f.stats.CompactWritten.Load() != 0 || k.local != 100 {
		t.Errorf("%+v, %v, log from %d", d, k.w.s.objectNames(), k.local)
	}
}

// passSteps are those of passes: their life is another one.
var passSteps = []string{"noted", "filtered", "others", "cleaned"}

// TestPassKilled kills the process at each step of a life with passes, and goes on.
func TestPassKilled(t *testing.T) {
	life := func(kill *killer) *keyed {
		o := passOptions()
		o.Step = kill.step
		k := newKeyed(t, 4, o)
		for range 5 {
			k.write(25, 8)
			for more := true; more; more = k.f.more {
				if kill.life(t, func() error { return k.f.Turn(bg) }) {
					k.check()
					k.rebuilt()
					k.f.pass = nil
					k.restart()
					k.check()
				}
			}
			k.w.clk.Advance(40 * time.Second)
		}
		return k
	}
	all := &killer{at: -1}
	life(all).f.Close()
	for _, name := range []string{"noted", "filtered", "cleaned"} {
		if !slices.Contains(all.seen, name) {
			t.Errorf("the life has no step %q", name)
		}
	}
	for at := range all.seen {
		if !*passAll && at%8 != 0 {
			continue
		}
		kill := &killer{at: at}
		k := life(kill)
		k.check()
		k.rebuilt()
		k.f.Close()
		if !kill.dead {
			t.Errorf("step %d never came", at)
		}
	}
}

// TestPassModel does anything in any order, over seeds.
func TestPassModel(t *testing.T) {
	for i := range uint64(*passSeeds) {
		seed := *passSeed + i
		o := passOptions()
		rnd := rand.New(rand.NewPCG(seed, 2))
		o.KeyBytes = []int{0, 0, 256}[rnd.IntN(3)]
		kill := &killer{at: -1}
		o.Step = kill.step
		k := newKeyed(t, seed, o)
		k.p.DirtyShare = rnd.Float64()
		k.p.KeepDeletesMillis = []int64{0, 30_000, 60_000}[rnd.IntN(3)]
		k.p.MinLagMillis = []int64{0, 0, 50_000}[rnd.IntN(3)]
		k.twin = record.Offset(max(0, rnd.IntN(600)-200))
		t.Log("seed", seed)
		for range 40 {
			switch rnd.IntN(8) {
			case 0, 1:
				k.write(rnd.IntN(30), 1+rnd.IntN(15))
			case 2:
				k.w.clk.Advance(time.Duration(rnd.IntN(100)) * time.Second)
			case 3:
				k.restart()
			case 4:
				k.p.LocalBytes = []int64{-1, 0}[rnd.IntN(2)]
			case 5:
				switch rnd.IntN(6) {
				case 0:
					k.deleteBelow(k.p.LogStart + record.Offset(rnd.IntN(20)))
				case 1:
					k.deleteBelow(k.p.LogStart + record.Offset(rnd.IntN(200)))
				case 2:
					k.hold(fmt.Sprint("backup", rnd.IntN(3)), rnd.IntN(3) > 0)
				case 3:
					k.w.clk.Advance(k.f.o.OrphanGrace)
				case 4:
					if rnd.IntN(3) == 0 {
						k.o.StoreName = fmt.Sprint("life ", rnd.IntN(100)) // what the one before has written is not its own
						k.restart()
					}
				}
			default:
				if rnd.IntN(4) == 0 {
					kill.at, kill.dead = kill.n+rnd.IntN(10), false
				}
				for range 20 {
					if kill.life(t, func() error { return k.f.Turn(bg) }) {
						kill.dead, kill.at = false, -1
						k.f.pass = nil
						k.restart()
					}
				}
				kill.at = -1
			}
			k.check()
			k.rebuilt()
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
		k.rebuilt()
		k.f.Close()
	}
}

// hold has a backup need what there is now, or need it no more.
func (k *keyed) hold(name string, needs bool) {
	k.t.Helper()
	var err error
	if needs {
		err = k.f.Hold(bg, name)
	} else {
		_, err = k.f.Release(bg, name)
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k *keyed) deleteBelow(o record.Offset) {
	k.p.LogStart = max(k.p.LogStart, min(o, k.p.LastStable))
	k.m.SetLogStart(keyedPart, k.p.LogStart)
	k.local = max(k.local, k.p.LogStart)
	k.aborted = slices.DeleteFunc(k.aborted, func(a object.Aborted) bool { return a.Last < k.p.LogStart })
}

var (
	passSeeds = flag.Int("passseeds", 40, "seeds of TestPassModel")
	passSeed  = flag.Uint64("passseed", 0, "the first of them")
	passAll   = flag.Bool("passall", false, "TestPassKilled: at each step, not at every eighth")
)
