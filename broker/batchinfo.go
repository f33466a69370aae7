package broker

import (
	"encoding/binary"

	"github.com/sluicemq/sluice/journal/record"
)

// batchKind says what a batch of a stream is to the tables.
type batchKind uint8

const (
	batchPlain         batchKind = iota
	batchTransactional           // records of a transaction
	batchCommit                  // the marker that ends one
	batchAbort                   // the same: its records are left out
	batchControl                 // another control batch: nothing to the tables
)

// batchInfo is what the tables need of a batch.
type batchInfo struct {
	base, last     record.Offset
	producer       int64 // record.NoProducer: none
	first, lastSeq int32 // sequences
	epoch          int16
	kind           batchKind
	coordinator    int32 // of a marker: the epoch of the coordinator that wrote it
	size           int32
	at             int64 // Unix milliseconds at which the broker took it
	maxTimestamp   int64
}

// infoOf reads the header of a batch that lies at base and was taken at this time.
func infoOf(b record.Batch, base record.Offset, at int64) batchInfo {
	in := batchInfo{
		base: base, last: base + record.Offset(b.LastOffsetDelta()), producer: b.ProducerID(), epoch: b.ProducerEpoch(), size: int32(len(b)), at: at,
		maxTimestamp: b.MaxTimestamp(),
	}
	attrs := b.Attributes()
	switch {
	case attrs&record.Control != 0:
		in.kind, in.coordinator = markerOf(b)
		in.first, in.lastSeq = record.NoProducer, record.NoProducer
		return in
	case attrs&record.Transactional != 0:
		in.kind = batchTransactional
	}
	in.first = b.BaseSequence()
	in.lastSeq = addSequence(in.first, b.LastOffsetDelta())
	return in
}

// What is in the key of a control record, behind its version, and in the value of one that ends a transaction (Kafka's EndTxnMarker).
const (
	markerAbort  = 0
	markerCommit = 1

	markerKeySize   = 4
	markerValueSize = 6
)

// markerOf reads a control batch.
func markerOf(b record.Batch) (kind batchKind, coordinator int32) {
	it := b.Records()
	if !it.Next() {
		return batchControl, 0
	}
	r := it.Record()
	if len(r.Key) < markerKeySize || len(r.Value) < markerValueSize {
		return batchControl, 0
	}
	coordinator = int32(binary.BigEndian.Uint32(r.Value[2:]))
	switch binary.BigEndian.Uint16(r.Key[2:]) {
	case markerAbort:
		return batchAbort, coordinator
	case markerCommit:
		return batchCommit, coordinator
	}
	return batchControl, 0
}

// marker tells whether the batch ends a transaction.
func (in *batchInfo) marker() bool { return in.kind == batchCommit || in.kind == batchAbort }

// batchExtra is the core's block of a stream's frame.
type batchExtra struct {
	at      int64 // when the batch was taken: apply reads no clock
	relayed int64 // up to where MQTT subscribers had got the partition then; notRelayed: they do not get it
	taken   []takenID
}

func appendBatchExtra(dst []byte, pb *pendingBatch) []byte {
	dst = binary.AppendUvarint(dst, uint64(pb.info.at))
	relayed := pb.part.relayed.Load()
	if relayed == notRelayed && (pb.acc == nil || len(pb.acc.taken) == 0) {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(relayed+1))
	if pb.acc != nil {
		for _, t := range pb.acc.taken {
			dst = binary.AppendUvarint(dst, t.session)
			dst = binary.AppendUvarint(dst, uint64(t.packetID))
		}
	}
	return dst
}

func readBatchExtra(extra []byte) (e batchExtra, ok bool) {
	d := decoder{b: extra}
	e.at, e.relayed = int64(d.uvarint()), notRelayed
	if len(d.b) > 0 {
		e.relayed = int64(d.uvarint()) - 1
	}
	for len(d.b) > 0 {
		e.taken = append(e.taken, takenID{d.uvarint(), uint16(d.uvarint())})
	}
	return e, d.ok()
}
