package object

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/localtier"
)

var (
	ctx    = context.Background()
	update = flag.Bool("update", false, "write testdata/golden.hex anew")
)

// source gives the runs' bytes: block k of run i is of one letter.
func source(sum *Summary) func(int) (io.ReadCloser, error) {
	return func(run int) (io.ReadCloser, error) {
		var b bytes.Buffer
		for k := range sum.Runs[run].Blocks {
			b.Write(blockBytes(sum, run, k))
		}
		return io.NopCloser(&b), nil
	}
}

func blockBytes(sum *Summary, run, k int) []byte {
	return bytes.Repeat([]byte{byte('a' + (run*7+k)%26)}, int(sum.Runs[run].Blocks[k].Bytes))
}

// small is the object of the golden file: two runs, one compacted with an aborted transaction.
func small(t testing.TB) *Writer {
	t.Helper()
	b := NewBuilder(ID{Tenant: 1, Shard: 3, Epoch: 10, Sequence: 47}, 1_700_000_000_000, Options{BlockBytes: 140})
	b.Run(Topic{ID: [16]byte{1, 2, 3, 15: 9}, Name: "orders", Index: 2, Partition: 77}, 0)
	b.Add(Extent{First: 100, Last: 109, MaxTime: 5000, Bytes: 70})
	b.Add(Extent{First: 110, Last: 119, MaxTime: 4000, Bytes: 70})
	b.Add(Extent{First: 120, Last: 120, MaxTime: 6000, Bytes: 61})
	b.Run(Topic{ID: [16]byte{4}, Name: "é", Index: 0, Partition: 78}, Sparse)
	b.Add(Extent{First: 5, Last: 5, MaxTime: NoTime, Bytes: 78})
	b.Abort(Aborted{ProducerID: 1000, First: 1, Last: 5, LastStable: 4})
	w, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func bytesOf(t testing.TB, w *Writer) []byte {
	t.Helper()
	sum := w.Summary()
	r := w.Reader(source(&sum))
	b, err := io.ReadAll(r)
	if err != nil || r.Close() != nil || int64(len(b)) != w.Size() {
		t.Fatalf("%d bytes of %d, %v", len(b), w.Size(), err)
	}
	return b
}

func TestGolden(t *testing.T) {
	b := bytesOf(t, small(t))
	have := hex.Dump(b)
	if *update {
		if err := os.WriteFile("testdata/golden.hex", []byte(have), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/golden.hex")
	if err != nil {
		t.Fatal(err)
	}
	if have != string(want) {
		t.Errorf("the format has changed: objects that are stored could not be read. It is now\n%s", have)
	}
}

func TestNames(t *testing.T) {
	id := ID{Tenant: 1, Shard: 3, Epoch: 10, Sequence: 47}
	if got := id.Name(); got != "00000001/0003/0000000a-000000000000002f" || tier.CheckName(got) != nil || !strings.HasPrefix(got, ShardPrefix(1, 3)) {
		t.Error(got)
	}
	if got, ok := ParseName(id.Name()); !ok || got != id {
		t.Error(got, ok)
	}
	for _, bad := range []string{"", "1/3/a-2f", "00000001/0003/0000000A-000000000000002f", "00000001/0003/0000000a-000000000000002f/x", "00000001/0003/0000000a/000000000000002f",
		"00000001/0003/ffffffff-000000000000002f", "x"} {
		if id, ok := ParseName(bad); ok {
			t.Errorf("%q is %+v", bad, id)
		}
	}
}

// counting counts the requests for ranges.
type counting struct {
	tier.Store
	gets int
}

func (c *counting) Get(ctx context.Context, name string, r tier.Range) (io.ReadCloser, tier.Info, error) {
	c.gets++
	return c.Store.Get(ctx, name, r)
}

func store(t testing.TB) *counting {
	t.Helper()
	s, err := localtier.Open(ctx, localtier.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return &counting{Store: s}
}

// TestRoundTrip puts objects of any shape and reads them back: one Get for the tail, one for blocks that lie together.
func TestRoundTrip(t *testing.T) {
	s := store(t)
	rnd := rand.New(rand.NewPCG(3, 4))
	for n := range 30 {
		b := NewBuilder(ID{Tenant: 9, Shard: record.ShardID(n), Epoch: 1, Sequence: uint64(n)}, 77, Options{BlockBytes: 1 + rnd.Int64N(3000)})
		for run := range 1 + rnd.IntN(40) {
			b.Run(Topic{ID: [16]byte{byte(run)}, Name: strings.Repeat("n", rnd.IntN(20)), Index: int32(run), Partition: record.PartitionID(run)}, RunFlags(rnd.IntN(16)))
			at := record.Offset(rnd.Int64N(1000))
			for range 1 + rnd.IntN(10) {
				last := at + record.Offset(rnd.Int64N(50))
				b.Add(Extent{First: at, Last: last, MaxTime: rnd.Int64N(100), Bytes: 61 + rnd.Int64N(2000)})
				if rnd.IntN(5) == 0 {
					b.Abort(Aborted{ProducerID: 5, First: at, Last: last})
				}
				at = last + 1 + record.Offset(rnd.Int64N(3))
			}
		}
		w, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		want := w.Summary()
		if err := s.Put(ctx, w.Name(), w.Reader(source(&want)), w.Size(), tier.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
		s.gets = 0
		got, err := Open(ctx, s, want.ID, want.Tail)
		if err != nil || s.gets != 1 {
			t.Fatalf("%d gets, %v", s.gets, err)
		}
		want.Created = 0 // stands in the header, which is not read
		if !reflect.DeepEqual(*got, want) {
			t.Fatalf("%+v\nnot\n%+v", *got, want)
		}
		run := rnd.IntN(len(got.Runs))
		r := &got.Runs[run]
		from := rnd.IntN(len(r.Blocks))
		s.gets = 0
		count := 0
		err = ReadBlocks(ctx, s, w.Name(), r, from, len(r.Blocks)-from, func(i int, b []byte) error {
			if count++; !bytes.Equal(b, blockBytes(&want, run, i)) {
				return fmt.Errorf("block %d has other bytes", i)
			}
			return nil
		})
		if err != nil || s.gets != 1 || count != len(r.Blocks)-from {
			t.Fatalf("%d gets, %d blocks, %v", s.gets, count, err)
		}
	}
}

// TestLongTail: a tail that is longer than what was read for it takes one Get more; a wrong size from a manifest does no harm.
func TestLongTail(t *testing.T) {
	s := store(t)
	w := small(t)
	sum := w.Summary()
	if err := s.Put(ctx, w.Name(), w.Reader(source(&sum)), w.Size(), tier.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for tail, gets := range map[int64]int{trailerSize: 2, trailerSize + 1: 2, sum.Tail - 1: 2, sum.Tail: 1, sum.Tail + 10: 1, 1 << 30: 1, 0: 1} {
		s.gets = 0
		got, err := Open(ctx, s, sum.ID, tail)
		if err != nil || s.gets != gets || len(got.Runs) != 2 {
			t.Errorf("%d bytes of the tail: %d gets, %v", tail, s.gets, err)
		}
	}
	if _, err := Open(ctx, s, ID{}, 0); !errors.Is(err, tier.ErrNotFound) {
		t.Error(err)
	}
}

func TestIndexes(t *testing.T) {
	w := small(t)
	b := bytesOf(t, w)
	sum, err := ParseTail("x", b[w.Size()-w.Summary().Tail:], w.Size())
	if err != nil {
		t.Fatal(err)
	}
	r := &sum.Runs[0]
	for o, want := range map[record.Offset]int{0: 0, 100: 0, 119: 0, 120: 1, 121: 2} {
		if got := r.BlockAt(o); got != want {
			t.Errorf("offset %d is in block %d, not %d", o, got, want)
		}
	}
	for at, want := range map[int64]int{0: 0, 5000: 0, 5001: 1, 6000: 1, 6001: 2} {
		if got := r.BlockSince(at); got != want {
			t.Errorf("time %d begins in block %d, not %d", at, got, want)
		}
	}
	a := &sum.Runs[1]
	if n := len(a.AbortedIn(nil, 0, 0)) + len(a.AbortedIn(nil, 6, 9)); n > 0 || len(a.AbortedIn(nil, 5, 9)) != 1 || len(a.AbortedIn(nil, 0, 1)) != 1 {
		t.Error("aborted transactions")
	}
	id, created, size, err := ParseHeader(w.Name(), b)
	if err != nil || id != w.Summary().ID || created != 1_700_000_000_000 || size != w.Size() {
		t.Error(id, created, size, err)
	}
	if _, _, _, err := ParseHeader("other", b); !errors.Is(err, ErrCorrupt) {
		t.Errorf("an object under another's name: %v", err)
	}
}

// TestDamage flips each byte, and cuts everywhere: an error that tells it, or the same answer; never another.
func TestDamage(t *testing.T) {
	w := small(t)
	b := bytesOf(t, w)
	from := w.Size() - w.Summary().Tail
	for i := from; i < w.Size(); i++ {
		c := bytes.Clone(b)
		c[i] ^= 0x40
		if _, err := ParseTail("x", c[from:], w.Size()); err == nil {
			t.Errorf("a flip at %d is not seen", i)
		}
	}
	for n := range len(b) {
		if _, err := ParseTail("x", b[min(from, int64(n)):n], int64(n)); err == nil {
			t.Errorf("cut to %d bytes, and not seen", n)
		}
	}
	for i := range headerSize {
		c := bytes.Clone(b)
		c[i] ^= 0x40
		if _, _, _, err := ParseHeader(w.Name(), c); err == nil {
			t.Errorf("a flip at %d of the header is not seen", i)
		}
	}
	s := store(t)
	sum := w.Summary()
	for i := int64(headerSize); i < from; i++ {
		c := bytes.Clone(b)
		c[i] ^= 0x40
		if i%20 != 0 {
			continue
		}
		if err := s.Put(ctx, w.Name(), bytes.NewReader(c), w.Size(), tier.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		bad := 0
		for k := range sum.Runs {
			err := ReadBlocks(ctx, s, w.Name(), &sum.Runs[k], 0, len(sum.Runs[k].Blocks), func(int, []byte) error { return nil })
			if errors.Is(err, ErrCorrupt) {
				bad++
			}
		}
		if bad != 1 {
			t.Errorf("a flip at %d: %d runs are corrupt", i, bad)
		}
	}
}

// seal gives a tail the right checksum again.
func seal(b []byte) {
	if len(b) >= trailerSize {
		t := len(b) - trailerSize
		binary.LittleEndian.PutUint32(b[t+36:], crc32.Checksum(b[:t+36], castagnoli))
	}
}

// TestHostile sets each number of a tail to what it cannot be, with the right checksum.
func TestHostile(t *testing.T) {
	w := small(t)
	sum := w.Summary()
	all := bytesOf(t, w)
	b := all[w.Size()-sum.Tail:]
	same := 0
	for i := 0; i+8 <= len(b)-8; i += 4 {
		for _, v := range []uint64{0, 1, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 40, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
			for _, wide := range []bool{false, true} {
				c := bytes.Clone(b)
				if wide {
					binary.LittleEndian.PutUint64(c[i:], v)
				} else {
					binary.LittleEndian.PutUint32(c[i:], uint32(v))
				}
				seal(c)
				got, err := ParseTail("x", c, w.Size())
				if err != nil {
					continue
				}
				same++
				check(t, got)
			}
		}
	}
	t.Logf("%d changes left a tail that holds together", same)
}

// check makes sure of what ParseTail promises.
func check(t *testing.T, s *Summary) {
	t.Helper()
	pos := int64(headerSize)
	for _, r := range s.Runs {
		if r.Pos != pos || len(r.Blocks) == 0 || r.First < 0 || r.Last < r.First {
			t.Fatalf("run %+v at %d", r, pos)
		}
		last := r.First - 1
		for _, b := range r.Blocks {
			if b.Pos != pos || b.Bytes <= 0 || b.First <= last || b.Last < b.First {
				t.Fatalf("block %+v behind %d at %d", b, last, pos)
			}
			pos, last = pos+int64(b.Bytes), b.Last
		}
		if last != r.Last {
			t.Fatalf("run %+v ends with %d", r, last)
		}
	}
	if pos != s.Size-s.Tail {
		t.Fatalf("data ends at %d, tail begins at %d", pos, s.Size-s.Tail)
	}
}

func TestBuilderRefuses(t *testing.T) {
	good := Extent{First: 10, Last: 19, Bytes: 100}
	for name, f := range map[string]func(*Builder){
		"nothing":          func(*Builder) {},
		"an empty run":     func(b *Builder) { b.Run(Topic{}, 0) },
		"no run":           func(b *Builder) { b.Add(good) },
		"two, one empty":   func(b *Builder) { b.Run(Topic{}, 0); b.Run(Topic{}, 0); b.Add(good) },
		"back":             func(b *Builder) { b.Run(Topic{}, 0); b.Add(good); b.Add(Extent{First: 19, Last: 20, Bytes: 1}) },
		"no bytes":         func(b *Builder) { b.Run(Topic{}, 0); b.Add(Extent{First: 1, Last: 1}) },
		"last below first": func(b *Builder) { b.Run(Topic{}, 0); b.Add(Extent{First: 2, Last: 1, Bytes: 1}) },
		"negative":         func(b *Builder) { b.Run(Topic{}, 0); b.Add(Extent{First: -1, Last: 1, Bytes: 1}) },
		"a long name":      func(b *Builder) { b.Run(Topic{Name: strings.Repeat("x", MaxName+1)}, 0); b.Add(good) },
		"aborts go back": func(b *Builder) {
			b.Run(Topic{}, 0)
			b.Add(good)
			b.Abort(Aborted{Last: 5})
			b.Abort(Aborted{Last: 4})
		},
	} {
		b := NewBuilder(ID{}, 0, Options{})
		f(b)
		if w, err := b.Finish(); err == nil {
			t.Errorf("%s: %+v", name, w)
		}
	}
}

// TestSourceFails: a source that ends early or fails is an error of the Put, and a second try with the same layout is whole.
func TestSourceFails(t *testing.T) {
	s := store(t)
	w := small(t)
	sum := w.Summary()
	boom := errors.New("boom")
	for _, open := range []func(int) (io.ReadCloser, error){
		func(int) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("short")), nil },
		func(run int) (io.ReadCloser, error) {
			if run == 1 {
				return nil, boom
			}
			return source(&sum)(run)
		},
	} {
		r := w.Reader(open)
		if err := s.Put(ctx, w.Name(), r, w.Size(), tier.PutOptions{}); err == nil {
			t.Error("put all the same")
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.Stat(ctx, w.Name()); !errors.Is(err, tier.ErrNotFound) {
			t.Error(err)
		}
	}
	if err := s.Put(ctx, w.Name(), w.Reader(source(&sum)), w.Size(), tier.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, s, sum.ID, 0); err != nil {
		t.Fatal(err)
	}
}

func FuzzParseTail(f *testing.F) {
	w := small(f)
	b := bytesOf(f, w)
	f.Add(b[w.Size()-w.Summary().Tail:], w.Size(), true)
	f.Add(b, w.Size(), false)
	f.Add([]byte(tailMagic), int64(8), true)
	f.Fuzz(func(t *testing.T, b []byte, size int64, fix bool) {
		b = bytes.Clone(b)
		if fix {
			seal(b)
		}
		s, err := ParseTail("x", b, size)
		if err != nil {
			return
		}
		check(t, s)
		again := (&Writer{sum: *s, end: s.Size - s.Tail}).tail()
		got, err := ParseTail("x", again, size)
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Fatalf("written anew it is not the same: %v", err)
		}
	})
}
