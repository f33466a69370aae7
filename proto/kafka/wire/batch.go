package wire

import (
	"encoding/binary"
	"errors"

	"github.com/sluicemq/sluice/journal/record"
)

// BatchError is why a produced batch is refused. All of them are package-level values: compare with ==.
type BatchError struct {
	Code   ErrorCode
	Detail string // what was wrong, constant text; fit for an error message of a response
}

// Error gives the code's name and the detail.
func (e *BatchError) Error() string { return "kafka: " + e.Code.String() + ": " + e.Detail }

// CodeOf gives the error code that an error of this package stands for; UnknownServerError for any other error, and None for nil.
func CodeOf(err error) ErrorCode {
	if err == nil {
		return None
	}
	if b, ok := errors.AsType[*BatchError](err); ok {
		return b.Code
	}
	switch {
	case errors.Is(err, ErrVersion):
		return UnsupportedVersion
	case errors.Is(err, ErrMalformed), errors.Is(err, ErrTooMany):
		return InvalidRequest
	}
	return UnknownServerError
}

// What a batch can be refused for, in the order in which Kafka looks.
var (
	errNoBatch       = &BatchError{InvalidRecord, "there is no whole record batch"}
	errBatchSize     = &BatchError{CorruptMessage, "record batch has an impossible size"}
	errBatchMagic    = &BatchError{CorruptMessage, "record batch has an unknown magic"}
	errOldMagic      = &BatchError{InvalidRecord, "record batch is not of magic 2"}
	errZstdVersion   = &BatchError{UnsupportedCompressionType, "zstd needs version 7 of Produce"}
	errMoreBatches   = &BatchError{InvalidRecord, "there is more than one record batch"}
	errBaseOffset    = &BatchError{InvalidRecord, "base offset is not 0"}
	errBatchTooLarge = &BatchError{MessageTooLarge, "record batch is larger than max.message.bytes"}
	errBatchCRC      = &BatchError{CorruptMessage, "record batch has a wrong checksum"}
	errCodec         = &BatchError{UnsupportedCompressionType, "compression codec is unknown"}
	errListTooLarge  = &BatchError{RecordListTooLarge, "record batch is larger than a segment"}
	errCount         = &BatchError{InvalidRecord, "record count is not above 0, or not that of the offsets"}
	errControl       = &BatchError{InvalidRecord, "control records come from brokers only"}
	errDeleteHorizon = &BatchError{InvalidRecord, "a delete horizon comes from brokers only"}
	errSequence      = &BatchError{InvalidRecord, "producer has an epoch or a sequence below 0"}
	errNoProducer    = &BatchError{InvalidRecord, "transactional batch has no producer"}
	errAppendTime    = &BatchError{InvalidTimestamp, "timestamps of the log's append come from brokers only"}
	errRecords       = &BatchError{InvalidRecord, "a record cannot be read, or records do not fill their batch"}
	errOffsetDelta   = &BatchError{InvalidRecord, "offset of a record is not one above the one before it"}
	errHeaderName    = &BatchError{InvalidRecord, "header of a record has no name"}
	errNoKey         = &BatchError{InvalidRecord, "record of a compacted topic has no key"}
	errTimestamp     = &BatchError{InvalidTimestamp, "timestamp of a record is out of range"}
)

// BatchLimits is what a topic takes. The zero value sets no limit and does not look at records.
type BatchLimits struct {
	Version      int16 // of the Produce request
	MaxBytes     int   // max.message.bytes; 0: no limit
	SegmentBytes int   // segment.bytes; 0: no limit
	Records      bool  // look at the records too, unless they are compressed
	Keys         bool  // with Records: each must have a key, for the topic is compacted
	// Earliest and Latest bound the timestamps of records, in milliseconds of Unix time; both 0: no bounds, as for topics whose
	// timestamps are the broker's. Of records not looked at, only what their batch says is held against them.
	Earliest, Latest int64
}

// Produced is a batch that has been looked at.
type Produced struct {
	Batch record.Batch // a view of the record set
	// MaxTimestamp is the latest timestamp of the records where they were looked at, else what the batch says. Where the two differ,
	// the stored batch is to be told by CorrectMaxTimestamp, as Kafka does.
	MaxTimestamp int64
	// Record is the record, counted from 0, that the error is about; -1: the batch.
	Record int32
}

// noTimestamp is the timestamp of a record without one.
const noTimestamp = -1

