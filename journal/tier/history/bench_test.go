package history

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/hdfstier"
	"github.com/sluicemq/sluice/journal/tier/localtier"
	"github.com/sluicemq/sluice/journal/tier/object"
	"github.com/sluicemq/sluice/journal/tier/s3tier"
)

const (
	coldObjects = 4
	coldBatches = 4096 // of an object
	coldBatch   = 16 << 10
)

// openCold opens a directory, or the cluster whose name node SLUICE_TEST_HDFS names (host:port), or the service that SLUICE_TEST_S3 names, with
// SLUICE_TEST_S3_KEY and _SECRET: http://host:port/bucket.
func openCold(b *testing.B) (tier.Store, error) {
	b.Helper()
	if node := os.Getenv("SLUICE_TEST_HDFS"); node != "" {
		dir := fmt.Sprintf("/bench-%x", rand.Uint64())
		return hdfstier.Open(bg, hdfstier.Options{NameNodes: []string{node}, Dir: dir, User: "root", Replication: 2})
	}
	where := os.Getenv("SLUICE_TEST_S3")
	if where == "" {
		return localtier.Open(bg, localtier.Options{Dir: b.TempDir()})
	}
	i := strings.LastIndexByte(where, '/')
	return s3tier.Open(bg, s3tier.Options{Endpoint: where[:i], Bucket: where[i+1:], Prefix: "bench", Style: "path", Credentials: "static",
		AccessKey: os.Getenv("SLUICE_TEST_S3_KEY"), SecretKey: os.Getenv("SLUICE_TEST_S3_SECRET")})
}

// coldStore has four objects of 64 MiB, each a run of batches of 16 KiB.
func coldStore(b *testing.B) (tier.Store, *Manifest) {
	b.Helper()
	s, err := openCold(b)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	m := NewManifest()
	value := make([]byte, coldBatch-100)
	for i := range value {
		value[i] = byte(rand.Uint32())
	}
	for i := range coldObjects {
		w := written{partition: 7}
		for k := range coldBatches {
			var bb record.BatchBuilder
			first := record.Offset(i*coldBatches + k)
			bb.Begin(nil, int64(first))
			bb.Append(&record.Input{Timestamp: int64(first), Value: value})
			w.batches = append(w.batches, bb.Finish(&record.BatchOptions{BaseOffset: first}))
		}
		store(b, s, m, i+1, 0, w)
	}
	return s, m
}

// BenchmarkColdRead reads 256 MiB in a row as a consumer does, 1 MiB at a time, with nothing in the cache.
func BenchmarkColdRead(b *testing.B) {
	s, m := coldStore(b)
	b.SetBytes(m.Size(7))
	b.ReportAllocs()
	for b.Loop() {
		r := NewReader(m, s, ReaderOptions{})
		var batches [][]byte
		for from := record.Offset(0); from < coldObjects*coldBatches; {
			got, held, err := r.ReadBatches(bg, 7, from, coldObjects*coldBatches, 1<<20, batches[:0])
			if err != nil {
				b.Fatal(err)
			}
			batches, from = got, record.Batch(got[len(got)-1]).NextOffset()
			held.Release()
		}
		r.Close()
	}
}

// BenchmarkColdReaders has sixteen readers at once, each of 32 MiB of his own, more than the cache holds. It tells how many bytes were loaded for each that was read.
func BenchmarkColdReaders(b *testing.B) {
	s, err := openCold(b)
	if err != nil {
		b.Fatal(err)
	}
	m := NewManifest()
	const readers, last = 16, 2047
	for i := range readers {
		store(b, s, m, i+1, 0, mkRun(record.PartitionID(i+1), 0, last, 1, coldBatch))
	}
	b.SetBytes(readers * m.Size(1))
	loaded := int64(0)
	for b.Loop() {
		r := NewReader(m, s, ReaderOptions{})
		var wg sync.WaitGroup
		for i := range readers {
			wg.Go(func() {
				for from := record.Offset(0); from <= last; {
					got, held, err := r.ReadBatches(bg, record.PartitionID(i+1), from, last+1, 1<<20, nil)
					if err != nil {
						b.Error(err)
						return
					}
					from = record.Batch(got[len(got)-1]).NextOffset()
					held.Release()
				}
			})
		}
		wg.Wait()
		loaded += r.Stats().Cache.LoadBytes.Load()
		r.Close()
	}
	b.ReportMetric(float64(loaded)/float64(b.N)/float64(readers*m.Size(1)), "loads/byte")
}

