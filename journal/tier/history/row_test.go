package history

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/journal/tier/object"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func someObject() *Object {
	return &Object{
		ID: object.ID{Tenant: 1, Shard: 3, Epoch: 10, Sequence: 47}, Size: 64 << 20, Tail: 4096, Created: 1_700_000_000_000, Class: "STANDARD_IA",
		Runs: []Run{
			{Partition: 7, Index: 0, First: 100, Last: 199, MaxTime: 1_699_999_999_000, Bytes: 1000, Blocks: 1},
			{Partition: math.MaxUint64, Index: 2, First: 0, Last: 0, MaxTime: object.NoTime, Bytes: 70, Blocks: 1, Flags: object.Clean},
			{Partition: 9, Index: math.MaxInt32, First: math.MaxInt64 - 2, Last: math.MaxInt64 - 1, MaxTime: math.MaxInt64, Bytes: 64 << 20, Blocks: math.MaxInt32},
		},
	}
}

func TestRow(t *testing.T) {
	o := someObject()
	got, err := Decode(o.Key(), o.Encode(nil))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(o, got); d != "" {
		t.Error(d)
	}
	e := Epoch{Epoch: math.MaxInt32, Created: 5, Store: "s3 http://minio:9000/vault"}
	if got, err := DecodeEpoch(e.Key(), e.Encode(nil)); err != nil || got != e {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestRowBytes pins the form that docs/format/manifest.md draws.
func TestRowBytes(t *testing.T) {
	o := &Object{
		ID: object.ID{Tenant: 1, Shard: 3, Epoch: 10, Sequence: 47}, Size: 300, Tail: 200, Created: 1000, Class: "IA",
		Runs: []Run{{Partition: 7, Index: 1, First: 100, Last: 109, MaxTime: 999, Bytes: 36, Blocks: 1}},
	}
	if got, want := string(o.Key()), "o\x00\x00\x00\x01\x00\x03\x00\x00\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x2f"; got != want {
		t.Errorf("key %x", got)
	}
	if got, want := string(o.Encode(nil)), "\x01\xac\x02\xc8\x01\xe8\x07\x02IA\x01\x07\x01\x64\x09\x01\x24\x01"; got != want {
		t.Errorf("value %x", got)
	}
	o.Runs[0].Flags = object.Sparse | object.Clean
	if got, want := string(o.Encode(nil)), "\x02\xac\x02\xc8\x01\xe8\x07\x02IA\x01\x07\x01\x64\x09\x01\x24\x01\x03"; got != want {
		t.Errorf("value with flags %x", got)
	}
	e := Epoch{Epoch: 10, Created: 1000, Store: "hdfs"}
	if got, want := string(e.Key())+string(e.Encode(nil)), "e\x00\x00\x00\x0a\x01\xe8\x07\x04hdfs"; got != want {
		t.Errorf("epoch %x", got)
	}
}

func TestRowRefuses(t *testing.T) {
	o := someObject()
	key, value := o.Key(), o.Encode(nil)
	for n := range value {
		if _, err := Decode(key, value[:n]); !errors.Is(err, ErrRow) {
			t.Fatalf("%d of %d bytes: %v", n, len(value), err)
		}
	}
	if _, err := Decode(key, append(value, 0)); !errors.Is(err, ErrRow) {
		t.Errorf("a byte too many: %v", err)
	}
	if _, err := Decode(key[1:], value); !errors.Is(err, ErrRow) {
		t.Errorf("a bad key: %v", err)
	}
	for what, change := range map[string]func(*Object){
		"no runs":           func(o *Object) { o.Runs = nil },
		"index twice":       func(o *Object) { o.Runs[1].Index = 0 },
		"tail above size":   func(o *Object) { o.Tail = o.Size + 1 },
		"bytes above size":  func(o *Object) { o.Runs[0].Bytes = o.Size + 1 },
		"last before first": func(o *Object) { o.Runs[0].Last = o.Runs[0].First - 1 },
		"other flags":       func(o *Object) { o.Runs[0].Flags = 128 },
		"no blocks":         func(o *Object) { o.Runs[0].Blocks = 0 },
		"no bytes":          func(o *Object) { o.Runs[0].Bytes = 0 },
		"negative offset":   func(o *Object) { o.Runs[0].First = -1 },
		"long class":        func(o *Object) { o.Class = string(make([]byte, MaxClass+1)) },
		"negative epoch":    func(o *Object) { o.ID.Epoch = -1 },
		"too many runs":     func(o *Object) { o.Runs = make([]Run, MaxRuns+1) },
	} {
		o := someObject()
		change(o)
		if err := o.Check(); !errors.Is(err, ErrRow) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := Decode(o.Key(), o.Encode(nil)); !errors.Is(err, ErrRow) {
			t.Errorf("decoded with %s: %v", what, err)
		}
	}
}

// TestRowBound: a row of the most runs with the largest numbers fits a command of 1 MiB.
func TestRowBound(t *testing.T) {
	o := &Object{ID: object.ID{Epoch: 1}, Size: math.MaxInt64, Tail: 1, Runs: make([]Run, MaxRuns)}
	for i := range o.Runs {
		o.Runs[i] = Run{Partition: math.MaxUint64, Index: i, First: 1, Last: math.MaxInt64 - 1, MaxTime: math.MaxInt64, Bytes: math.MaxInt64, Blocks: math.MaxInt32}
	}
	o.Runs[MaxRuns-1].Index = math.MaxInt32
	if n := len(o.Encode(nil)); n > 1<<20 || n > MaxRuns*maxRunSize+100 {
		t.Errorf("a row of %d bytes", n)
	}
	if err := o.Check(); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	o := someObject()
	f.Add(o.Key(), o.Encode(nil))
	o.Runs = o.Runs[:1]
	f.Add(o.Key(), o.Encode(nil))
	e := Epoch{Epoch: 10, Created: 1000, Store: "hdfs"}
	f.Add(e.Key(), e.Encode(nil))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if o, err := Decode(key, value); err == nil {
			again, err := Decode(o.Key(), o.Encode(nil))
			if err != nil || !cmp.Equal(o, again) || string(o.Key()) != string(key) {
				t.Fatalf("%+v came back as %+v, %v", o, again, err)
			}
		}
		if e, err := DecodeEpoch(key, value); err == nil {
			again, err := DecodeEpoch(e.Key(), e.Encode(nil))
			if err != nil || e != again {
				t.Fatalf("%+v came back as %+v, %v", e, again, err)
			}
		}
		m := NewManifest()
		if err := m.Apply(1, key, value); err == nil && value != nil {
			if err := m.Apply(1, key, m.Value(1, key)); err != nil {
				t.Fatal(err)
			}
			for _, p := range m.Partitions() {
				start, end, ok := m.Bounds(p)
				if !ok || start >= end || !m.Covers(p, start) || m.Covers(p, end) || m.Size(p) <= 0 {
					t.Fatalf("partition %d: %d, %d, %v", p, start, end, ok)
				}
			}
		}
	})
}
