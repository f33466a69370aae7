package compress

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/pierrec/lz4/v4"
	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var codecs = []record.Codec{record.Uncompressed, record.Gzip, record.Snappy, record.LZ4, record.Zstd}

// levels are one setting of each strength, and some that do not exist.
var levels = map[record.Codec][]int{
	record.Uncompressed: {0}, record.Gzip: {0, 1, 6, 9, 99, -5}, record.Snappy: {0, 7},
	record.LZ4: {0, 1, 5, 9, 17, -1}, record.Zstd: {0, -131072, 1, 3, 7, 19, 22},
}

func eachSetting(f func(s Settings)) {
	for _, c := range codecs {
		for _, l := range levels[c] {
			f(Settings{c, l})
		}
	}
}

// text is n bytes that compress as messages do, noise is n bytes that do not.
func text(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, `{"sensor":%d,"temperature":%d.5,"unit":"celsius"}`, i%97, 20+i%13)
	}
	return b.Bytes()[:n]
}

func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// collect writes down the records of a batch.
func collect(t testing.TB, b record.Batch) string {
	t.Helper()
	var s strings.Builder
	r := b.Records()
	for r.Next() {
		rec := r.Record()
		fmt.Fprintf(&s, "%d %d %q %q %x\n", rec.Offset, rec.Timestamp, rec.Key, rec.Value, rec.Headers.Raw())
	}
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	return s.String()
}

// vectors are batches that Kafka's Java client made of the same records with each codec: "codec count hex" a line.
func vectors(t testing.TB) (byCount map[string][]record.Batch) {
	t.Helper()
	file, err := os.ReadFile("testdata/java.txt")
	if err != nil {
		t.Fatal(err)
	}
	byCount = map[string][]record.Batch{}
	for line := range strings.Lines(string(file)) {
		f := strings.Fields(line)
		b, err := hex.DecodeString(f[2])
		if err != nil {
			t.Fatal(err)
		}
		if got := record.Batch(b).Attributes().Codec().String(); got != f[0] {
			t.Fatalf("%s is %s", f[0], got)
		}
		byCount[f[1]] = append(byCount[f[1]], b)
	}
	return byCount
}

func TestJavaVectors(t *testing.T) {
	for count, list := range vectors(t) {
		if len(list) != len(codecs) {
			t.Fatalf("%d vectors of %s records", len(list), count)
		}
		plain := list[0]
		for _, b := range list {
			got, err := OpenBatch([]byte("before"), b, 1<<20)
			if err != nil {
				t.Fatalf("%v, %s records: %v", b.Attributes().Codec(), count, err)
			}
			open := record.Batch(got[6:])
			if err := open.Verify(); err != nil || !bytes.Equal(open, plain) || string(got[:6]) != "before" {
				t.Errorf("%v, %s records: %v\n%s, want\n%s", b.Attributes().Codec(), count, err, collect(t, open), collect(t, plain))
			}
		}
	}
}

func TestBatchRoundTrip(t *testing.T) {
	var w record.BatchBuilder
	w.Begin(nil, 1000)
	for i := range 500 {
		w.Append(&record.Input{OffsetDelta: int32(i), Timestamp: 1000 + int64(i), Key: []byte("k"), Value: text(100)})
	}
	plain := record.Batch(w.Finish(&record.BatchOptions{BaseOffset: 77, LeaderEpoch: 5, Attributes: record.Transactional,
		Producer: record.Producer{Known: true, ID: 4, Epoch: 2, Sequence: 9}}))
	eachSetting(func(s Settings) {
		b := AppendBatch([]byte("before"), s, plain)
		sealed, n, err := record.ParseBatch(b[6:])
		if err != nil || n != len(b)-6 || sealed.Verify() != nil || sealed.Attributes().Codec() != s.Codec {
			t.Fatalf("%+v: %v, codec %v", s, err, sealed.Attributes().Codec())
		}
		if s.Codec != record.Uncompressed && len(sealed) > len(plain)/5 {
			t.Errorf("%+v: %d of %d bytes", s, len(sealed), len(plain))
		}
		open, err := OpenBatch(nil, sealed, len(plain))
		if err != nil || !bytes.Equal(open, plain) {
			t.Errorf("%+v: %v", s, err)
		}
		if _, err := OpenBatch(nil, sealed, len(plain)-record.BatchHeaderSize-1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: a byte less than needed: %v", s, err)
		}
	})
}

