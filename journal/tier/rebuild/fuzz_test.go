package rebuild

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// ends is a store of objects of which the ends are there alone: rebuilding reads no others.
type ends struct {
	tier.Store
	names []string
	tails map[string][]byte
	size  int64
}

func (e *ends) List(context.Context, string, string, int) (page []tier.Info, more bool, err error) {
	for _, name := range e.names {
		page = append(page, tier.Info{Name: name, Size: e.size})
	}
	return page, false, nil
}

func (e *ends) Get(_ context.Context, name string, r tier.Range) (io.ReadCloser, tier.Info, error) {
	off, n, err := r.In(e.size)
	if err != nil {
		return nil, tier.Info{}, &tier.Error{Store: "ends", Op: "get", Name: name, Kind: tier.BadRange}
	}
	b := e.tails[name]
	at := off - (e.size - int64(len(b)))
	if at < 0 {
		b, at = append(make([]byte, -at), b...), 0
	}
	return io.NopCloser(bytes.NewReader(b[at : at+n])), tier.Info{Name: name, Size: e.size}, nil
}

// FuzzScan: objects whose tails have the right checksums, whatever they say, are damaged by name, or make topics whose partitions can be.
func FuzzScan(f *testing.F) {
	tail := func(write func(*world)) ([]byte, int64) {
		w := newWorld(f)
		write(w)
		for name := range w.put {
			b := w.bytes(name)
			sum, err := object.ParseTail(name, b[tailAt(b):], int64(len(b)))
			if err != nil {
				f.Fatal(err)
			}
			return b[int64(len(b))-sum.Tail:], int64(len(b))
		}
		return nil, 0
	}
	b, size := tail(func(w *world) {
		w.write(0, 1, run{topic: 1, name: "a", first: 10, last: 19, aborted: []object.Aborted{{ProducerID: 9, First: 12, Last: 18, LastStable: 12}}},
			run{topic: 1, name: "a", index: 2, first: 0, last: 4, flags: object.Sparse | object.Clean | object.Replaces | object.Begins})
	})
	f.Add(b, b, size)
	for _, index := range []uint32{0xffffffff, 0x7fffffff} { // of no topic, and of one that is very large
		odd := bytes.Clone(b)
		binary.LittleEndian.PutUint32(odd[24:], index)
		f.Add(odd, b, size)
	}
	f.Fuzz(func(t *testing.T, one, two []byte, size int64) {
		e := &ends{names: []string{"00000000/0000/00000001-0000000000000001", "00000000/0001/00000002-0000000000000001"}, tails: make(map[string][]byte), size: size}
		for i, raw := range [][]byte{one, two} {
			if int64(len(raw)) > size || size > 1<<20 || size < 0 {
				t.Skip()
			}
			e.tails[e.names[i]] = sealed(raw)
		}
		found, err := Scan(t.Context(), e, Options{Tries: 1, Parallel: 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range found.Damaged {
			if !strings.Contains(err.Error(), "00000000/000") {
				t.Fatalf("it has no name: %v", err)
			}
		}
		for _, o := range found.Objects {
			for _, r := range o.Runs {
				if p := found.Parts[r.Partition]; r.First < p.Start || r.Last >= p.End {
					t.Fatalf("%s has %d to %d of a partition from %d to %d", o.ID.Name(), r.First, r.Last, p.Start, p.End)
				}
			}
		}
		for _, topic := range found.Topics {
			last := int32(-1)
			for _, p := range topic.Parts {
				if p.Index <= last || p.Topic != topic || p.Start < 0 || p.Start >= p.End || p.Bytes <= 0 {
					t.Fatalf("%+v", p)
				}
				last = p.Index
			}
		}
	})
}

// tailAt is where an object's tail begins, as its end says.
func tailAt(b []byte) int64 { return int64(binary.LittleEndian.Uint64(b[len(b)-40:])) }

// sealed is a tail with its checksum.
func sealed(b []byte) []byte {
	b = bytes.Clone(b)
	if n := len(b) - 48; n >= 0 {
		binary.LittleEndian.PutUint32(b[n+36:], crc32.Checksum(b[:n+36], crc32.MakeTable(crc32.Castagnoli)))
	}
	return b
}
