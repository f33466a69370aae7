package rebuild

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/localtier"
	"github.com/sluicemq/sluice/journal/tier/object"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// world is a store whose objects were put a second after each other, and that may fail.
type world struct {
	tier.Store
	t     testing.TB
	put   map[string]int64
	fault func(name string) error // "": of List
}

func newWorld(t testing.TB) *world {
	t.Helper()
	s, err := localtier.Open(ctx, localtier.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &world{Store: s, t: t, put: map[string]int64{}}
}

// List gives pages of two, so that there are several.
func (w *world) List(ctx context.Context, prefix, after string, _ int) ([]tier.Info, bool, error) {
	if w.fault != nil {
		if err := w.fault(""); err != nil {
			return nil, false, err
		}
	}
	page, more, err := w.Store.List(ctx, prefix, after, 2)
	for i := range page {
		page[i].ModTime = time.UnixMilli(w.put[page[i].Name])
	}
	return page, more, err
}

func (w *world) Get(ctx context.Context, name string, r tier.Range) (io.ReadCloser, tier.Info, error) {
	if w.fault != nil {
		if err := w.fault(name); err != nil {
			return nil, tier.Info{}, err
		}
	}
	return w.Store.Get(ctx, name, r)
}

// run is one of an object: so many bytes of records for each offset.
type run struct {
	topic       byte // of the id
	name        string
	index       int32
	first, last record.Offset
	aborted     []object.Aborted
	flags       object.RunFlags
}

const perRecord = 10

// write puts an object, and gives its name.
func (w *world) write(shard record.ShardID, sequence uint64, runs ...run) string {
	w.t.Helper()
	b := object.NewBuilder(object.ID{Shard: shard, Epoch: 1, Sequence: sequence}, 1, object.Options{})
	for _, r := range runs {
		b.Run(object.Topic{ID: [16]byte{r.topic}, Name: r.name, Index: r.index, Partition: 7}, r.flags)
		b.Add(object.Extent{First: r.first, Last: r.last, MaxTime: 1, Bytes: int64(r.last-r.first+1) * perRecord})
		for _, a := range r.aborted {
			b.Abort(a)
		}
	}
	o, err := b.Finish()
	if err != nil {
		w.t.Fatal(err)
	}
	body := o.Reader(func(i int) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(make([]byte, o.Summary().Runs[i].Bytes))), nil
	})
	w.replace(o.Name(), body, o.Size())
	if err := body.Close(); err != nil {
		w.t.Fatal(err)
	}
	return o.Name()
}

