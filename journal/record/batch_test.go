package record

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicemq/sluice/internal/testx"
)

// Both batches were made by another program after the description of magic 2 in Kafka's documentation ("Record Batch").
const (
	goldenBatch = "00000000000003e800000065000000030219c0eb870000000000040000018bcfe568000000018bcfe56801ffffffffffffffff" +
		"ffffffffffff000000032c00000018706c616e742f372f74656d700832312e350028000202010004106d7174742e716f730201026e010e" +
		"000908026b0100"
	// gzip, transactional, with a producer.
	goldenCompressed = "00000000000000070000005400000000022fb9895d0011000000010000018bcfe568000000018bcfe56800000000000000002a" +
		"000300000009000000021f8b080000000000020313606060604a644a621000d24046320300332936ca12000000"
)

const goldenTime = 1_700_000_000_000

// plain is a record without views, to be compared.
type plain struct {
	Offset     Offset
	Timestamp  int64
	Key, Value []byte
	Headers    []Header
}

func collect(t testing.TB, b Batch) []plain {
	t.Helper()
	var out []plain
	r := b.Records()
	for r.Next() {
		rec := r.Record()
		p := plain{Offset: rec.Offset, Timestamp: rec.Timestamp, Key: rec.Key, Value: rec.Value}
		for h := rec.Headers; h.Next(); {
			p.Headers = append(p.Headers, Header{Key: h.Key(), Value: h.Value()})
		}
		out = append(out, p)
	}
	if err := r.Err(); err != nil {
		t.Fatalf("after %d records: %v", len(out), err)
	}
	return out
}

func goldenInputs() []Input {
	return []Input{
		{OffsetDelta: 0, Timestamp: goldenTime, Key: []byte("plant/7/temp"), Value: []byte("21.5")},
		{OffsetDelta: 1, Timestamp: goldenTime + 1, Value: []byte{}, Headers: []Header{{[]byte("mqtt.qos"), []byte{1}}, {[]byte("n"), nil}}},
		{OffsetDelta: 4, Timestamp: goldenTime - 5, Key: []byte("k")},
	}
}

func build(ins []Input, base int64, o *BatchOptions) Batch {
	var bb BatchBuilder
	bb.Begin(nil, base)
	for i := range ins {
		bb.Append(&ins[i])
	}
	return Batch(bb.Finish(o))
}

func TestBatchGolden(t *testing.T) {
	src := unhex(t, goldenBatch)
	if got := build(goldenInputs(), goldenTime, &BatchOptions{BaseOffset: 1000, LeaderEpoch: 3}); !bytes.Equal(got, src) {
		t.Errorf("builds\n%x, want\n%x", got, src)
	}
	b, n, err := ParseBatch(append(bytes.Clone(src), "more"...))
	if err != nil || n != len(src) {
		t.Fatalf("n %d, %v", n, err)
	}
	if err := b.Verify(); err != nil {
		t.Fatal(err)
	}
	if b.BaseOffset() != 1000 || b.LastOffset() != 1004 || b.NextOffset() != 1005 || b.Count() != 3 || b.LeaderEpoch() != 3 ||
		b.BaseTimestamp() != goldenTime || b.MaxTimestamp() != goldenTime+1 || b.Attributes() != 0 || b.ProducerID() != NoProducer ||
		b.ProducerEpoch() != NoProducer || b.BaseSequence() != NoProducer || b.CRC() != 0x19c0eb87 {
		t.Errorf("header of %x", b[:BatchHeaderSize])
	}
	want := []plain{
		{1000, goldenTime, []byte("plant/7/temp"), []byte("21.5"), nil},
		{1001, goldenTime + 1, nil, []byte{}, []Header{{[]byte("mqtt.qos"), []byte{1}}, {[]byte("n"), nil}}},
		{1004, goldenTime - 5, []byte("k"), nil, nil},
	}
	if d := cmp.Diff(want, collect(t, b)); d != "" {
		t.Error(d)
	}
}

