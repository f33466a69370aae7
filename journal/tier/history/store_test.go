package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/object"
)

const patienceOf = 20 * time.Second

var bg = context.Background()

// memStore is a store in memory whose answers a test can spoil.
type memStore struct {
	mu      sync.Mutex
	objects map[string][]byte
	gets    []string // "name off len"
	// fault is asked before each Get; what it answers is the Get's.
	fault func(name string, rng tier.Range) error
	// spoil changes the bytes of a Get; fewer are as a cut connection gives them.
	spoil func(name string, rng tier.Range, b []byte) ([]byte, error)
	wait  func(ctx context.Context) error // before each Get
}

func newStore() *memStore { return &memStore{objects: map[string][]byte{}} }

func (s *memStore) err(op, name string, k tier.Kind) error {
	return &tier.Error{Store: "mem", Op: op, Name: name, Kind: k}
}

func (s *memStore) Put(_ context.Context, name string, r io.Reader, _ int64, _ tier.PutOptions) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[name] = b
	return nil
}

func (s *memStore) Get(ctx context.Context, name string, rng tier.Range) (io.ReadCloser, tier.Info, error) {
	s.mu.Lock()
	b, ok := s.objects[name]
	s.gets = append(s.gets, fmt.Sprintf("%s %d %d", name, rng.Off, rng.Len))
	fault, spoil, wait := s.fault, s.spoil, s.wait
	s.mu.Unlock()
	if wait != nil {
		if err := wait(ctx); err != nil {
			return nil, tier.Info{}, tier.Wrap(ctx, "mem", "get", name, tier.Unavailable, err)
		}
	}
	if fault != nil {
		if err := fault(name, rng); err != nil {
			return nil, tier.Info{}, err
		}
	}
	if !ok {
		return nil, tier.Info{}, s.err("get", name, tier.NotFound)
	}
	off, n, err := rng.In(int64(len(b)))
	if err != nil {
		return nil, tier.Info{}, err
	}
	part := b[off : off+n]
	after := io.EOF
	if spoil != nil {
		if part, err = spoil(name, rng, slices.Clone(part)); err != nil {
			after = err
		}
	}
	return io.NopCloser(io.MultiReader(bytes.NewReader(part), errReader{after})), tier.Info{Name: name, Size: int64(len(b))}, nil
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

func (s *memStore) Stat(_ context.Context, name string) (tier.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.objects[name]; ok {
		return tier.Info{Name: name, Size: int64(len(b))}, nil
	}
	return tier.Info{}, s.err("stat", name, tier.NotFound)
}

func (s *memStore) List(context.Context, string, string, int) ([]tier.Info, bool, error) {
	return nil, false, errors.New("not needed")
}

func (s *memStore) Delete(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, name)
	return nil
}

func (s *memStore) Close() error { return nil }

func (s *memStore) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.gets)
}

// set changes what the store answers.
func (s *memStore) set(f func(*memStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// flip spoils a byte of an object for good.
func (s *memStore) flip(t testing.TB, o *Object, at int64) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	b := slices.Clone(s.objects[o.ID.Name()])
	b[at] ^= 0x40
	s.objects[o.ID.Name()] = b
}

// batch makes one with n records from an offset on; its latest timestamp is its last offset. Records have size bytes.
func batch(first record.Offset, n, size int) []byte {
	var b record.BatchBuilder
	b.Begin(nil, int64(first))
	for i := range n {
		b.Append(&record.Input{OffsetDelta: int32(i), Timestamp: int64(first) + int64(i), Value: fill(first+record.Offset(i), size)})
	}
	return b.Finish(&record.BatchOptions{BaseOffset: first})
}

func fill(o record.Offset, size int) []byte {
	return []byte(strings.Repeat(fmt.Sprintf("%d;", o), size/2+1)[:size])
}

// written is the runs of an object that is to be written: the batches of each.
type written struct {
	partition record.PartitionID
	batches   [][]byte
}

// run makes a run of batches of n records from first to last.
func mkRun(p record.PartitionID, first, last record.Offset, n, size int) written {
	w := written{partition: p}
	for o := first; o <= last; o += record.Offset(n) {
		w.batches = append(w.batches, batch(o, min(n, int(last-o)+1), size))
	}
	return w
}

func build(t testing.TB, id object.ID, blockBytes int64, runs ...written) (*object.Writer, func(int) (io.ReadCloser, error)) {
	t.Helper()
	b := object.NewBuilder(id, 1000, object.Options{BlockBytes: blockBytes})
	for _, r := range runs {
		b.Run(object.Topic{Name: fmt.Sprintf("topic-%d", r.partition), Partition: r.partition}, 0)
		for _, raw := range r.batches {
			at := record.Batch(raw)
			e := object.Extent{First: at.BaseOffset(), Last: at.LastOffset(), MaxTime: at.MaxTimestamp(), Bytes: int64(len(raw))}
			if at.Attributes()&record.Control != 0 {
				e.MaxTime = object.NoTime
			}
			b.Add(e)
		}
	}
	w, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return w, func(i int) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(slices.Concat(runs[i].batches...))), nil
	}
}

// store writes an object, and puts it into the manifest.
func store(t testing.TB, s tier.Store, m *Manifest, seq int, blockBytes int64, runs ...written) *Object {
	t.Helper()
	w, open := build(t, object.ID{Shard: 1, Epoch: 1, Sequence: uint64(seq)}, blockBytes, runs...)
	if err := s.Put(bg, w.Name(), w.Reader(open), w.Size(), tier.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	sum := w.Summary()
	o := NewObject(&sum, "", func(r *object.Run) (record.PartitionID, bool) { return r.Partition, true })
	o.Shard = 1
	apply(t, m, o)
	return o
}

// newReader makes one that tries quickly.
func newReader(t testing.TB, m *Manifest, s tier.Store, o ReaderOptions) *Reader {
	t.Helper()
	if o.Wait == 0 {
		o.Wait = time.Microsecond
	}
	r := NewReader(m, s, o)
	t.Cleanup(r.Close)
	return r
}

// readAll reads a partition as a consumer does, and gives the offsets of all records from from on, each of whose bytes it compares.
func readAll(t testing.TB, r *Reader, p record.PartitionID, from, end record.Offset, maxBytes int) (got []record.Offset) {
	t.Helper()
	for from < end {
		batches, held, err := r.ReadBatches(bg, p, from, end, maxBytes, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(batches) == 0 {
			return got
		}
		bytes := 0
		for i, raw := range batches {
			bytes += len(raw)
			if bytes > maxBytes && i > 0 {
				t.Fatalf("%d bytes in %d batches, of %d", bytes, len(batches), maxBytes)
			}
			b, n, err := record.ParseBatch(raw)
			if err != nil || n != len(raw) || b.Verify() != nil {
				t.Fatalf("not one whole batch: %v", err)
			}
			if b.BaseOffset() >= end || b.LastOffset() < from {
				t.Fatalf("batch %d to %d, wanted %d to %d", b.BaseOffset(), b.LastOffset(), from, end)
			}
			for it := b.Records(); it.Next(); {
				rec := it.Record()
				if rec.Offset < from {
					continue
				}
				if want := fill(rec.Offset, len(rec.Value)); string(rec.Value) != string(want) {
					t.Fatalf("offset %d has %.20q", rec.Offset, rec.Value)
				}
				got = append(got, rec.Offset)
			}
			from = b.NextOffset()
		}
		held.Release()
	}
	return got
}

func offsets(first, last record.Offset) (out []record.Offset) {
	for o := first; o <= last; o++ {
		out = append(out, o)
	}
	return out
}