func TestRoundTrip(t *testing.T) {
	var inputs [][]byte
	for _, n := range []int{0, 1, 17, xerialBlock - 1, xerialBlock, xerialBlock + 1, 65536, 200_000} {
		inputs = append(inputs, text(n), noise(n), make([]byte, n))
	}
	eachSetting(func(s Settings) {
		for i, in := range inputs {
			sealed := Append([]byte("x"), s, in)
			if sealed[0] != 'x' {
				t.Fatalf("%+v: what was there is gone", s)
			}
			got, err := Open([]byte("y"), s.Codec, sealed[1:], len(in))
			if err != nil || got[0] != 'y' || !bytes.Equal(got[1:], in) {
				t.Fatalf("%+v, input %d of %d bytes: %v, %d bytes", s, i, len(in), err, len(got)-1)
			}
			if len(in) == 0 {
				continue
			}
			if got, err := Open([]byte("y"), s.Codec, sealed[1:], len(in)-1); !errors.Is(err, ErrTooLarge) || string(got) != "y" {
				t.Fatalf("%+v, input %d of %d bytes, a byte less allowed: %v, %d bytes", s, i, len(in), err, len(got)-1)
			}
		}
	})
	if _, err := Open(nil, 5, []byte("x"), 10); !errors.Is(err, ErrCodec) {
		t.Error(err)
	}
	for _, c := range codecs {
		sealed := Append(nil, Settings{Codec: c}, []byte("x"))
		if _, err := Open(nil, c, sealed, -1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v, a limit below 0: %v", c, err)
		}
		if got, err := Open(nil, c, sealed, math.MaxInt); err != nil || string(got) != "x" {
			t.Errorf("%v, no limit: %q, %v", c, got, err)
		}
	}
}

// TestSnappyForms: a block without a stream, as librdkafka and others write, and streams that were joined.
func TestSnappyForms(t *testing.T) {
	in := text(50_000)
	joined := append(Append(nil, Settings{Codec: record.Snappy}, in[:40_000]), Append(nil, Settings{Codec: record.Snappy}, in[40_000:])...)
	for name, b := range map[string][]byte{"block": s2.EncodeSnappy(nil, in), "joined": joined} {
		if got, err := Open(nil, record.Snappy, b, len(in)); err != nil || !bytes.Equal(got, in) {
			t.Errorf("%s: %v, %d bytes", name, err, len(got))
		}
	}
	if got, err := Open(nil, record.Snappy, []byte("\x05\x10hello"), 5); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestCut cuts what each codec writes at every byte. Only a stream of snappy can end between blocks: it has no end of its own.
func TestCut(t *testing.T) {
	in := append(text(40_000), noise(300)...)
	for _, c := range codecs[1:] {
		sealed := Append(nil, Settings{Codec: c}, in)
		for n := range sealed {
			got, err := Open(nil, c, sealed[:n:n], len(in))
			if err == nil && (c != record.Snappy || len(got) >= len(in) || !bytes.HasPrefix(in, got) || len(got)%xerialBlock != 0) {
				t.Fatalf("%v cut at %d of %d opens to %d bytes", c, n, len(sealed), len(got))
			}
			if err != nil && !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v cut at %d: %v", c, n, err)
			}
		}
	}
}

// TestBombs: what opens to 100 MiB costs no more than the limit.
func TestBombs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates; plain builds run this")
	}
	const limit = 1 << 20
	zeros := make([]byte, 100<<20)
	bombs := map[string][]byte{}
	for _, c := range codecs[1:] {
		bombs[c.String()] = Append(nil, Settings{Codec: c}, zeros)
	}
	bombs["snappy block"] = s2.EncodeSnappy(nil, zeros)
	for name, b := range bombs {
		c := record.Gzip
		for !strings.HasPrefix(name, c.String()) {
			c++
		}
		var before, after runtime.MemStats
		for range 2 { // the first one fills the pools
			runtime.ReadMemStats(&before)
			if _, err := Open(nil, c, b, limit); !errors.Is(err, ErrTooLarge) {
				t.Errorf("%s: %v", name, err)
			}
			runtime.ReadMemStats(&after)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 4*limit {
			t.Errorf("%s of %d bytes costs %d bytes", name, len(b), n)
		}
	}
}