func TestBatchPlaced(t *testing.T) {
	b := build(goldenInputs(), goldenTime, &BatchOptions{})
	b.SetBaseOffset(1 << 40)
	b.SetLeaderEpoch(99)
	if err := b.Verify(); err != nil || b.LastOffset() != 1<<40+4 || b.LeaderEpoch() != 99 {
		t.Errorf("%v, last %d, epoch %d", err, b.LastOffset(), b.LeaderEpoch())
	}
	b.CorrectMaxTimestamp(3)
	if err := b.Verify(); err != nil || b.MaxTimestamp() != 3 || b.Attributes() != 0 {
		t.Errorf("%v, latest %d, attributes %x", err, b.MaxTimestamp(), b.Attributes())
	}
	b.SetMaxTimestamp(5)
	if err := b.Verify(); err != nil {
		t.Fatal(err)
	}
	for _, p := range collect(t, b) {
		if p.Timestamp != 5 {
			t.Errorf("offset %d has timestamp %d, the batch has 5 for all", p.Offset, p.Timestamp)
		}
	}
}

func TestBatchCompressed(t *testing.T) {
	b, _, err := ParseBatch(unhex(t, goldenCompressed))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(); err != nil {
		t.Error(err)
	}
	if b.Attributes().Codec() != Gzip || !Gzip.Known() || Codec(5).Known() || Gzip.String() != "gzip" || Codec(5).String() != "unknown" {
		t.Errorf("codec %v", b.Attributes().Codec())
	}
	if !b.Attributes().Compressed() || b.Attributes()&Transactional == 0 || b.ProducerID() != 42 || b.ProducerEpoch() != 3 ||
		b.BaseSequence() != 9 || b.LastOffset() != 8 {
		t.Errorf("header of %x", b[:BatchHeaderSize])
	}
	if r := b.Records(); r.Next() || !errors.Is(r.Err(), ErrCompressed) {
		t.Errorf("a compressed batch shows a record, or %v", r.Err())
	}
	b[len(b)-1] ^= 1
	if err := b.Verify(); !errors.Is(err, ErrChecksum) {
		t.Errorf("damaged: %v", err)
	}
}

func TestBatchOptions(t *testing.T) {
	b := build(goldenInputs(), goldenTime, &BatchOptions{LastDelta: 9, Producer: Producer{Known: true, ID: 7, Epoch: 2, Sequence: 5}})
	if err := b.Verify(); err != nil || b.LastOffset() != 9 || b.ProducerID() != 7 || b.ProducerEpoch() != 2 || b.BaseSequence() != 5 {
		t.Errorf("%v, %x", err, b[:BatchHeaderSize])
	}
	var bb BatchBuilder
	bb.Begin([]byte("kept"), 0)
	if got := bb.Finish(&BatchOptions{}); string(got) != "kept" {
		t.Errorf("an empty batch leaves %q", got)
	}
}