// BenchmarkPlainGet reads the same bytes by one Get for each object, 1 MiB at a time: what ColdRead is compared with.
func BenchmarkPlainGet(b *testing.B) { plainGet(b, 1<<30) }

// BenchmarkPlainRanges reads them by Gets of 4 MiB, one behind the other: what a request costs a store.
func BenchmarkPlainRanges(b *testing.B) { plainGet(b, 4<<20) }

func plainGet(b *testing.B, each int64) {
	b.Helper()
	s, m := coldStore(b)
	b.SetBytes(m.Size(7))
	buf := make([]byte, 1<<20)
	for b.Loop() {
		for o := range m.All() {
			for at := int64(0); at < o.Size; at += each {
				body, _, err := s.Get(bg, o.ID.Name(), tier.Range{Off: at, Len: min(each, o.Size-at)})
				if err != nil {
					b.Fatal(err)
				}
				for err == nil {
					_, err = io.ReadFull(body, buf)
				}
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					b.Fatal(err)
				}
				_ = body.Close()
			}
		}
	}
}

// millionRuns is 10,000 objects of a hundred runs each, of a thousand partitions.
func millionRuns() []*Object {
	out := make([]*Object, 10_000)
	for i := range out {
		o := &Object{ID: object.ID{Shard: record.ShardID(i % 16), Epoch: 1, Sequence: uint64(i)}, Shard: record.ShardID(i % 16), Size: 8 << 20, Tail: 20_000, Created: 1_700_000_000_000 + int64(i)}
		for k := range 100 {
			p, turn := i%10*100+k, i/10
			o.Runs = append(o.Runs, Run{Partition: record.PartitionID(p), Index: k, First: record.Offset(turn * 1000), Last: record.Offset(turn*1000 + 999), MaxTime: o.Created - 1000, Bytes: 80_000, Blocks: 1})
		}
		out[i] = o
	}
	return out
}

// BenchmarkApplyMillion builds the manifest of a million runs from its rows.
func BenchmarkApplyMillion(b *testing.B) {
	objects := millionRuns()
	rows, size := make([][2][]byte, len(objects)), 0
	for i, o := range objects {
		rows[i] = [2][]byte{o.Key(), o.Encode(nil)}
		size += len(rows[i][1])
	}
	b.ReportAllocs()
	for b.Loop() {
		m := NewManifest()
		for i, row := range rows {
			if err := m.Apply(objects[i].Shard, row[0], row[1]); err != nil {
				b.Fatal(err)
			}
		}
		if m.Stats().LiveRuns != 1_000_000 {
			b.Fatal(m.Stats())
		}
	}
	b.ReportMetric(float64(size)/1e6, "rowbytes/run")
}

// BenchmarkOpenTails reads and parses the tails of 10,000 objects of a hundred runs from memory, and makes their rows: what a rebuild does, but for the store's own time.
func BenchmarkOpenTails(b *testing.B) {
	s := newStore()
	var runs []written
	for k := range 100 {
		runs = append(runs, mkRun(record.PartitionID(k), 0, 0, 1, 50))
	}
	w, open := build(b, object.ID{Epoch: 1, Sequence: 1}, 0, runs...)
	r := w.Reader(open)
	whole, err := io.ReadAll(r)
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Put(bg, w.Name(), bytes.NewReader(whole), w.Size(), tier.PutOptions{}); err != nil {
		b.Fatal(err)
	}
	id := w.Summary().ID
	b.ReportAllocs()
	for b.Loop() {
		s.gets = nil
		for range 10_000 {
			sum, err := object.Open(bg, s, id, 0)
			if err != nil {
				b.Fatal(err)
			}
			o := NewObject(sum, "", func(r *object.Run) (record.PartitionID, bool) { return r.Partition, true })
			if len(o.Encode(nil)) == 0 || len(o.Runs) != 100 {
				b.Fatal(fmt.Sprint(o))
			}
		}
	}
}

func BenchmarkFind(b *testing.B) {
	m := NewManifest()
	for _, o := range millionRuns() {
		if err := m.Apply(o.Shard, o.Key(), o.Encode(nil)); err != nil {
			b.Fatal(err)
		}
	}
	i := record.Offset(0)
	b.ReportAllocs()
	for b.Loop() {
		i = (i + 7919) % 1_000_000
		if !m.Covers(record.PartitionID(i%1000), i) {
			b.Fatal(i)
		}
		if _, ok := m.find(record.PartitionID(i%1000), i); !ok {
			b.Fatal(i)
		}
	}
}
