package journal

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/record/compress"
)

// compactModel is a partition of keyed records, in transactions and not, that is compacted now and then.
type compactModel struct {
	t       *rapid.T
	tb      testing.TB
	o       Options
	l       *opened
	next    record.Offset
	start   record.Offset                 // of the log
	asked   record.Offset                 // the highest that was asked for: what lies below may come back after a power cut, or some of it
	records map[record.Offset]modelRecord // all that were ever written
	aborted []AbortedRange
	ended   map[record.Offset]bool
	first   map[int64]record.Offset // of open transactions
	now     int64
	horizon map[record.Offset]int64 // deletions that a pass has met, and until when they stay at least
	until   record.Offset
	gone    map[record.Offset]bool // by what passes have promised
}

type modelRecord struct {
	key, value string // value empty: a deletion
	producer   int64  // of a transaction; 0: none
	time       int64
}

const compactPart = record.PartitionID(5)

func (m *compactModel) append(b record.Batch, n int) {
	f := record.Frame{Kind: record.KindRecords, Partition: compactPart, Index: uint64(m.next) + 1}
	f.Payload = append(record.BeginRecordsPayload(nil, []byte(fmt.Sprintf("extra %d", m.next))), b...)
	if err := m.l.src.commit(m.tb, record.AppendFrame(nil, &f)); err != nil {
		m.t.Fatal(err)
	}
	m.next += record.Offset(n)
}

func (m *compactModel) doBatch(t *rapid.T) {
	m.t = t
	m.now++
	producer := rapid.SampledFrom([]int64{0, 0, 0, 1, 2}).Draw(t, "producer")
	n := rapid.IntRange(1, 4).Draw(t, "records")
	var b record.BatchBuilder
	b.Begin(nil, m.now)
	size := rapid.SampledFrom([]int{0, 0, 900}).Draw(t, "size")
	for i := range n {
		r := modelRecord{key: fmt.Sprint("k", rapid.IntRange(0, 12).Draw(t, "key")), producer: producer, time: m.now + int64(i%2)}
		in := record.Input{OffsetDelta: int32(i), Timestamp: r.time, Key: []byte(r.key), Headers: []record.Header{{Key: []byte("h"), Value: []byte("v")}}}
		if rapid.IntRange(0, 4).Draw(t, "deletes") > 0 {
			r.value = fmt.Sprint("v", m.next+record.Offset(i))
			in.Value = append([]byte(r.value+" "), make([]byte, size)...)
		}
		b.Append(&in)
		m.records[m.next+record.Offset(i)] = r
	}
	o := record.BatchOptions{BaseOffset: m.next}
	if producer > 0 {
		o.Attributes = record.Transactional
		o.Producer = record.Producer{Known: true, ID: producer}
		if _, open := m.first[producer]; !open {
			m.first[producer] = m.next
		}
	}
	out := record.Batch(b.Finish(&o))
	if codec := rapid.SampledFrom([]record.Codec{0, 0, record.LZ4, record.Zstd, record.Gzip, record.Snappy}).Draw(t, "codec"); codec != 0 {
		out = compress.AppendBatch(nil, compress.Settings{Codec: codec}, out)
	}
	m.append(out, n)
}

func (m *compactModel) doMarker(t *rapid.T) {
	m.t = t
	producer := rapid.SampledFrom([]int64{1, 2}).Draw(t, "producer")
	commit := rapid.Bool().Draw(t, "commit")
	m.now++
	var b record.BatchBuilder
	b.Begin(nil, m.now)
	kind := byte(0)
	if commit {
		kind = 1
	}
	b.Append(&record.Input{Timestamp: m.now, Key: []byte{0, 0, 0, kind}, Value: make([]byte, 6)})
	if first, open := m.first[producer]; open {
		if !commit {
			m.aborted = append(m.aborted, AbortedRange{Producer: producer, First: first, Last: m.next})
		}
		delete(m.first, producer)
	}
	m.append(b.Finish(&record.BatchOptions{BaseOffset: m.next, Attributes: record.Control | record.Transactional,
		Producer: record.Producer{Known: true, ID: producer, Sequence: -1}}), 1)
}