// TestBatchDamage flips each bit and cuts at each byte of a batch. Only base offset and leader epoch are outside the checksum.
func TestBatchDamage(t *testing.T) {
	src := unhex(t, goldenBatch)
	for cut := range src {
		if _, _, err := ParseBatch(src[:cut]); !errors.Is(err, ErrShort) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	for bit := range len(src) * 8 {
		at := bit / 8
		src[at] ^= 1 << (bit % 8)
		b, _, err := ParseBatch(src)
		if err == nil {
			err = b.Verify()
		}
		if free := at < batchLength || (at >= batchLeaderEpoch && at < batchMagic); (err == nil) != free {
			t.Errorf("bit %d of byte %d flipped: %v", bit%8, at, err)
		}
		src[at] ^= 1 << (bit % 8)
	}
}

// TestBatchLies has right checksums over wrong content.
func TestBatchLies(t *testing.T) {
	record := func(body ...byte) []byte { return append([]byte{byte(len(body) << 1)}, body...) }
	put := func(at int, v uint32) func(b []byte) {
		return func(b []byte) { binary.BigEndian.PutUint32(b[at:], v) }
	}
	none := func([]byte) {}
	for _, tc := range []struct {
		name    string
		records []byte
		change  func(b []byte)
		ok      bool
	}{
		{"one record", record(0, 0, 0, 1, 1, 0), none, true},
		{"record attributes are not looked at", record(9, 0, 0, 1, 1, 0), none, true},
		{"count above the records", record(0, 0, 0, 1, 1, 0), put(batchCount, 2), false},
		{"count below the records", append(record(0, 0, 0, 1, 1, 0), record(0, 0, 2, 1, 1, 0)...), none, false},
		{"count of 2^31-1", record(0, 0, 0, 1, 1, 0), put(batchCount, math.MaxInt32), false},
		{"count below 0", record(0, 0, 0, 1, 1, 0), put(batchCount, 1<<31), false},
		{"last delta below 0", record(0, 0, 0, 1, 1, 0), put(batchLastDelta, 1<<31), false},
		{"last delta below the record's", record(0, 0, 8, 1, 1, 0), put(batchLastDelta, 1), false},
		{"offset delta below 0", record(0, 0, 1, 1, 1, 0), none, false},
		{"record longer than the batch", []byte{14, 0, 0, 0, 1, 1, 0}, none, false},
		{"record length below 0", []byte{1, 0, 0, 0, 1, 1, 0}, none, false},
		{"record length of 11 bytes", bytes.Repeat([]byte{0x80}, 11), none, false},
		{"key longer than the record", record(0, 0, 0, 100, 1, 0), none, false},
		{"key length -2", record(0, 0, 0, 3, 1, 0), none, false},
		{"bytes behind the headers", record(0, 0, 0, 1, 1, 0, 7), none, false},
		{"header count above the headers", record(0, 0, 0, 1, 1, 4, 0, 0), none, false},
		{"header count below 0", record(0, 0, 0, 1, 1, 1), none, false},
		{"header of null name", record(0, 0, 0, 1, 1, 2, 1, 0), none, false},
		{"header of empty name", record(0, 0, 0, 1, 1, 2, 0, 0), none, true},
		{"cut varint", record(0, 0, 0, 1, 1, 0x80), none, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := build([]Input{{}}, 0, &BatchOptions{})[:BatchHeaderSize:BatchHeaderSize]
			b = append(b, tc.records...)
			binary.BigEndian.PutUint32(b[batchLength:], uint32(len(b)-batchLengthBase))
			tc.change(b)
			binary.BigEndian.PutUint32(b[batchCRC:], b.ComputeCRC())
			p, _, err := ParseBatch(b)
			if err == nil {
				err = p.Verify()
			}
			if (err == nil) != tc.ok || (err != nil && !errors.Is(err, ErrBatch)) {
				t.Errorf("%v", err)
			}
		})
	}
	b := build(goldenInputs(), 0, &BatchOptions{})
	for _, n := range []uint32{0, BatchHeaderSize - batchLengthBase - 1, 1 << 31, math.MaxUint32, math.MaxInt32} {
		binary.BigEndian.PutUint32(b[batchLength:], n)
		if _, _, err := ParseBatch(b); !errors.Is(err, ErrBatch) {
			t.Errorf("length %d: %v", int32(n), err)
		}
	}
}

