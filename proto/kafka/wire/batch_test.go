package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
)

const batchTime = 1_700_000_000_000

// Where the fields of a batch lie that the tests spoil.
const (
	atLength, atMagic, atCRC, atAttributes, atLastDelta        = 8, 16, 17, 21, 23
	atMaxTimestamp, atProducerID, atEpoch, atSequence, atCount = 35, 43, 51, 53, 57
)

// produced makes a batch as a producer does.
func produced(n int) []byte {
	var b record.BatchBuilder
	b.Begin(nil, batchTime)
	for i := range n {
		b.Append(&record.Input{OffsetDelta: int32(i), Timestamp: batchTime + int64(i), Key: []byte{'k', byte(i)}, Value: []byte("value"),
			Headers: []record.Header{{Key: []byte("h"), Value: nil}}})
	}
	return b.Finish(&record.BatchOptions{})
}

// spoil changes a batch and makes its checksum right again.
func spoil(b []byte, change func(b []byte)) []byte {
	b = bytes.Clone(b)
	change(b)
	if len(b) > record.BatchHeaderSize {
		binary.BigEndian.PutUint32(b[atCRC:], record.Batch(b).ComputeCRC())
	}
	return b
}

func set16(at int, v int16) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint16(b[at:], uint16(v)) }
}
func set32(at int, v int32) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint32(b[at:], uint32(v)) }
}
func set64(at int, v int64) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint64(b[at:], uint64(v)) }
}
func setByte(at int, v byte) func([]byte) { return func(b []byte) { b[at] = v } }

func all(changes ...func([]byte)) func([]byte) {
	return func(b []byte) {
		for _, c := range changes {
			c(b)
		}
	}
}

// withRecords makes a batch of any bytes as its records.
func withRecords(count int32, records ...byte) []byte {
	b := append(produced(1)[:record.BatchHeaderSize:record.BatchHeaderSize], records...)
	binary.BigEndian.PutUint32(b[atLength:], uint32(len(b)-12))
	return spoil(b, all(set32(atCount, count), set32(atLastDelta, count-1)))
}

type batchCase struct {
	name string
	b    []byte
	want *BatchError
	code ErrorCode
	bad  int32
}