// stable is behind the last record whose transaction is decided.
func (m *compactModel) stable() record.Offset {
	end := m.next
	for _, f := range m.first {
		end = min(end, f)
	}
	return end
}

func (m *compactModel) doCompact(t *rapid.T) {
	m.t = t
	m.l.checkpointed(m.tb)
	r := CompactRequest{Partition: compactPart, End: m.stable(), Young: m.now + 10 - rapid.Int64Range(0, 40).Draw(t, "young"), Now: m.now,
		KeepDeletes: rapid.Int64Range(0, 30).Draw(t, "keep"), Aborted: m.aborted, KeyBytes: rapid.SampledFrom([]int{0, 256, 0}).Draw(t, "bytes")}
	res, err := m.l.Compact(r)
	if err != nil {
		t.Fatal(err)
	}
	m.until = max(m.until, res.Until)
	m.promise(res.Until, r.Now+r.KeepDeletes, r.Now)
	for _, o := range res.Ended {
		m.ended[o] = true
	}
	m.check()
}

// promise notes what a pass up to an offset has left out for good: what has the key's later record below that offset, aborted ones, and
// deletions whose time was over. Deletions that are met for the first time stay until then.
func (m *compactModel) promise(until record.Offset, then, now int64) {
	last := map[string]record.Offset{}
	for o, r := range m.records {
		if o < until && !m.wasAborted(o, r) {
			last[r.key] = max(last[r.key], o)
		}
	}
	for o, r := range m.records {
		switch {
		case o >= until || o < m.start:
		case m.wasAborted(o, r) || o < last[r.key]:
			m.gone[o] = true
		case r.value == "":
			if h, met := m.horizon[o]; !met {
				m.horizon[o] = then
			} else if h <= now {
				delete(m.horizon, o)
				m.horizon[o] = math.MinInt64 // may be gone
			}
		}
	}
}

func (m *compactModel) wasAborted(o record.Offset, r modelRecord) bool {
	return r.producer > 0 && slices.ContainsFunc(m.aborted, func(a AbortedRange) bool { return a.Producer == r.producer && a.First <= o && o < a.Last })
}

func (m *compactModel) doStart(t *rapid.T) {
	m.t = t
	m.start = max(m.asked, record.Offset(rapid.IntRange(int(m.start), int(m.stable())).Draw(t, "start")))
	m.asked = m.start
	m.l.SetLogStart(compactPart, m.start)
}

func (m *compactModel) doRewrite(t *rapid.T) {
	m.t = t
	m.l.checkpointed(m.tb)
	m.l.mu.RLock()
	var list []*segment
	for s := range m.l.mu.parts {
		list = append(list, s)
	}
	m.l.mu.RUnlock()
	rewriteList(t, m.l.Log, list)
}

func (m *compactModel) doReopen(t *rapid.T) {
	m.t = t
	if rapid.Bool().Draw(t, "power cut") {
		mem := m.o.FS.(*vfs.Mem).Crash(vfs.Cut{Keep: rapid.Bool().Draw(t, "keep")})
		_ = m.l.Close()
		m.o.FS = mem
		m.start = 0 // it may come back
	} else {
		m.l.close(m.tb)
	}
	m.l = open(m.tb, m.o)
	m.start = max(m.start, m.l.LogStart(compactPart))
	m.check()
}