// CheckProduced looks at the record set of one partition of a Produce request as Kafka does before it appends, and in the same
// order, so that what is wrong in two ways gets the same code. The error is a *BatchError. Compressed records are not looked into;
// once they are opened, CheckRecords does that. It differs from Kafka where that answers UNKNOWN_SERVER_ERROR for a codec that does
// not exist, and where it lets pass bytes behind the batch, a broker's flags, and offsets of uncompressed records that have gaps.
func CheckProduced(b []byte, o *BatchLimits) (Produced, error) {
	p := Produced{Record: -1}
	batch, err := oneBatch(b, o.Version)
	if err != nil {
		return p, err
	}
	p.Batch, p.MaxTimestamp = batch, batch.MaxTimestamp()
	switch {
	case batch.BaseOffset() != 0:
		return p, errBaseOffset
	case o.MaxBytes > 0 && len(batch) > o.MaxBytes:
		return p, errBatchTooLarge
	case batch.CRC() != batch.ComputeCRC():
		return p, errBatchCRC
	case !batch.Attributes().Codec().Known():
		return p, errCodec
	case o.SegmentBytes > 0 && len(batch) > o.SegmentBytes:
		return p, errListTooLarge
	}
	if err := checkHeader(batch); err != nil {
		return p, err
	}
	if o.Records && !batch.Attributes().Compressed() {
		p.MaxTimestamp, p.Record, err = CheckRecords(batch, o)
		return p, err
	}
	if o.outOfTime(batch.MaxTimestamp()) {
		return p, errTimestamp
	}
	return p, nil
}

// oneBatch delimits the only batch of a record set. Its checksum and all behind it are not looked at.
func oneBatch(b []byte, version int16) (record.Batch, error) {
	const (
		lengthAt, lengthEnd = 8, 12 // the length counts what follows it
		magicAt             = 16
		leastLength         = 14 // of magic 0
	)
	if len(b) < lengthEnd {
		return nil, errNoBatch
	}
	length := int32(binary.BigEndian.Uint32(b[lengthAt:]))
	switch {
	case length < leastLength:
		return nil, errBatchSize
	case len(b) <= magicAt:
		return nil, errNoBatch
	case b[magicAt] > 2:
		return nil, errBatchMagic
	case int64(length) > int64(len(b)-lengthEnd):
		return nil, errNoBatch
	case b[magicAt] < 2:
		return nil, errOldMagic
	}
	n, err := record.BatchSize(b)
	if err != nil {
		return nil, errBatchSize
	}
	batch := record.Batch(b[:n:n])
	switch {
	case version < 7 && batch.Attributes().Codec() == record.Zstd:
		return nil, errZstdVersion
	case n < len(b):
		return nil, errMoreBatches
	}
	return batch, nil
}

// checkHeader looks at the header of a batch whose checksum holds.
func checkHeader(b record.Batch) error {
	attrs := b.Attributes()
	if _, _, err := record.ParseBatch(b); err != nil || b.Count() <= 0 || b.LastOffsetDelta() != b.Count()-1 || !plausible(b) {
		return errCount
	}
	switch {
	case attrs&record.Control != 0:
		return errControl
	case attrs&record.DeleteHorizon != 0:
		return errDeleteHorizon
	case b.ProducerID() < 0 && attrs&record.Transactional != 0:
		return errNoProducer
	case b.ProducerID() < record.NoProducer:
		return errNoProducer
	case b.ProducerID() >= 0 && (b.BaseSequence() < 0 || b.ProducerEpoch() < 0):
		return errSequence
	case attrs&record.LogAppendTime != 0:
		return errAppendTime
	}
	return nil
}

// expansion is the most that a byte of each codec can stand for: the densest form that its format has, rounded up.
var expansion = [...]int64{record.Uncompressed: 1, record.Gzip: 1040, record.Snappy: 24, record.LZ4: 256, record.Zstd: 1 << 17}

// plausible tells whether the records of a batch can be as many as it says. It keeps a few compressed bytes from taking two
// billion offsets.
func plausible(b record.Batch) bool {
	const leastRecord = 7
	return int64(b.Count()) <= int64(len(b)-record.BatchHeaderSize)*expansion[b.Attributes().Codec()]/leastRecord
}

// outOfTime tells whether a timestamp is refused. Records need not have one.
func (o *BatchLimits) outOfTime(ms int64) bool {
	return ms != noTimestamp && (o.Earliest != 0 || o.Latest != 0) && (ms < o.Earliest || ms > o.Latest)
}

// CheckRecords looks at each record of a batch whose header was found right: whether it can be read, and with the ones before it
// fills the batch; its offset; its key and its timestamp. It says the latest timestamp, which is -1 if no record has one, and with
// an error, which record it is about. Of a compressed batch, it takes the opened form.
func CheckRecords(b record.Batch, o *BatchLimits) (latest int64, bad int32, err error) {
	latest = noTimestamp
	base := b.BaseOffset()
	i := int32(0)
	r := b.Records()
	for ; r.Next(); i++ {
		rec := r.Record()
		switch {
		case rec.Offset != base+record.Offset(i):
			return latest, i, errOffsetDelta
		case o.Keys && rec.Key == nil:
			return latest, i, errNoKey
		case o.outOfTime(rec.Timestamp):
			return latest, i, errTimestamp
		}
		if rec.Headers.Len() > 0 && !named(rec.Headers) {
			return latest, i, errHeaderName
		}
		latest = max(latest, rec.Timestamp)
	}
	if r.Err() != nil {
		return latest, i, errRecords
	}
	return latest, -1, nil
}

// named tells whether all headers have a name.
func named(h record.Headers) bool {
	for h.Next() {
		if h.Key() == nil {
			return false
		}
	}
	return true
}