// headerCases are what the header alone shows.
func headerCases() []batchCase {
	good := produced(3)
	producer := all(set64(atProducerID, 7), set16(atEpoch, 0), set32(atSequence, 0))
	return []batchCase{
		{"good", good, nil, None, -1},
		{"idempotent", spoil(good, producer), nil, None, -1},
		{"transactional", spoil(good, all(producer, set16(atAttributes, 0x10))), nil, None, -1},
		{"unused bits", spoil(good, set16(atAttributes, 0x7F80)), nil, None, -1},
		{"no producer, yet an epoch and a sequence", spoil(good, all(set16(atEpoch, 0), set32(atSequence, 0))), nil, None, -1},
		{"null", nil, errNoBatch, InvalidRecord, -1},
		{"empty", []byte{}, errNoBatch, InvalidRecord, -1},
		{"cut before its length", good[:11], errNoBatch, InvalidRecord, -1},
		{"cut before its magic", good[:16], errNoBatch, InvalidRecord, -1},
		{"cut", good[:len(good)-1], errNoBatch, InvalidRecord, -1},
		{"length 13", spoil(good, set32(atLength, 13)), errBatchSize, CorruptMessage, -1},
		{"length below 0", spoil(good, set32(atLength, -1)), errBatchSize, CorruptMessage, -1},
		{"length of 2 GiB", spoil(good, set32(atLength, 1<<31-1)), errNoBatch, InvalidRecord, -1},
		{"length below the header's", spoil(good, set32(atLength, 48)), errBatchSize, CorruptMessage, -1},
		{"magic 3", spoil(good, setByte(atMagic, 3)), errBatchMagic, CorruptMessage, -1},
		{"magic -1", spoil(good, setByte(atMagic, 255)), errBatchMagic, CorruptMessage, -1},
		{"magic 1", spoil(good, setByte(atMagic, 1)), errOldMagic, InvalidRecord, -1},
		{"magic 0", spoil(good, setByte(atMagic, 0)), errOldMagic, InvalidRecord, -1},
		{"two batches", append(bytes.Clone(good), good...), errMoreBatches, InvalidRecord, -1},
		{"bytes behind", append(bytes.Clone(good), 0), errMoreBatches, InvalidRecord, -1},
		{"base offset 1", spoil(good, setByte(7, 1)), errBaseOffset, InvalidRecord, -1},
		{"base offset below 0", spoil(good, setByte(0, 255)), errBaseOffset, InvalidRecord, -1},
		{"a flipped bit", func() []byte { b := bytes.Clone(good); b[len(b)-1] ^= 1; return b }(), errBatchCRC, CorruptMessage, -1},
		{"a flipped bit in the count", func() []byte { b := bytes.Clone(good); b[atCount] ^= 1; return b }(), errBatchCRC, CorruptMessage, -1},
		{"codec 5", spoil(good, set16(atAttributes, 5)), errCodec, UnsupportedCompressionType, -1},
		{"count 0", spoil(good, all(set32(atCount, 0), set32(atLastDelta, -1))), errCount, InvalidRecord, -1},
		{"count below 0", spoil(good, set32(atCount, -3)), errCount, InvalidRecord, -1},
		{"count below that of the offsets", spoil(good, set32(atCount, 2)), errCount, InvalidRecord, -1},
		{"offsets fewer than the count", spoil(good, set32(atLastDelta, 1)), errCount, InvalidRecord, -1},
		{"count of 2^31-1", spoil(good, all(set32(atCount, 1<<31-1), set32(atLastDelta, 1<<31-2))), errCount, InvalidRecord, -1},
		{"count of 2^31-1 in gzip", spoil(good, all(set32(atCount, 1<<31-1), set32(atLastDelta, 1<<31-2), set16(atAttributes, 1))),
			errCount, InvalidRecord, -1},
		{"control", spoil(good, set16(atAttributes, 0x20)), errControl, InvalidRecord, -1},
		{"delete horizon", spoil(good, set16(atAttributes, 0x40)), errDeleteHorizon, InvalidRecord, -1},
		{"transactional without a producer", spoil(good, set16(atAttributes, 0x10)), errNoProducer, InvalidRecord, -1},
		{"producer -2", spoil(good, set64(atProducerID, -2)), errNoProducer, InvalidRecord, -1},
		{"producer without a sequence", spoil(good, all(producer, set32(atSequence, -1))), errSequence, InvalidRecord, -1},
		{"producer without an epoch", spoil(good, all(producer, set16(atEpoch, -1))), errSequence, InvalidRecord, -1},
		{"time of the log's append", spoil(good, set16(atAttributes, 8)), errAppendTime, InvalidTimestamp, -1},
	}
}

func recordCases() []batchCase {
	record := func(body ...byte) []byte { return append([]byte{byte(len(body) << 1)}, body...) }
	plain, second := record(0, 0, 0, 1, 1, 0), record(0, 0, 2, 1, 1, 0)
	return []batchCase{
		{"two", withRecords(2, append(bytes.Clone(plain), second...)...), nil, None, -1},
		{"the same offset twice", withRecords(2, append(bytes.Clone(plain), plain...)...), errOffsetDelta, InvalidRecord, 1},
		{"first offset 1", withRecords(2, append(bytes.Clone(second), second...)...), errOffsetDelta, InvalidRecord, 0},
		{"bytes behind the records", withRecords(1, append(bytes.Clone(plain), 0)...), errRecords, InvalidRecord, 1},
		{"fewer than the count", withRecords(2, record(0, 0, 0, 1, 9, 1, 2, 3, 4, 5, 6, 7, 8, 0)...), errRecords, InvalidRecord, 0},
		{"record longer than the batch", withRecords(1, 14, 0, 0, 0, 1, 1, 0), errRecords, InvalidRecord, 0},
		{"record of length below 0", withRecords(1, 1, 0, 0, 0, 1, 1, 0), errRecords, InvalidRecord, 0},
		{"length of eleven bytes", withRecords(1, bytes.Repeat([]byte{0x80}, 11)...), errRecords, InvalidRecord, 0},
		{"key longer than the record", withRecords(1, record(0, 0, 0, 100, 1, 0)...), errRecords, InvalidRecord, 0},
		{"header count above the headers", withRecords(1, record(0, 0, 0, 1, 1, 4, 0, 0)...), errRecords, InvalidRecord, 0},
		{"header of null name", withRecords(1, record(0, 0, 0, 1, 1, 2, 1, 0)...), errHeaderName, InvalidRecord, 0},
		{"header of empty name", withRecords(1, record(0, 0, 0, 1, 1, 2, 0, 0)...), nil, None, -1},
	}
}

