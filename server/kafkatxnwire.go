package server

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
)

// What nodes ask one another for transactions whose partitions have several leaders. Numbers are little-endian. docs/format/replication.md has every byte.
const (
	methodTxnAnnounce = 0x4b04 // {version u8, partitions} -> {version u8, a code u8 for each}
	methodTxnEnd      = 0x4b05 // likewise
	methodTxnJoin     = 0x4b06 // {version u8, verify u8, tenant u32, producer i64, epoch i16, length u16, transactional id, {topic, index u32}...} -> {version u8, code u8}

	txnWire = 1 // the version

	txnItemSize  = 47   // {tenant u32, topic 16 bytes, index u32, epoch of the leader i32, producer i64, epoch i16, serial u64, commit u8}
	txnItemsMax  = 4096 // of one request
	txnPartSize  = 20
	txnPartsMax  = 16384 // of one transactional id that asks
	txnJoinFixed = 1 + 1 + 4 + 8 + 2 + 2
)

// txnItem is one partition of a request.
type txnItem struct {
	tenant uint32
	part   broker.TopicPartition
	lead   record.Epoch // of the partition's leader that is asked
	who    broker.ProducerIdentity
	serial uint64
	commit bool // of the end alone
}

func appendTxnPart(dst []byte, p broker.TopicPartition) []byte {
	return binary.LittleEndian.AppendUint32(append(dst, p.Topic[:]...), uint32(p.Partition))
}

func txnPart(b []byte) (p broker.TopicPartition, err error) {
	copy(p.Topic[:], b)
	if p.Partition = int32(binary.LittleEndian.Uint32(b[16:])); p.Partition < 0 {
		err = fmt.Errorf("want a partition's number, found %d", p.Partition)
	}
	return p, err
}

func appendTxnProducer(dst []byte, who broker.ProducerIdentity) []byte {
	return binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint64(dst, uint64(who.ID)), uint16(who.Epoch))
}

func txnProducer(b []byte) (who broker.ProducerIdentity, err error) {
	who = broker.ProducerIdentity{ID: int64(binary.LittleEndian.Uint64(b)), Epoch: int16(binary.LittleEndian.Uint16(b[8:]))}
	if who.ID < 0 || who.Epoch < 0 {
		err = fmt.Errorf("want a producer, found id %d with epoch %d", who.ID, who.Epoch)
	}
	return who, err
}

