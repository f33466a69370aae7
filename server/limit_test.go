package server

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
	kwire "github.com/sluicemq/sluice/proto/kafka/wire"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// kafkaAsk sends a request in a version without flexible headers, and reads the answer.
func kafkaAsk[R kmsg.Response](t testing.TB, c net.Conn, req kmsg.Request, version int16) R {
	t.Helper()
	req.SetVersion(version)
	if req.IsFlexible() {
		t.Fatalf("version %d of request %d has a flexible header", version, req.Key())
	}
	_, err := c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, 1))
	var size [4]byte
	if err == nil {
		_, err = io.ReadFull(c, size[:])
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if err == nil {
		_, err = io.ReadFull(c, b)
	}
	resp := req.ResponseKind()
	if err == nil {
		err = resp.ReadFrom(b[4:])
	}
	if err != nil {
		t.Fatal(err)
	}
	return resp.(R)
}

// A log that has journal.max_bytes refuses what it would have to keep with the reasons that a full disk has in each protocol; what deletes is
// taken, and makes room. Length: a node that fills, asked by each protocol on the way.
func TestMaxBytes(t *testing.T) {
	cfg := config.Default()
	mem := vfs.NewMem()
	const most = 8 << 20
	n, url := testNode(t, mem, func(o *nodeOptions) {
		o.storage.maxBytes = most
		o.kafka.settings = kafkaSettings(&cfg)
	})
	defer func() {
		if err := stopNode(n); err != nil {
			t.Error(err)
		}
	}()
	addr, err := n.listen(door{name: "kafka.tcp", network: "tcp", address: "127.0.0.1:0", kafka: true})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	keeper := dial(t, url, "keeper", 3600)
	subscribe(t, keeper, "kept", 1)
	_ = keeper.Close()
	pub := dial(t, url, "pub", 0)

	create := kmsg.NewPtrCreateTopicsRequest()
	create.Topics = []kmsg.CreateTopicsRequestTopic{{Topic: "t", NumPartitions: 1, ReplicationFactor: 1}}
	if r := kafkaAsk[*kmsg.CreateTopicsResponse](t, c, create, 4); r.Topics[0].ErrorCode != 0 {
		t.Fatalf("create: %d", r.Topics[0].ErrorCode)
	}
	produce := func() kwire.ErrorCode {
		var b record.BatchBuilder
		b.Begin(nil, time.Now().UnixMilli())
		b.Append(&record.Input{Value: make([]byte, 50<<10), Timestamp: time.Now().UnixMilli()})
		part := kmsg.ProduceRequestTopicPartition{Records: b.Finish(&record.BatchOptions{})}
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = -1, 10000
		req.Topics = []kmsg.ProduceRequestTopic{{Topic: "t", Partitions: []kmsg.ProduceRequestTopicPartition{part}}}
		return kwire.ErrorCode(kafkaAsk[*kmsg.ProduceResponse](t, c, req, 8).Topics[0].Partitions[0].ErrorCode)
	}
	code := kwire.None
	for i := 0; i < 1000 && code == kwire.None; i++ {
		code = produce()
	}
	if code != kwire.KafkaStorageError {
		t.Fatalf("a log at its bound answers a producer with %v", code)
	}
	if code, _ := pub.Publish(&wire.PublishOut{Topic: []byte("kept"), QoS: 1, Payload: make([]byte, 1000)}); code != wire.QuotaExceeded && code != wire.ImplementationSpecific {
		t.Errorf("and a publisher with %v", code)
	}
	if code, err := pub.Publish(&wire.PublishOut{Topic: []byte("free"), QoS: 1}); code.Failed() {
		t.Errorf("what nobody keeps: %v, %v", code, err)
	}
	counts := n.storage.counts()
	if used := counts.logBytes + counts.partBytes; !counts.limited || counts.failedFull != 0 || used > most || used < most/2 {
		t.Errorf("%+v", counts)
	}

	testx.Eventually(t, patience, func() bool { return n.storage.counts().failedLimit > 0 }, "no refusal is counted")

	trim := kmsg.NewPtrDeleteRecordsRequest()
	trim.TimeoutMillis = 10000
	trim.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: "t", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Offset: -1}}}}
	if r := kafkaAsk[*kmsg.DeleteRecordsResponse](t, c, trim, 1); r.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("delete records: %d", r.Topics[0].Partitions[0].ErrorCode)
	}
	testx.Eventually(t, patience, func() bool { return produce() == kwire.None }, "what was deleted has made no room")
	testx.Eventually(t, patience, func() bool {
		code, _ := pub.Publish(&wire.PublishOut{Topic: []byte("kept"), QoS: 1})
		return !code.Failed()
	})
}
