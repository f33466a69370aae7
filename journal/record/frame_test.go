package record

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicemq/sluice/internal/testx"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// goldenFrame was made by another program after docs/format/record.md.
const goldenFrame = "2b00000044bd6aa8020134120700000008070605040302010900000018171615141312117061796c6f6164"

func TestFrameGolden(t *testing.T) {
	want := Frame{
		Kind: KindCommand, Flags: FlagSkippable, Shard: 0x1234, Epoch: 7, Index: 0x0102030405060708, Tenant: 9,
		Partition: 0x1112131415161718, Payload: []byte("payload"),
	}
	src := unhex(t, goldenFrame)
	if got := AppendFrame(nil, &want); !bytes.Equal(got, src) {
		t.Errorf("encodes to\n%x, want\n%x", got, src)
	}
	got, n, err := DecodeFrame(append(src, 1, 2, 3))
	if err != nil || n != len(src) || n != want.Size() {
		t.Fatalf("n %d, %v", n, err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got, n, err := ViewFrame(src); err != nil || n != len(src) || got.Index != want.Index {
		t.Errorf("ViewFrame: %+v, %d, %v", got, n, err)
	}
}

// TestFrameDamage flips each bit and cuts at each byte: nothing passes but the whole frame.
func TestFrameDamage(t *testing.T) {
	src := unhex(t, goldenFrame)
	for cut := range src {
		if _, _, err := DecodeFrame(src[:cut]); !errors.Is(err, ErrShort) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	long := append(src, make([]byte, 1000)...)
	for bit := range len(src) * 8 {
		long[bit/8] ^= 1 << (bit % 8)
		if f, _, err := DecodeFrame(long); err == nil {
			t.Errorf("bit %d flipped: %+v", bit, f)
		}
		long[bit/8] ^= 1 << (bit % 8)
	}
	for _, n := range []uint32{0, 1, FrameHeaderSize - 1, MaxFrameSize + 1, 1 << 31, 1<<32 - 1} {
		binary.LittleEndian.PutUint32(long, n)
		if _, _, err := DecodeFrame(long); !errors.Is(err, ErrFrame) {
			t.Errorf("length %d: %v", n, err)
		}
	}
}

func TestFrameInPlace(t *testing.T) {
	f := Frame{Kind: KindRecords, Index: 5, Partition: 8}
	dst := []byte("before")
	dst, start := BeginFrame(dst, &f)
	dst = BeginRecordsPayload(dst, []byte("references"))
	dst = append(dst, "batch"...)
	dst = FinishFrame(dst, start)
	got, n, err := DecodeFrame(dst[6:])
	if err != nil || n != len(dst)-6 {
		t.Fatalf("n %d, %v", n, err)
	}
	if string(FrameExtra(got.Payload)) != "references" || string(FrameBatch(got.Payload)) != "batch" {
		t.Errorf("extra %q, batch %q", FrameExtra(got.Payload), FrameBatch(got.Payload))
	}
}

func TestRecordsPayloadLies(t *testing.T) {
	for _, p := range [][]byte{nil, {1}, {0, 0, 0, 0}, {3, 0, 0, 0, 9}, {6, 0, 0, 0, 9}, {255, 255, 255, 255, 9}} {
		if FrameBatch(p) != nil || FrameExtra(p) != nil {
			t.Errorf("payload %v: extra %v, batch %v", p, FrameExtra(p), FrameBatch(p))
		}
	}
	p := []byte{4, 0, 0, 0}
	if b := FrameBatch(p); b == nil || len(b) != 0 || len(FrameExtra(p)) != 0 {
		t.Errorf("an empty payload: extra %v, batch %v", FrameExtra(p), b)
	}
}

func TestFrameAllocs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	buf := make([]byte, 0, 4096)
	f := Frame{Kind: KindCommand, Payload: make([]byte, 1000)}
	if n := testing.AllocsPerRun(1000, func() {
		buf = AppendFrame(buf[:0], &f)
		if g, _, err := DecodeFrame(buf); err != nil || len(g.Payload) != 1000 {
			t.Error("the frame is lost")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzFrame(f *testing.F) {
	golden, _ := hex.DecodeString(goldenFrame)
	f.Add(golden)
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Add(AppendFrame(AppendFrame(nil, &Frame{Kind: KindRecords, Payload: []byte{4, 0, 0, 0}}), &Frame{Epoch: -1}))
	f.Fuzz(func(t *testing.T, src []byte) {
		got, n, err := DecodeFrame(src)
		if n > len(src) || (err != nil) != (n == 0) {
			t.Fatalf("n %d of %d, %v", n, len(src), err)
		}
		FrameBatch(src)
		FrameExtra(src)
		if err != nil {
			return
		}
		if again := AppendFrame(nil, &got); !bytes.Equal(again, src[:n]) {
			t.Fatalf("%x decodes and encodes to %x", src[:n], again)
		}
	})
}

// FuzzFrameFields: decode(encode(x)) = x.
func FuzzFrameFields(f *testing.F) {
	f.Add(byte(1), byte(0), uint16(3), int32(-1), uint64(9), uint32(1), uint64(2), []byte("x"))
	f.Fuzz(func(t *testing.T, kind, flags byte, shard uint16, epoch int32, index uint64, tenant uint32, part uint64, payload []byte) {
		if payload == nil {
			payload = []byte{}
		}
		want := Frame{
			FrameKind(kind), flags, ShardID(shard), Epoch(epoch), index, TenantID(tenant), PartitionID(part), payload,
		}
		got, n, err := DecodeFrame(AppendFrame(nil, &want))
		if err != nil || n != want.Size() {
			t.Fatalf("n %d, %v", n, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

func BenchmarkFrame1K(b *testing.B) {
	buf := make([]byte, 0, 4096)
	f := Frame{Kind: KindCommand, Payload: make([]byte, 1000)}
	b.SetBytes(int64(f.Size()))
	for b.Loop() {
		buf = AppendFrame(buf[:0], &f)
		if _, _, err := DecodeFrame(buf); err != nil {
			b.Fatal(err)
		}
	}
}