func (c *batchCase) check(t *testing.T, o *BatchLimits) {
	t.Helper()
	before := bytes.Clone(c.b)
	p, err := CheckProduced(c.b, o)
	if !bytes.Equal(before, c.b) {
		t.Fatalf("%s: checking changed the batch", c.name)
	}
	if c.want == nil {
		if err != nil || p.Record != -1 || len(p.Batch) != len(c.b) {
			t.Errorf("%s: %v, record %d", c.name, err, p.Record)
		}
		return
	}
	var got *BatchError
	if !errors.As(err, &got) || got != c.want || CodeOf(err) != c.code || p.Record != c.bad {
		t.Errorf("%s: %v, record %d; want %v, record %d", c.name, err, p.Record, c.want, c.bad)
	}
}

func TestCheckProduced(t *testing.T) {
	for _, c := range headerCases() {
		c.check(t, &BatchLimits{Version: 9})
		c.check(t, &BatchLimits{Version: 9, Records: true})
	}
	for _, c := range recordCases() {
		c.check(t, &BatchLimits{Version: 9, Records: true})
	}
}

func TestBatchLimits(t *testing.T) {
	good := produced(3)
	zstd := spoil(good, set16(atAttributes, 4))
	keyless := withRecords(1, 12, 0, 0, 0, 1, 1, 0)
	timeless := withRecords(1, 12, 0, 0, 0, 1, 1, 0)
	binary.BigEndian.PutUint64(timeless[27:], uint64(1<<64-1))
	timeless = spoil(timeless, set64(atMaxTimestamp, -1))
	for _, c := range []struct {
		batchCase
		o BatchLimits
	}{
		{batchCase{"zstd", zstd, nil, None, -1}, BatchLimits{Version: 7, Records: true}},
		{batchCase{"zstd of old", zstd, errZstdVersion, UnsupportedCompressionType, -1}, BatchLimits{Version: 6}},
		{batchCase{"as large as may be", good, nil, None, -1}, BatchLimits{MaxBytes: len(good), SegmentBytes: len(good)}},
		{batchCase{"too large", good, errBatchTooLarge, MessageTooLarge, -1}, BatchLimits{MaxBytes: len(good) - 1}},
		{batchCase{"too large for a segment", good, errListTooLarge, RecordListTooLarge, -1}, BatchLimits{SegmentBytes: len(good) - 1}},
		{batchCase{"keys", good, nil, None, -1}, BatchLimits{Records: true, Keys: true}},
		{batchCase{"no key", keyless, errNoKey, InvalidRecord, 0}, BatchLimits{Records: true, Keys: true}},
		{batchCase{"in time", good, nil, None, -1}, BatchLimits{Records: true, Earliest: batchTime, Latest: batchTime + 2}},
		{batchCase{"the third too late", good, errTimestamp, InvalidTimestamp, 2}, BatchLimits{Records: true, Earliest: 1, Latest: batchTime + 1}},
		{batchCase{"the first too early", good, errTimestamp, InvalidTimestamp, 0}, BatchLimits{Records: true, Earliest: batchTime + 1, Latest: 1 << 62}},
		{batchCase{"too late by the header", good, errTimestamp, InvalidTimestamp, -1}, BatchLimits{Earliest: 1, Latest: batchTime + 1}},
		{batchCase{"no timestamp", timeless, nil, None, -1}, BatchLimits{Records: true, Earliest: 1, Latest: 2}},
		{batchCase{"no timestamp by the header", timeless, nil, None, -1}, BatchLimits{Earliest: 1, Latest: 2}},
	} {
		c.check(t, &c.o)
	}
	// A producer that tells a wrong latest timestamp is corrected, not refused.
	wrong := spoil(good, set64(atMaxTimestamp, 5))
	p, err := CheckProduced(wrong, &BatchLimits{Records: true})
	if err != nil || p.MaxTimestamp != batchTime+2 || p.Batch.MaxTimestamp() != 5 {
		t.Errorf("latest %d, the batch says %d, %v", p.MaxTimestamp, p.Batch.MaxTimestamp(), err)
	}
	p.Batch.CorrectMaxTimestamp(p.MaxTimestamp)
	if !bytes.Equal(wrong, good) {
		t.Error("corrected, it is not what it should have been")
	}
}