func (w *world) replace(name string, r io.Reader, size int64) {
	w.t.Helper()
	if err := w.Put(ctx, name, r, size, tier.PutOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.put[name] = int64(len(w.put)+1) * 1000
}

func (w *world) bytes(name string) []byte {
	w.t.Helper()
	r, _, err := w.Store.Get(ctx, name, tier.Range{})
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) scan(o Options) *Found {
	w.t.Helper()
	f, err := Scan(ctx, w, o)
	if err != nil {
		w.t.Fatal(err)
	}
	// What a run is numbered with is the partition that has its offsets.
	for _, o := range f.Objects {
		for _, r := range o.Runs {
			if p := f.Parts[r.Partition]; r.First < p.Start || r.Last >= p.End {
				w.t.Errorf("%s has %d to %d of a partition from %d to %d", o.ID.Name(), r.First, r.Last, p.Start, p.End)
			}
		}
	}
	return f
}

// Partitions whose objects lie in any number of shards, written by nodes with other numbers of them, are put together; what is missing between is told.
func TestShardsAndGaps(t *testing.T) {
	w := newWorld(t)
	w.write(0, 1, run{topic: 1, name: "a", first: 10, last: 19}, run{topic: 1, name: "a", index: 2, first: 0, last: 4})
	w.write(0, 2, run{topic: 2, name: "b", first: 5, last: 5})
	w.write(5, 1, run{topic: 1, name: "a", first: 30, last: 39})
	w.write(63, 9, run{topic: 1, name: "a", first: 20, last: 24}, run{topic: 1, name: "a", index: 2, first: 5, last: 9})
	w.write(63, 10, run{topic: 1, name: "a", first: 35, last: 44}) // some of it twice, as after a kill
	var steps, listed atomic.Int64
	f := w.scan(Options{Progress: func(done, total int64) { steps.Store(done); listed.Store(total) }})
	if f.Listed != 5 || len(f.Objects) != 5 || steps.Load() != 5 || listed.Load() != 5 || len(f.Topics) != 2 || len(f.Parts) != 3 {
		t.Fatalf("%+v, progress %d of %d", f, steps.Load(), listed.Load())
	}
	a := f.Topics[0]
	if a.Name != "a" || a.ID[0] != 1 || a.Bytes != 45*perRecord || len(a.Parts) != 2 || a.Partitions() != 3 || a.Written != 5000 {
		t.Errorf("%+v", a)
	}
	if p := a.Parts[0]; p.Start != 10 || p.End != 45 || !slices.Equal(p.Gaps, []Gap{{25, 30}}) {
		t.Errorf("%+v", p)
	}
	if p := a.Parts[1]; p.Start != 0 || p.End != 10 || p.Index != 2 || len(p.Gaps) != 0 {
		t.Errorf("%+v", p)
	}
	if !slices.IsSortedFunc(f.Objects, func(a, b *history.Object) int { return bytes.Compare(a.Key(), b.Key()) }) {
		t.Error("objects are out of order")
	}
}

// Objects that hold the same offsets, whole or in part, as kills leave them, make no gap.
func TestOverlap(t *testing.T) {
	w := newWorld(t)
	w.write(0, 1, run{topic: 1, name: "a", first: 5, last: 20})
	w.write(0, 2, run{topic: 1, name: "a", first: 6, last: 8})
	w.write(0, 3, run{topic: 1, name: "a", first: 15, last: 21})
	if p := w.scan(Options{}).Parts[0]; p.Start != 5 || p.End != 22 || len(p.Gaps) != 0 {
		t.Errorf("%+v", p)
	}
}

// Aborted transactions that several objects tell of are there once, in the order of their ends.
func TestAborted(t *testing.T) {
	w := newWorld(t)
	one, two := object.Aborted{ProducerID: 9, First: 2, Last: 8, LastStable: 2}, object.Aborted{ProducerID: 4, First: 5, Last: 14, LastStable: 5}
	w.write(0, 2, run{topic: 1, name: "a", first: 10, last: 19, aborted: []object.Aborted{two}})
	w.write(0, 1, run{topic: 1, name: "a", first: 0, last: 9, aborted: []object.Aborted{one, two}})
	f := w.scan(Options{Parallel: 1})
	if got := f.Parts[0].Aborted; !slices.Equal(got, []object.Aborted{one, two}) {
		t.Errorf("%+v", got)
	}
}

// An object whose tail is damaged, cut or no object at all is told, and all others are found; what it had is a gap.
func TestDamaged(t *testing.T) {
	for name, spoil := range map[string]func(b []byte) []byte{
		"flipped":  func(b []byte) []byte { b[len(b)-20] ^= 1; return b },
		"run":      func(b []byte) []byte { b[len(b)-60] ^= 1; return b },
		"cut":      func(b []byte) []byte { return b[:len(b)-1] },
		"short":    func(b []byte) []byte { return b[:7] },
		"empty":    func([]byte) []byte { return nil },
		"nonsense": func(b []byte) []byte { return bytes.Repeat([]byte{0xff}, len(b)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.write(0, 1, run{topic: 1, name: "a", first: 0, last: 9})
			bad := w.write(0, 2, run{topic: 1, name: "a", first: 10, last: 19})
			w.write(0, 3, run{topic: 1, name: "a", first: 20, last: 29})
			b := spoil(w.bytes(bad))
			w.replace(bad, bytes.NewReader(b), int64(len(b)))
			f := w.scan(Options{Tries: 2, Wait: time.Microsecond})
			if len(f.Damaged) != 1 || !errors.Is(f.Damaged[0], object.ErrCorrupt) || len(f.Objects) != 2 || f.Listed != 3 {
				t.Fatalf("%+v", f)
			}
			if p := f.Parts[0]; p.Start != 0 || p.End != 30 || !slices.Equal(p.Gaps, []Gap{{10, 20}}) {
				t.Errorf("%+v", p)
			}
		})
	}
}

// Of topics with one name the last counts; it goes on from an earlier one if its offsets do.
func TestNames(t *testing.T) {
	w := newWorld(t)
	w.write(0, 1, run{topic: 1, name: "new", first: 0, last: 9}, run{topic: 3, name: "on", first: 0, last: 9}, run{topic: 3, name: "on", index: 1, first: 0, last: 4})
	w.write(0, 2, run{topic: 2, name: "new", first: 3, last: 5}, run{topic: 4, name: "on", first: 10, last: 12})
	w.write(1, 1, run{topic: 5, name: "was", first: 0, last: 0}) // listed behind what is newer
	w.write(0, 3, run{topic: 5, name: "is", first: 1, last: 1})
	f := w.scan(Options{Parallel: 1})
	if len(f.Topics) != 3 || len(f.Older) != 1 || f.Older[0].ID[0] != 1 {
		t.Fatalf("%+v", f)
	}
	if renamed := f.Topics[0]; renamed.Name != "is" || renamed.Parts[0].End != 2 {
		t.Errorf("%+v", renamed)
	}
	if last := f.Topics[1]; last.Name != "new" || last.ID[0] != 2 || last.Parts[0].Start != 3 || last.Parts[0].End != 6 {
		t.Errorf("%+v", last)
	}
	on := f.Topics[2]
	if on.ID[0] != 4 || len(on.Parts) != 2 || on.Parts[0].Start != 0 || on.Parts[0].End != 13 || on.Parts[1].End != 5 || on.Parts[1].Topic != on || on.Bytes != 18*perRecord {
		t.Errorf("%+v", on)
	}
	if n := len(f.Objects[0].Runs); n != 2 {
		t.Errorf("the first object has %d runs of topics that count", n)
	}
}

// What may succeed later is tried again, and is an error if it does not; what was removed meanwhile is left out; other tenants' objects, and names that are
// none of ours, are not looked at.
func TestFaults(t *testing.T) {
	w := newWorld(t)
	name := w.write(0, 1, run{topic: 1, name: "a", first: 0, last: 9})
	gone := w.write(0, 2, run{topic: 1, name: "a", first: 10, last: 19})
	for _, other := range []string{"00000000/0000/readme", "00000001/0000/00000001-0000000000000001"} {
		w.replace(other, bytes.NewReader([]byte("x")), 1)
	}
	var failures atomic.Int64
	away := &tier.Error{Store: "test", Op: "get", Kind: tier.Unavailable}
	w.fault = func(n string) error {
		if n == gone {
			return &tier.Error{Store: "test", Op: "get", Name: n, Kind: tier.NotFound}
		}
		if failures.Add(-1) >= 0 {
			return away
		}
		return nil
	}
	failures.Store(3)
	f := w.scan(Options{Tries: 4, Wait: time.Microsecond})
	if f.Listed != 2 || len(f.Objects) != 1 || len(f.Damaged) != 0 || f.Parts[0].End != 10 {
		t.Errorf("%+v", f)
	}
	failures.Store(1 << 30)
	if _, err := Scan(ctx, w, Options{Tries: 3, Wait: time.Microsecond}); !errors.Is(err, tier.ErrUnavailable) {
		t.Errorf("a store that is not there: %v", err)
	}
	w.fault = func(n string) error {
		if n == name {
			return &tier.Error{Store: "test", Op: "get", Name: n, Kind: tier.Denied}
		}
		return nil
	}
	if _, err := Scan(ctx, w, Options{Tries: 2, Wait: time.Microsecond}); !errors.Is(err, tier.ErrDenied) {
		t.Errorf("an object that may not be read: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	w.fault = func(string) error { cancel(); return away }
	if _, err := Scan(ended, w, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if f := newWorld(t).scan(Options{}); f.Listed != 0 || len(f.Topics) != 0 {
		t.Errorf("an empty store: %+v", f)
	}
}

// What passes of compaction have replaced counts no more, with its transactions: neither what one object replaces alone, nor what two do together; what is newer does, and
// what is another partition's. Offsets that are missing are no gap.
func TestReplaced(t *testing.T) {
	w := newWorld(t)
	lost := []object.Aborted{{ProducerID: 5, First: 1, Last: 3, LastStable: 3}}
	w.write(9, 1, run{topic: 1, name: "a", first: 0, last: 9, aborted: lost, flags: object.Sparse}, run{topic: 1, name: "a", index: 1, first: 0, last: 9, flags: object.Sparse})
	w.write(0, 2, run{topic: 1, name: "a", first: 12, last: 29, flags: object.Sparse})
	w.write(0, 3, run{topic: 1, name: "a", first: 30, last: 39, aborted: []object.Aborted{{ProducerID: 6, First: 31, Last: 33, LastStable: 33}}, flags: object.Sparse})
	w.write(0, 4, run{topic: 1, name: "a", first: 5, last: 19, flags: object.Sparse | object.Clean | object.Replaces | object.Begins})
	w.write(0, 5, run{topic: 1, name: "a", first: 20, last: 29, flags: object.Sparse | object.Clean | object.Replaces})
	w.write(0, 6, run{topic: 1, name: "a", first: 42, last: 49, flags: object.Sparse})
	f := w.scan(Options{})
	if len(f.Topics) != 1 || len(f.Parts) != 2 || !f.Topics[0].Compacted {
		t.Fatalf("%+v", f)
	}
	// The run from 0 on begins before 5, and what begins the partition has replaced it.
	p := f.Parts[0]
	if p.Start != 5 || p.End != 50 || p.Bytes != (15+10+10+8)*perRecord || len(p.Aborted) != 1 || p.Aborted[0].ProducerID != 6 || len(p.Gaps) > 0 {
		t.Errorf("%+v", p)
	}
	if q := f.Parts[1]; q.Start != 0 || q.End != 10 {
		t.Errorf("%+v", q)
	}
	if len(f.Objects) != 5 {
		t.Errorf("%d objects have something", len(f.Objects))
	}
}