// check reads everything, and compares what readers of committed records make of it.
func (m *compactModel) check() {
	var f Fetched
	defer f.Release()
	at := m.start
	seen := map[record.Offset]bool{}
	state := map[string]string{}
	for {
		if err := m.l.Fetch(compactPart, at, 4000, &f); err != nil {
			m.t.Fatal(err)
		}
		if len(f.Batches) == 0 {
			break
		}
		for i, raw := range f.Batches {
			b := record.Batch(raw)
			if b.CRC() != b.ComputeCRC() {
				m.t.Fatalf("batch at %d has a bad checksum", b.BaseOffset())
			}
			if b.NextOffset() <= at && i > 0 {
				m.t.Fatalf("batch %d to %d comes behind %d", b.BaseOffset(), b.NextOffset(), at)
			}
			at = b.NextOffset()
			if b.Attributes()&record.Control != 0 || b.Count() == 0 {
				continue
			}
			if want := fmt.Sprintf("extra %d", b.BaseOffset()); string(f.Extras[i]) != want {
				m.t.Fatalf("extra %q, want %q", f.Extras[i], want)
			}
			plain, err := compress.OpenBatch(nil, b, 1<<20)
			if err != nil {
				m.t.Fatal(err)
			}
			latest := int64(math.MinInt64)
			for it := record.Batch(plain).Records(); it.Next(); {
				rec := it.Record()
				latest = max(latest, rec.Timestamp)
				m.sawRecord(rec, seen)
				if rec.Offset >= m.asked && !m.wasAborted(rec.Offset, m.records[rec.Offset]) {
					state[string(rec.Key)] = m.records[rec.Offset].value
				}
			}
			if latest != b.MaxTimestamp() {
				m.t.Fatalf("batch at %d has latest time %d, and says %d", b.BaseOffset(), latest, b.MaxTimestamp())
			}
		}
	}
	if end := m.l.LogEnd(compactPart); end != m.next {
		m.t.Fatalf("the log ends at %d, want %d", end, m.next)
	}
	m.checkState(seen, state)
}

func (m *compactModel) sawRecord(rec *record.Record, seen map[record.Offset]bool) {
	want, ok := m.records[rec.Offset]
	value := ""
	if rec.Value != nil {
		value = fmt.Sprint("v", rec.Offset)
		if string(rec.Value[:len(value)]) != value {
			m.t.Fatalf("record %d has %q", rec.Offset, rec.Value)
		}
	}
	if h, ok := rec.Headers.Get("h"); !ok || string(h) != "v" {
		m.t.Fatalf("record %d has lost its headers", rec.Offset)
	}
	if !ok || want.value != value || want.key != string(rec.Key) || want.time != rec.Timestamp {
		m.t.Fatalf("record %d is %q=%q at %d, want %+v", rec.Offset, rec.Key, value, rec.Timestamp, want)
	}
	if seen[rec.Offset] {
		m.t.Fatalf("record %d is there twice", rec.Offset)
	}
	seen[rec.Offset] = true
}

// checkState: of each key the latest is there, but for deletions whose time is over.
func (m *compactModel) checkState(seen map[record.Offset]bool, state map[string]string) {
	want := map[string]record.Offset{}
	for _, o := range slices.Sorted(maps.Keys(m.records)) {
		r := m.records[o]
		if o >= m.asked && !m.wasAborted(o, r) {
			want[r.key] = o
		}
	}
	for key, o := range want {
		r := m.records[o]
		if got, ok := state[key]; got != r.value || !ok && r.value != "" {
			m.t.Fatalf("%s is %q, want %q of %d", key, got, r.value, o)
		}
		if r.value == "" && !seen[o] && m.horizon[o] > m.now {
			m.t.Fatalf("the deletion of %s at %d is gone before %d", key, o, m.horizon[o])
		}
	}
	for o := range m.gone {
		if seen[o] && o >= m.asked {
			m.t.Fatalf("%d (%+v) should be gone, passes went to %d", o, m.records[o], m.until)
		}
	}
}

func TestCompactModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := smallOptions(Sync)
		o.Dir, o.FS, o.LogBytesMax = "data", memDir(t), 1<<40
		o.SegmentBytes = 64 << 10
		m := &compactModel{t: rt, tb: t, o: o, records: map[record.Offset]modelRecord{}, ended: map[record.Offset]bool{}, first: map[int64]record.Offset{},
			horizon: map[record.Offset]int64{}, gone: map[record.Offset]bool{}, now: 1000}
		m.l = open(t, o)
		defer func() { _ = m.l.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"batch": m.doBatch, "batch2": m.doBatch, "batch3": m.doBatch, "batch4": m.doBatch, "batch5": m.doBatch, "batch6": m.doBatch, "marker": m.doMarker,
			"compact": m.doCompact, "start": m.doStart, "rewrite": m.doRewrite, "reopen": m.doReopen,
		})
		m.check()
	})
}