func TestCodeOf(t *testing.T) {
	for err, want := range map[error]ErrorCode{nil: None, errNoBatch: InvalidRecord, ErrMalformed: InvalidRequest, ErrTooMany: InvalidRequest,
		ErrVersion: UnsupportedVersion, errors.ErrUnsupported: UnknownServerError} {
		if got := CodeOf(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
	if errNoKey.Error() != "kafka: INVALID_RECORD: record of a compacted topic has no key" {
		t.Error(errNoKey.Error())
	}
}

// TestProducedCut cuts a batch at every byte and flips every bit: nothing passes but what the checksum does not cover.
func TestProducedCut(t *testing.T) {
	b := produced(3)
	for n := range b {
		if _, err := CheckProduced(b[:n:n], &BatchLimits{Version: 9, Records: true}); err == nil {
			t.Errorf("cut at %d passes", n)
		}
	}
	for bit := range len(b) * 8 {
		at := bit / 8
		b[at] ^= 1 << (bit % 8)
		if _, err := CheckProduced(b, &BatchLimits{Version: 9, Records: true}); (err == nil) != (at >= 12 && at < atMagic) {
			t.Errorf("bit %d of byte %d: %v", bit%8, at, err)
		}
		b[at] ^= 1 << (bit % 8)
	}
}

func TestBatchAllocs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates; plain builds run this")
	}
	b := produced(50)
	o := BatchLimits{Version: 9, MaxBytes: 1 << 20, Records: true, Keys: true, Earliest: 1, Latest: 1 << 60}
	bad := spoil(b, set32(atCount, 1))
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := CheckProduced(b, &o); err != nil {
			t.Fatal(err)
		}
		if _, err := CheckProduced(bad, &o); CodeOf(err) != InvalidRecord {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzCheckProduced(f *testing.F) {
	for _, c := range append(headerCases(), recordCases()...) {
		f.Add(c.b, int16(9), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, version int16, mend bool) {
		if mend && len(b) > record.BatchHeaderSize { // past the checks that a fuzzer does not get through
			b[7] = 0
			binary.BigEndian.PutUint32(b[atLength:], uint32(len(b)-12))
			binary.BigEndian.PutUint32(b[atCRC:], record.Batch(b).ComputeCRC())
		}
		o := BatchLimits{Version: version, Records: true}
		p, err := CheckProduced(b, &o)
		if err != nil {
			if c := CodeOf(err); c == None || c == UnknownServerError {
				t.Fatal(err)
			}
			if _, err := CheckProduced(b, &BatchLimits{Version: version}); err == nil && p.Record < 0 {
				t.Fatal("a look at the records refuses what the header has right")
			}
			return
		}
		// What passes is a batch to its neighbours too.
		again, n, err := record.ParseBatch(b)
		if err != nil || n != len(b) || !bytes.Equal(again, p.Batch) {
			t.Fatalf("%x: n %d, %v", b, n, err)
		}
		if err := again.Verify(); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		var k kmsg.RecordBatch
		if err := k.ReadFrom(b); err != nil || k.NumRecords != again.Count() || k.LastOffsetDelta != k.NumRecords-1 || k.CRC != int32(again.CRC()) {
			t.Fatalf("%x: kmsg reads %+v, %v", b, k, err)
		}
	})
}

func benchCheck(b *testing.B, size int) {
	b.Helper()
	var w record.BatchBuilder
	w.Begin(nil, batchTime)
	for i := range 100 {
		w.Append(&record.Input{OffsetDelta: int32(i), Timestamp: batchTime, Value: make([]byte, size)})
	}
	batch := w.Finish(&record.BatchOptions{})
	for _, records := range []bool{false, true} {
		b.Run(map[bool]string{false: "header", true: "records"}[records], func(b *testing.B) {
			b.SetBytes(int64(len(batch)))
			o := BatchLimits{Version: 9, Records: records}
			for b.Loop() {
				if _, err := CheckProduced(batch, &o); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*100), "ns/record")
		})
	}
}

func BenchmarkCheck1K(b *testing.B)  { benchCheck(b, 1024) }
func BenchmarkCheck100(b *testing.B) { benchCheck(b, 100) }