// TestLies has inputs that announce what they do not have.
func TestLies(t *testing.T) {
	lz4Frame := Append(nil, Settings{Codec: record.LZ4}, text(1000))
	change := func(at int, v byte) []byte {
		b := bytes.Clone(lz4Frame)
		b[at] = v
		return b
	}
	var legacy bytes.Buffer
	w := lz4.NewWriter(&legacy)
	if err := w.Apply(lz4.LegacyOption(true)); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(text(1000))
	_ = w.Close()
	for _, c := range []struct {
		name  string
		codec record.Codec
		b     []byte
	}{
		{"empty", record.Gzip, nil},
		{"empty", record.Snappy, nil},
		{"empty", record.LZ4, nil},
		{"empty", record.Zstd, nil},
		{"block of 4 GiB", record.Snappy, []byte{0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0, 'x'}},
		{"block of 1 MiB in 10 bytes", record.Snappy, binary.AppendUvarint(nil, 1<<20)},
		{"stream without its header", record.Snappy, xerialHeader[:9]},
		{"stream of a block that is not there", record.Snappy, append(bytes.Clone(xerialHeader), 0, 0, 0, 9, 1)},
		{"stream of a length below 0", record.Snappy, append(bytes.Clone(xerialHeader), 0xFF, 0xFF, 0xFF, 0xFF, 1)},
		{"legacy frame", record.LZ4, legacy.Bytes()},
		{"no magic", record.LZ4, change(0, 5)},
		{"version 2", record.LZ4, change(4, 0xA0)},
		{"dependent blocks", record.LZ4, change(4, 0x40)},
		{"frame descriptor's checksum", record.LZ4, change(6, lz4Frame[6]^1)},
		// Frames of one segment, with an empty block.
		{"frame of 2^29 bytes", record.Zstd, []byte{0x28, 0xB5, 0x2F, 0xFD, 0xA0, 0, 0, 0, 0x20, 1, 0, 0}},
		{"frame of 2^62 bytes", record.Zstd, []byte{0x28, 0xB5, 0x2F, 0xFD, 0xE0, 0, 0, 0, 0, 0, 0, 0, 0x40, 1, 0, 0}},
		{"no magic", record.Zstd, []byte("something")},
		{"no magic", record.Gzip, []byte("something else")},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := Open([]byte("kept"), c.codec, c.b, 1<<30)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooLarge) || string(got) != "kept" {
			t.Errorf("%v, %s: %v, %q", c.codec, c.name, err, got)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 && !testx.RaceEnabled {
			t.Errorf("%v, %s costs %d bytes", c.codec, c.name, n)
		}
	}
}

func TestAllocs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates; plain builds run this")
	}
	in := text(100_000)
	room := make([]byte, 0, 300_000)
	for _, c := range codecs {
		s := Settings{Codec: c}
		sealed := Append(nil, s, in)
		if n := testing.AllocsPerRun(50, func() { Append(room, s, in) }); n >= 1 {
			t.Errorf("%v: compressing has %v allocations", c, n)
		}
		if n := testing.AllocsPerRun(50, func() {
			if _, err := Open(room, c, sealed, len(in)); err != nil {
				t.Fatal(err)
			}
		}); n >= 1 {
			t.Errorf("%v: opening has %v allocations", c, n)
		}
	}
}

// TestTogether: what is taken from the pools is nobody else's.
func TestTogether(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			in := text(5000 + 1000*i)
			for range 20 {
				for _, c := range codecs {
					sealed := Append(nil, Settings{Codec: c}, in)
					if got, err := Open(nil, c, sealed, len(in)); err != nil || !bytes.Equal(got, in) {
						t.Errorf("%v: %v", c, err)
					}
					if _, err := Open(nil, c, sealed[:len(sealed)/2], len(in)); c != record.Uncompressed && err == nil {
						t.Errorf("%v: half of it opens", c)
					}
				}
			}
		})
	}
	wg.Wait()
}

func FuzzOpen(f *testing.F) {
	for _, list := range vectors(f) {
		for _, b := range list {
			f.Add(byte(b.Attributes().Codec()), []byte(b[record.BatchHeaderSize:]), uint16(3000))
		}
	}
	f.Add(byte(record.Snappy), s2.EncodeSnappy(nil, text(1000)), uint16(1000))
	f.Fuzz(func(t *testing.T, codec byte, src []byte, limit uint16) {
		c := record.Codec(codec % 6)
		before := bytes.Clone(src)
		got, err := Open([]byte("kept"), c, src, int(limit))
		if !bytes.Equal(before, src) {
			t.Fatal("opening changed the input")
		}
		if string(got[:4]) != "kept" || (err != nil && len(got) != 4) || len(got)-4 > int(limit) {
			t.Fatalf("%v: %d bytes of at most %d, %v", c, len(got)-4, limit, err)
		}
		if err == nil && c.Known() {
			// What a decoder has left behind does not show in the next output.
			if again, err := Open(nil, c, src, int(limit)); err != nil || !bytes.Equal(again, got[4:]) {
				t.Fatalf("%v: the second time %d bytes, %v", c, len(again), err)
			}
		}
	})
}

func FuzzAppend(f *testing.F) {
	f.Add(byte(1), 0, text(100))
	f.Add(byte(4), 22, noise(1000))
	f.Fuzz(func(t *testing.T, codec byte, level int, in []byte) {
		s := Settings{record.Codec(codec % 5), level}
		got, err := Open(nil, s.Codec, Append(nil, s, in), len(in))
		if err != nil || !bytes.Equal(got, in) {
			t.Fatalf("%+v: %v", s, err)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	in := text(64 << 10)
	room := make([]byte, 0, 128<<10)
	for _, c := range codecs[1:] {
		sealed := Append(nil, Settings{Codec: c}, in)
		b.Run(c.String(), func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Open(room, c, sealed, len(in)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	in := text(64 << 10)
	room := make([]byte, 0, 128<<10)
	for _, c := range codecs[1:] {
		b.Run(c.String(), func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n = len(Append(room, Settings{Codec: c}, in))
			}
			b.ReportMetric(float64(len(in))/float64(n), "ratio")
		})
	}
}