func appendTxnItem(dst []byte, i *txnItem) []byte {
	dst = appendTxnPart(binary.LittleEndian.AppendUint32(dst, i.tenant), i.part)
	dst = appendTxnProducer(binary.LittleEndian.AppendUint32(dst, uint32(i.lead)), i.who)
	dst = binary.LittleEndian.AppendUint64(dst, i.serial)
	if i.commit {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// decodeTxnItems reads the partitions of a request. It keeps nothing of b.
func decodeTxnItems(b []byte) ([]txnItem, error) {
	b, err := txnBody(b)
	if err != nil {
		return nil, err
	}
	n := len(b) / txnItemSize
	if n == 0 || n > txnItemsMax || len(b)%txnItemSize != 0 {
		return nil, fmt.Errorf("want 1 to %d partitions of %d bytes, found %d bytes", txnItemsMax, txnItemSize, len(b))
	}
	list := make([]txnItem, n)
	for i := range list {
		if list[i], err = decodeTxnItem(b[i*txnItemSize:]); err != nil {
			return nil, fmt.Errorf("partition %d of the request: %w", i, err)
		}
	}
	return list, nil
}

func decodeTxnItem(b []byte) (i txnItem, err error) {
	i.tenant, i.lead, i.serial = binary.LittleEndian.Uint32(b), record.Epoch(binary.LittleEndian.Uint32(b[24:])), binary.LittleEndian.Uint64(b[38:])
	if i.part, err = txnPart(b[4:]); err != nil {
		return i, err
	}
	if i.who, err = txnProducer(b[28:]); err != nil {
		return i, err
	}
	if b[46] > 1 {
		return i, fmt.Errorf("want 1 for a commit, else 0, found %d", b[46])
	}
	i.commit = b[46] == 1
	return i, nil
}

// txnBody is what is behind the version.
func txnBody(b []byte) ([]byte, error) {
	if len(b) == 0 || b[0] != txnWire {
		return nil, fmt.Errorf("want version %d of a request for transactions, found % x", txnWire, b[:min(len(b), 1)])
	}
	return b[1:], nil
}

// txnJoin is what a node asks the coordinator of a transactional id.
type txnJoin struct {
	tenant uint32
	id     string
	who    broker.ProducerIdentity
	parts  []broker.TopicPartition
	verify bool
}

var errTxnJoin = fmt.Errorf("%w: a transactional id of at most %d bytes, and 1 to %d partitions", broker.ErrInvalidRequest, 1<<16-1, txnPartsMax)

func (j *txnJoin) encode() ([]byte, error) {
	if len(j.id) > 1<<16-1 || len(j.parts) == 0 || len(j.parts) > txnPartsMax {
		return nil, errTxnJoin
	}
	b := make([]byte, 2, txnJoinFixed+len(j.id)+len(j.parts)*txnPartSize)
	if b[0] = txnWire; j.verify {
		b[1] = 1
	}
	b = appendTxnProducer(binary.LittleEndian.AppendUint32(b, j.tenant), j.who)
	b = append(binary.LittleEndian.AppendUint16(b, uint16(len(j.id))), j.id...)
	for _, p := range j.parts {
		b = appendTxnPart(b, p)
	}
	return b, nil
}

// decodeTxnJoin keeps nothing of b.
func decodeTxnJoin(b []byte) (j txnJoin, err error) {
	if b, err = txnBody(b); err != nil {
		return j, err
	}
	const fixed = txnJoinFixed - 1
	if len(b) < fixed {
		return j, fmt.Errorf("want at least %d bytes, found %d", fixed, len(b))
	}
	if b[0] > 1 {
		return j, fmt.Errorf("want 1 to verify, else 0, found %d", b[0])
	}
	j.verify, j.tenant = b[0] == 1, binary.LittleEndian.Uint32(b[1:])
	if j.who, err = txnProducer(b[5:]); err != nil {
		return j, err
	}
	id := int(binary.LittleEndian.Uint16(b[15:]))
	if b = b[fixed:]; len(b) < id {
		return j, fmt.Errorf("want a transactional id of %d bytes, found %d", id, len(b))
	}
	j.id, b = string(b[:id]), b[id:]
	n := len(b) / txnPartSize
	if n == 0 || n > txnPartsMax || len(b)%txnPartSize != 0 {
		return j, fmt.Errorf("want 1 to %d partitions of %d bytes, found %d bytes", txnPartsMax, txnPartSize, len(b))
	}
	j.parts = make([]broker.TopicPartition, n)
	for i := range j.parts {
		if j.parts[i], err = txnPart(b[i*txnPartSize:]); err != nil {
			return j, err
		}
	}
	return j, nil
}

// errTxnLate says that a partition's leader has not ended a transaction there yet: it may come about.
var errTxnLate = errors.New("server: the transaction is not ended on the partition yet")

// txnErrors have their codes from 1 on, which are on the wire: new ones come behind.
var txnErrors = [...]error{broker.ErrNotLeader, broker.ErrStaleTxn, broker.ErrInvalidProducerEpoch, broker.ErrUnknownTopic, broker.ErrInvalidRequest,
	broker.ErrConcurrentTransactions, broker.ErrTxnNotAnnounced, broker.ErrProducerFenced, broker.ErrInvalidTxnState, broker.ErrInvalidProducerIDMapping,
	broker.ErrUnavailable, broker.ErrBusy, broker.ErrClosed, errTxnLate}

// txnOther is the code of any other error.
const txnOther = 255

var errTxnOther = errors.New("server: the other node has failed")

// txnCode is an error on the wire.
func txnCode(err error) byte {
	if err == nil {
		return 0
	}
	for i, e := range txnErrors {
		if errors.Is(err, e) {
			return byte(i + 1)
		}
	}
	return txnOther
}

// txnError is what a code says.
func txnError(code byte) error {
	switch {
	case code == 0:
		return nil
	case int(code) <= len(txnErrors):
		return txnErrors[code-1]
	}
	return errTxnOther
}

// txnCodes reads an answer of n codes. They are a view.
func txnCodes(b []byte, n int) ([]byte, error) {
	if len(b) != 1+n || b[0] != txnWire {
		return nil, errLeaderAnswer
	}
	return b[1:], nil
}
