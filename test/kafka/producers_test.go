package kafka

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/testx"
)

// plainBatch is a batch of n records without a body, of a producer.
func plainBatch(producer int64, epoch int16, sequence int32, n int) []byte {
	var records []byte
	for i := range n {
		r := kmsg.Record{OffsetDelta: int32(i), Length: 7, Value: []byte("v")}
		records = r.AppendTo(records)
	}
	return sealed(&kmsg.RecordBatch{ProducerID: producer, ProducerEpoch: epoch, FirstSequence: sequence, NumRecords: int32(n), LastOffsetDelta: int32(n - 1)}, records)
}

// producer is an idempotent producer that numbers its batches as the test likes.
type rawProducer struct {
	*raw
	topic, txn string
	id         int64
	epoch      int16
}

func (c *cluster) rawProducer(topic, txn string, timeout time.Duration) *rawProducer {
	p := &rawProducer{raw: c.raw(), topic: topic, txn: txn}
	code := p.init(timeout)
	if code != 0 {
		c.t.Fatalf("InitProducerId: %d", code)
	}
	return p
}

func (p *rawProducer) init(timeout time.Duration) int16 {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.TransactionTimeoutMillis = 4, int32(timeout.Milliseconds())
	if p.txn != "" {
		req.TransactionalID = &p.txn
	}
	resp := p.ask(req).(*kmsg.InitProducerIDResponse)
	p.id, p.epoch = resp.ProducerID, resp.ProducerEpoch
	return resp.ErrorCode
}

// produce sends a batch of n records from a sequence on.
func (p *rawProducer) produce(sequence int32, n int) (code int16, base int64) {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 11, -1, 1000
	b := plainBatch(p.id, p.epoch, sequence, n)
	if p.txn != "" {
		req.TransactionID = &p.txn
		transactional(b)
	}
	t := kmsg.NewProduceRequestTopic()
	t.Topic = p.topic
	pp := kmsg.NewProduceRequestTopicPartition()
	pp.Records = b
	t.Partitions = append(t.Partitions, pp)
	req.Topics = append(req.Topics, t)
	got := p.ask(req).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	return got.ErrorCode, got.BaseOffset
}

func (p *rawProducer) join() int16 {
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch = 3, p.txn, p.id, p.epoch
	t := kmsg.NewAddPartitionsToTxnRequestTopic()
	t.Topic, t.Partitions = p.topic, []int32{0}
	req.Topics = append(req.Topics, t)
	return p.ask(req).(*kmsg.AddPartitionsToTxnResponse).Topics[0].Partitions[0].ErrorCode
}

func (p *rawProducer) end(commit bool) int16 {
	req := kmsg.NewPtrEndTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = 3, p.txn, p.id, p.epoch, commit
	return p.ask(req).(*kmsg.EndTxnResponse).ErrorCode
}

// What a producer sends again is stored once and answered with its first place while it is one of its last five batches; what comes out of
// order is refused and stored not at all. A crash changes nothing of it.
func TestSequences(t *testing.T) {
	c := start(t)
	c.topic("s", 1, nil)
	p := c.rawProducer("s", "", 0)
	want := func(what string, sequence int32, n int, code int16, base int64) {
		t.Helper()
		if gotCode, got := p.produce(sequence, n); gotCode != code || code == 0 && got != base {
			t.Errorf("%s: %d at %d, want %d at %d", what, gotCode, got, code, base)
		}
	}
	order := kerr.OutOfOrderSequenceNumber.Code
	for i := range int32(7) {
		want("in order", 3*i, 3, 0, int64(3*i))
	}
	for _, when := range []string{"at once", "after a crash"} {
		for i := int32(2); i < 7; i++ {
			want("one of the last five, "+when, 3*i, 3, 0, int64(3*i))
		}
		want("older than five batches, "+when, 3, 3, order, 0)
		want("the first, "+when, 0, 3, order, 0)
		want("a gap, "+when, 22, 1, order, 0)
		want("a part of one that is there, "+when, 19, 2, order, 0)
		want("one with more than is there, "+when, 18, 4, order, 0)
		if when == "at once" {
			c.crash()
			p.raw = c.raw()
		}
	}
	want("in order again", 21, 1, 0, 21)
	p.epoch = 1
	want("a new epoch that does not begin at 0", 22, 1, order, 0)
	want("a new epoch", 0, 2, 0, 22)
	p.epoch = 0
	want("the old epoch", 22, 1, kerr.InvalidProducerEpoch.Code, 0)
	p.id = 1 << 40
	want("a producer that nobody knows begins where it likes", 500, 1, 0, 24)
	if got := consume(t, c.client(kgo.ConsumeTopics("s")), 25); len(got) != 25 {
		t.Errorf("%d records are stored", len(got))
	}
}

// A producer that goes away in the middle of a transaction is fenced when its time is over; what it wrote is never seen by who reads committed
// records, and what others wrote behind it is, from then on.
func TestDeadProducers(t *testing.T) {
	c := start(t)
	c.topic("d", 1, nil)
	dead := c.rawProducer("d", "dead", 1500*time.Millisecond)
	if code := dead.join(); code != 0 {
		t.Fatal("join:", code)
	}
	if code, _ := dead.produce(0, 2); code != 0 {
		t.Fatal("produce:", code)
	}
	produce(t, c.client(), &kgo.Record{Topic: "d", Value: []byte("behind")})
	c.crash()
	began := time.Now()
	got := consume(t, c.client(kgo.ConsumeTopics("d"), kgo.FetchIsolationLevel(kgo.ReadCommitted())), 1)
	if string(got[0].Value) != "behind" {
		t.Errorf("%q is seen of a transaction that was never committed", got[0].Value)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a transaction of 1.5 s was ended after %v", took)
	}
	dead.raw = c.raw()
	if code, _ := dead.produce(2, 1); code != kerr.InvalidProducerEpoch.Code {
		t.Errorf("it goes on producing: %d", code)
	}
	if code := dead.end(true); code != kerr.ProducerFenced.Code {
		t.Errorf("it commits: %d", code)
	}
	if code := dead.join(); code != kerr.ProducerFenced.Code {
		t.Errorf("it begins another transaction: %d", code)
	}
	testx.Eventually(t, patience, func() bool { return dead.init(1500*time.Millisecond) == 0 }, "it cannot begin anew")
	if code := dead.join(); code != 0 {
		t.Errorf("it begins anew: %d", code)
	}
	if code, _ := dead.produce(0, 1); code != 0 {
		t.Errorf("it produces anew: %d", code)
	}
	if code := dead.end(true); code != 0 {
		t.Errorf("it commits: %d", code)
	}
	stranger := c.rawProducer("d", "other", time.Minute)
	if code, _ := stranger.produce(0, 1); code == 0 {
		t.Error("a batch comes in whose partition is not part of the transaction")
	}
	stranger.id++
	if code := stranger.join(); code != kerr.InvalidProducerIDMapping.Code {
		t.Errorf("a producer id that is not the transactional id's: %d", code)
	}
}