func TestHeaders(t *testing.T) {
	raw := AppendHeaderString(nil, "mqtt.qos", []byte{1})
	raw = AppendHeader(raw, []byte("user"), []byte("x"))
	raw = AppendHeader(raw, []byte("user"), nil)
	b := build([]Input{{Key: []byte("k"), RawHeaders: raw, RawCount: 3}}, 0, &BatchOptions{})
	if err := b.Verify(); err != nil {
		t.Fatal(err)
	}
	r := b.Records()
	r.Next()
	h := r.Record().Headers
	if h.Len() != 3 || !bytes.Equal(h.Raw(), raw) {
		t.Errorf("%d headers, %x", h.Len(), h.Raw())
	}
	if v, ok := h.Get("user"); !ok || string(v) != "x" {
		t.Errorf("user: %q, %v", v, ok)
	}
	if _, ok := h.Get("absent"); ok || h.Len() != 3 {
		t.Errorf("absent: %v; %d left", ok, h.Len())
	}
}

func TestVarint(t *testing.T) {
	for _, v := range []int64{0, -1, 1, 63, 64, -64, -65, 8191, 8192, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64} {
		b := AppendVarint(nil, v)
		if !bytes.Equal(b, binary.AppendVarint(nil, v)) || len(b) != VarintLen(v) {
			t.Errorf("%d: %x, length %d", v, b, VarintLen(v))
		}
		if got, n := Varint(b); got != v || n != len(b) {
			t.Errorf("%d reads as %d of %d bytes", v, got, n)
		}
		got, n := Varint32(b)
		if fits := v == int64(int32(v)); fits != (n != 0) || (fits && int64(got) != v) {
			t.Errorf("%d reads as 32-bit %d of %d bytes", v, got, n)
		}
		if _, n := Varint(b[:len(b)-1]); n != 0 {
			t.Errorf("%d cut short reads %d bytes", v, n)
		}
	}
	for _, b := range [][]byte{nil, {0x80}, bytes.Repeat([]byte{0xff}, 11), {0xff, 0xff, 0xff, 0xff, 0x1f}} {
		if _, n := Varint32(b); n != 0 {
			t.Errorf("%x reads %d bytes", b, n)
		}
	}
}

func TestInputSize(t *testing.T) {
	ins := goldenInputs()
	for i := range ins {
		ins[i].OffsetDelta = 0
		if one := len(build(ins[i:i+1], 0, &BatchOptions{})) - BatchHeaderSize; InputSize(&ins[i]) < one {
			t.Errorf("record %d takes %d bytes, was said to take at most %d", i, one, InputSize(&ins[i]))
		}
	}
}