// keyed commits a batch with one record for each key=value; no value deletes.
func (l *opened) keyed(t testing.TB, base record.Offset, o record.BatchOptions, time int64, pairs ...[2]string) {
	t.Helper()
	var b record.BatchBuilder
	b.Begin(nil, time)
	for i, kv := range pairs {
		in := record.Input{OffsetDelta: int32(i), Timestamp: time, Key: []byte(kv[0])}
		if kv[1] != "" {
			in.Value = append([]byte(kv[1]), make([]byte, 3000)...)
		}
		b.Append(&in)
	}
	o.BaseOffset = base
	f := record.Frame{Kind: record.KindRecords, Partition: compactPart, Index: uint64(base) + 1}
	f.Payload = append(record.BeginRecordsPayload(nil, nil), b.Finish(&o)...)
	if err := l.src.commit(t, record.AppendFrame(nil, &f)); err != nil {
		t.Fatal(err)
	}
}

// left lists the batches of the partition: offsets of their records, and what they are.
func (l *opened) left(t testing.TB) (out []string) {
	t.Helper()
	var f Fetched
	if err := l.Fetch(compactPart, l.LogStart(compactPart), 1<<20, &f); err != nil {
		t.Fatal(err)
	}
	defer f.Release()
	for _, raw := range f.Batches {
		b := record.Batch(raw)
		s := fmt.Sprintf("%d-%d", b.BaseOffset(), b.LastOffset())
		if b.Attributes()&record.Control != 0 {
			s += " marker"
		}
		for it := b.Records(); it.Next(); {
			if rec := it.Record(); b.Attributes()&record.Control == 0 {
				s += " " + string(rec.Key)
				if rec.Value == nil {
					s += " deleted"
				}
			}
		}
		out = append(out, s)
	}
	return out
}