func TestBatchAllocs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	var bb BatchBuilder
	buf := make([]byte, 0, 64<<10)
	ins := goldenInputs()
	o := BatchOptions{BaseOffset: 9}
	if n := testing.AllocsPerRun(1000, func() {
		bb.Begin(buf, goldenTime)
		for i := range ins {
			bb.Append(&ins[i])
		}
		b, _, err := ParseBatch(bb.Finish(&o))
		if err != nil || b.Verify() != nil {
			t.Error("the batch is lost")
		}
		for r := b.Records(); r.Next(); {
			for h := r.Record().Headers; h.Next(); {
				if h.Key() == nil {
					t.Error("a header is lost")
				}
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzBatch(f *testing.F) {
	for _, s := range []string{goldenBatch, goldenCompressed, ""} {
		b, _ := hex.DecodeString(s)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		b, n, err := ParseBatch(src)
		if n > len(src) || (err != nil) != (n == 0) {
			t.Fatalf("n %d of %d, %v", n, len(src), err)
		}
		if err != nil {
			return
		}
		_ = b.Verify()
		binary.BigEndian.PutUint32(b[batchCRC:], b.ComputeCRC())
		if err := b.Verify(); err != nil || b.Attributes().Compressed() {
			return
		}
		// What is whole can be built again, and means the same.
		attrs := b.Attributes() &^ LogAppendTime
		want := collect(t, b)
		var ins []Input
		for _, p := range want {
			ins = append(ins, Input{OffsetDelta: int32(p.Offset - b.BaseOffset()), Timestamp: p.Timestamp, Key: p.Key, Value: p.Value, Headers: p.Headers})
		}
		if len(ins) == 0 {
			return
		}
		again := build(ins, b.BaseTimestamp(), &BatchOptions{BaseOffset: b.BaseOffset(), Attributes: attrs, LastDelta: b.LastOffsetDelta()})
		if err := again.Verify(); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, collect(t, again)); d != "" {
			t.Fatal(d)
		}
	})
}

// FuzzBuild: decode(encode(x)) = x, for records cut out of the fuzzer's bytes.
func FuzzBuild(f *testing.F) {
	f.Add([]byte("\x03key\x05value\x02h1v1"), int64(5))
	f.Add(bytes.Repeat([]byte{0}, 40), int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, src []byte, base int64) {
		take := func() []byte {
			if len(src) == 0 || src[0] == 0xff {
				src = src[min(1, len(src)):]
				return nil
			}
			n := min(int(src[0]), len(src)-1)
			b := src[1 : 1+n]
			src = src[1+n:]
			return b
		}
		var ins []Input
		var want []plain
		delta := int32(-1)
		for len(src) > 0 {
			first := src[0]
			delta += 1 + int32(first>>4)
			in := Input{OffsetDelta: delta, Timestamp: base ^ int64(first)}
			in.Key = take()
			in.Value = take()
			for len(src) > 0 && src[0]&1 == 1 {
				if k := take(); k != nil {
					v := take()
					in.Headers = append(in.Headers, Header{k, v})
				}
			}
			ins = append(ins, in)
			want = append(want, plain{Offset(delta) + 77, in.Timestamp, in.Key, in.Value, in.Headers})
		}
		if len(ins) == 0 {
			return
		}
		got, n, err := ParseBatch(build(ins, base, &BatchOptions{BaseOffset: 77}))
		if err != nil || n != len(got) {
			t.Fatalf("n %d, %v", n, err)
		}
		if err := got.Verify(); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, collect(t, got)); d != "" {
			t.Fatal(d)
		}
	})
}

func benchBatch(b *testing.B) ([]Input, []byte) {
	b.Helper()
	ins := make([]Input, 100)
	raw := AppendHeaderString(nil, "mqtt.qos", []byte{0})
	for i := range ins {
		ins[i] = Input{
			OffsetDelta: int32(i), Timestamp: goldenTime, Key: []byte("plant/7/temp"), Value: make([]byte, 64), RawHeaders: raw, RawCount: 1,
		}
	}
	return ins, make([]byte, 0, 64<<10)
}

func BenchmarkBuild(b *testing.B) {
	ins, buf := benchBatch(b)
	var bb BatchBuilder
	o := BatchOptions{}
	for b.Loop() {
		bb.Begin(buf, goldenTime)
		for i := range ins {
			bb.Append(&ins[i])
		}
		bb.Finish(&o)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ins)), "ns/record")
}

func BenchmarkRead(b *testing.B) {
	ins, _ := benchBatch(b)
	batch := build(ins, goldenTime, &BatchOptions{})
	n := 0
	for b.Loop() {
		for r := batch.Records(); r.Next(); {
			n += len(r.Record().Value)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ins)), "ns/record")
}

func TestEmptyBatch(t *testing.T) {
	raw := AppendEmpty([]byte("before"), &BatchOptions{BaseOffset: 7, LastDelta: 9, LeaderEpoch: 3}, 1000)
	b, n, err := ParseBatch(raw[6:])
	if err != nil || n != BatchHeaderSize || b.Verify() != nil {
		t.Fatal(n, err, b.Verify())
	}
	if b.Count() != 0 || b.BaseOffset() != 7 || b.NextOffset() != 17 || b.MaxTimestamp() != 1000 || b.ProducerID() != NoProducer {
		t.Errorf("%d records, %d to %d at %d", b.Count(), b.BaseOffset(), b.NextOffset(), b.MaxTimestamp())
	}
	if it := b.Records(); it.Next() || it.Err() != nil {
		t.Error(it.Err())
	}
}