// Deletions and markers stay for their time after the first pass that meets them, and go with a later one.
func TestCompactDeletes(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS, o.LogBytesMax = "data", memDir(t), 1<<40
	l := open(t, o)
	txn := record.BatchOptions{Attributes: record.Transactional, Producer: record.Producer{Known: true, ID: 9}}
	marker := record.BatchOptions{Attributes: record.Transactional | record.Control, Producer: record.Producer{Known: true, ID: 9, Sequence: -1}}
	l.keyed(t, 0, record.BatchOptions{}, 10, [2]string{"a", "1"}, [2]string{"b", "1"})
	l.keyed(t, 2, txn, 10, [2]string{"x", "aborted"})
	l.keyed(t, 3, marker, 10, [2]string{"\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00"})
	l.keyed(t, 4, record.BatchOptions{}, 10, [2]string{"a", ""}, [2]string{"c", "1"})
	next := record.Offset(6)
	more := func() { // fills segments with another key
		for range 12 {
			l.keyed(t, next, record.BatchOptions{}, 10, [2]string{"z", "1"}, [2]string{"z", "2"})
			next += 2
		}
		l.checkpointed(t)
	}
	pass := func(now int64) Compacted {
		t.Helper()
		res, err := l.Compact(CompactRequest{Partition: compactPart, End: next, Young: math.MaxInt64, Now: now, KeepDeletes: 100,
			Aborted: []AbortedRange{{Producer: 9, First: 2, Last: 3}}})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	want := func(list ...string) {
		t.Helper()
		got := l.left(t)
		if len(got) < len(list) || !slices.Equal(got[:len(list)], list) {
			t.Errorf("left are %q, want %q first", got, list)
		}
	}
	more()
	if d := l.Dirt(compactPart); d.Clean != 0 || d.Dirty == 0 || d.Waiting == 0 || d.Since != 10 {
		t.Errorf("before: %+v", d)
	}
	res := pass(1000)
	want("0-1 b", "3-3 marker", "4-5 a deleted c")
	if d := l.Dirt(compactPart); d.Clean == 0 || d.Dirty != 0 || d.Waiting == 0 || len(res.Ended) != 0 || res.Written >= res.Read {
		t.Errorf("after: %+v, %+v", d, res)
	}
	if res := pass(2000); res.Read != 0 {
		t.Errorf("with nothing new: %+v", res)
	}
	more()
	pass(1099)
	want("0-1 b", "3-3 marker", "4-5 a deleted c")
	l.close(t)
	l = open(t, o)
	more()
	res = pass(1100)
	want("0-1 b", "4-5 c")
	if !slices.Equal(res.Ended, []record.Offset{3}) {
		t.Errorf("ended are %v", res.Ended)
	}
	l.close(t)
}

// Everything in the first pieces goes: a batch without records stands for them, over a restart too.
func TestCompactToNothing(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS, o.LogBytesMax = "data", memDir(t), 1<<40
	l := open(t, o)
	next := record.Offset(0)
	put := func(key string, n int) {
		for range n {
			l.keyed(t, next, record.BatchOptions{}, 10, [2]string{key, "1"}, [2]string{key, "2"})
			next += 2
		}
		l.checkpointed(t)
	}
	pass := func() {
		t.Helper()
		if _, err := l.Compact(CompactRequest{Partition: compactPart, End: next, Young: math.MaxInt64, Now: 1000}); err != nil {
			t.Fatal(err)
		}
	}
	put("b", 24)
	pass()
	put("b", 1)
	put("z", 24)
	pass()
	l.close(t)
	l = open(t, o)
	got := l.left(t)
	if len(got) < 3 || got[0] != "0-47" && got[0] != "48-49 b" || got[len(got)-1] != fmt.Sprintf("%d-%d z z", next-2, next-1) || l.LogEnd(compactPart) != next {
		t.Errorf("at the end %q", got)
	}
	var f Fetched
	if err := l.Fetch(compactPart, 1, 1, &f); err != nil || len(f.Batches) != 1 {
		t.Errorf("a fetch at what is gone: %d batches, %v", len(f.Batches), err)
	}
	f.Release()
	l.close(t)
}

// A pass goes as far as its memory does, and the next one further.
func TestCompactMemory(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS, o.LogBytesMax = "data", memDir(t), 1<<40
	l := open(t, o)
	defer l.close(t)
	next := record.Offset(0)
	for round := range 2 {
		for i := range 100 {
			l.keyed(t, next, record.BatchOptions{}, 10, [2]string{fmt.Sprint("key", i), fmt.Sprint(round)})
			next++
		}
	}
	l.checkpointed(t)
	last := record.Offset(-1)
	for passes := 0; ; passes++ {
		res, err := l.Compact(CompactRequest{Partition: compactPart, End: next, Young: math.MaxInt64, KeyBytes: 64 * 16})
		if err != nil {
			t.Fatal(err)
		}
		if res.Read == 0 {
			if passes < 2 || l.Dirt(compactPart).Dirty != 0 {
				t.Errorf("%d passes, %+v", passes, l.Dirt(compactPart))
			}
			break
		}
		if res.Until <= last {
			t.Fatalf("pass %d goes to %d, the one before to %d", passes, res.Until, last)
		}
		last = res.Until
	}
	seen := map[string]int{}
	for _, s := range l.left(t) {
		seen[s]++
	}
	if len(seen) > 100+40 { // the last ones lie in the segment that is written to
		t.Errorf("%d batches are left", len(seen))
	}
}

// Rotate ends the active segment, and what is in it can be compacted once a checkpoint stands behind it. An idle log needs no write for it.
func TestRotate(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS, o.LogBytesMax = "data", memDir(t), 1<<40
	l := open(t, o)
	l.Rotate() // of nothing
	l.keyed(t, 0, record.BatchOptions{}, 10, [2]string{"a", "1"})
	l.keyed(t, 1, record.BatchOptions{}, 10, [2]string{"a", "2"})
	segments := func() int64 { return l.Stats().Segments.Load() }
	if segments() != 1 {
		t.Fatalf("%d segments", segments())
	}
	l.Rotate()
	testx.Eventually(t, waitFor, func() bool { return segments() == 2 })
	l.checkpointed(t)
	if _, err := l.Compact(CompactRequest{Partition: compactPart, End: 2, Young: math.MaxInt64}); err != nil {
		t.Fatal(err)
	}
	if got := l.left(t); !slices.Equal(got, []string{"1-1 a"}) {
		t.Errorf("left are %q", got)
	}
	l.keyed(t, 2, record.BatchOptions{}, 10, [2]string{"a", "3"})
	l.close(t)
	l = open(t, o)
	if got := l.left(t); !slices.Equal(got, []string{"1-1 a", "2-2 a"}) {
		t.Errorf("after a restart %q", got)
	}
	l.close(t)
}

// cutter takes images of what power cuts would leave, at each sync while it watches.
type cutter struct {
	mem    *vfs.Mem
	watch  atomic.Bool
	mu     sync.Mutex
	images []*vfs.Mem
}

func newCutter(t *testing.T) *cutter {
	t.Helper()
	c := &cutter{mem: vfs.NewMem()}
	if err := errors.Join(c.mem.MkdirAll("data"), c.mem.SyncDir(".")); err != nil {
		t.Fatal(err)
	}
	seed := uint64(1)
	c.mem.OnSync = func(string, string) {
		if !c.watch.Load() {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		seed++
		c.images = append(c.images, c.mem.Crash(vfs.Cut{}), c.mem.Crash(vfs.Cut{Keep: true}), c.mem.Crash(vfs.Cut{Rand: seeded(seed)}))
	}
	return c
}

// A power cut at any moment of a compaction, and of the removal of what it has replaced, leaves each key with its latest value, and nothing
// that was deleted and gone.
func TestCompactCut(t *testing.T) {
	o := smallOptions(Sync)
	c := newCutter(t)
	o.Dir, o.FS, o.LogBytesMax = "data", c.mem, 1<<40
	l := open(t, o)
	next := record.Offset(0)
	put := func(n int, key, value string) {
		for range n {
			l.keyed(t, next, record.BatchOptions{}, 10, [2]string{key, value})
			next++
		}
	}
	pass := func(now int64) {
		t.Helper()
		if _, err := l.Compact(CompactRequest{Partition: compactPart, End: next, Young: math.MaxInt64, Now: now, KeepDeletes: 10}); err != nil {
			t.Fatal(err)
		}
	}
	for range 12 {
		for _, k := range []string{"a", "b", "c", "gone"} {
			put(1, k, "v")
		}
	}
	put(1, "gone", "")
	put(30, "other", "1")
	l.checkpointed(t)
	pass(100) // the deletion gets its time
	put(30, "other", "2")
	l.checkpointed(t)
	for now := int64(200); now < 203; now++ {
		c.watch.Store(true)
		pass(now) // and goes
		c.watch.Store(false)
		put(10, "other", "3")
		c.watch.Store(true)
		l.checkpointed(t)
	}
	c.watch.Store(false)
	l.close(t)
	if len(c.images) < 30 {
		t.Errorf("%d power cuts", len(c.images))
	}
	for i, im := range c.images {
		o.FS = im
		checkCut(t, i, o)
	}
}

func checkCut(t *testing.T, image int, o Options) {
	t.Helper()
	l := open(t, o)
	defer l.close(t)
	state := map[string]string{}
	seen := record.Offset(-1)
	for _, s := range l.left(t) {
		var from, to record.Offset
		var key, what string
		_, _ = fmt.Sscanf(s, "%d-%d %s %s", &from, &to, &key, &what)
		if from <= seen {
			t.Fatalf("image %d: %q behind %d", image, s, seen)
		}
		seen = to
		state[key] = fmt.Sprint(from, what)
	}
	for key, want := range map[string]string{"a": "44", "b": "45", "c": "46"} {
		if state[key] != want {
			t.Fatalf("image %d: %s is at %q, want %q; %v", image, key, state[key], want, state)
		}
	}
	if at, ok := state["gone"]; ok && at != "48deleted" {
		t.Fatalf("image %d: what was deleted is at %s", image, at)
	}
}
