package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/testx"
)

var (
	mutants = flag.Int("mutants", 120, "how many changed requests of each API TestHostileMutations sends")
	seed    = flag.Uint64("seed", 0, "of TestHostileMutations; 0 draws one")
)

func (c *cluster) dial() net.Conn {
	c.t.Helper()
	conn, err := net.DialTimeout("tcp", c.addr, patience)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// rss is the resident memory of the node in bytes.
func (c *cluster) rss() (n int64) {
	c.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.node.PID))
	if err != nil {
		c.t.Skip("no /proc: ", err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	if _, err := fmt.Sscanf(rest, "%d kB", &n); err != nil {
		c.t.Fatal(err)
	}
	return n << 10
}

// serves checks that the node does its work as if nothing had been.
func (c *cluster) serves(topic string) {
	c.t.Helper()
	cl := c.client(kgo.DefaultProduceTopic(topic), kgo.ConsumeTopics(topic), kgo.AllowAutoTopicCreation())
	produce(c.t, cl, numbered(topic, 20)...)
	consume(c.t, cl, 20)
	if log := c.node.Log(); strings.Contains(log, "panic") || strings.Contains(log, "goroutine ") {
		c.t.Fatal(log)
	}
}

func sized(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }

func request(key, version int16, body ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, 1)
	return sized(append(append(b, 0xff, 0xff), body...)) // no client id
}

// TestBrokenStreams: what cannot be read as a request ends its own connection, soon and without an answer, as Kafka does it.
func TestBrokenStreams(t *testing.T) {
	c := start(t, "kafka.request_size=1MiB")
	for name, b := range map[string][]byte{
		"negative size":                {0xff, 0xff, 0xff, 0xff},
		"size over the limit":          {0x00, 0x10, 0x00, 0x01},
		"size below a header":          {0, 0, 0, 9},
		"unknown API":                  request(9999, 0),
		"negative API":                 request(-1, 0),
		"version of the past":          request(0, 0),
		"version of the future":        request(3, 99),
		"client id longer than it all": sized([]byte{0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 'x'}),
		"Metadata without a body":      request(3, 1),
		"two thousand million topics":  request(3, 1, 0x7f, 0xff, 0xff, 0xff),
		"Produce of nothing":           request(0, 9),
		"Fetch that is cut":            request(1, 12, 0, 0, 0),
		"TLS":                          []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on, a ClientHello to the wrong port"),
		"HTTP":                         []byte("GET / HTTP/1.1\r\nHost: sluice\r\n\r\n"),
		"MQTT":                         []byte("\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00 and more of it"),
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			conn := c.dial()
			if _, err := conn.Write(b); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			if got, err := io.ReadAll(conn); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d bytes of an answer, %v", len(got), err)
			}
		})
	}
	c.serves("after")
}

// TestHostileMutations sends requests of every API with bytes changed, cut and grown, each on a connection that a good request begins. The node may
// answer or hang up, and goes on for others.
func TestHostileMutations(t *testing.T) {
	c := start(t, "kafka.request_size=1MiB", "journal.durability=async", "limits.packet_size=256KiB")
	c.serves("before")
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-mutants %d -seed %d", *mutants, *seed)
	before := c.rss()
	var all sync.WaitGroup
	for worker := range uint64(4) {
		all.Go(func() {
			r := rand.New(rand.NewPCG(*seed, worker))
			for key := int16(0); key <= 75; key++ {
				for range *mutants / 4 {
					c.mutant(r, key)
				}
			}
		})
	}
	all.Wait()
	c.serves("after")
	if grown := c.rss() - before; grown > 256<<20 {
		t.Errorf("%d MiB more are resident", grown>>20)
	}
}

func (c *cluster) mutant(r *rand.Rand, key int16) {
	req := kmsg.RequestForKey(key)
	if req == nil {
		return
	}
	version := int16(r.IntN(int(req.MaxVersion()) + 1))
	req.SetVersion(version)
	fill(req)
	good := kmsg.NewRequestFormatter(kmsg.FormatterClientID("mutant")).AppendRequest(nil, req, 7)
	bad := bytes.Clone(good[4:])
	for range 1 + r.IntN(4) {
		at := 8 + r.IntN(max(len(bad)-8, 1))
		switch at = min(at, len(bad)-1); r.IntN(5) {
		case 0:
			bad[at] = byte(r.Uint32())
		case 1:
			bad[at] = []byte{0, 1, 0x7f, 0x80, 0xff}[r.IntN(5)]
		case 2:
			bad = bad[:at]
		case 3:
			bad = append(bad[:at:at], append(make([]byte, r.IntN(20)), bad[at:]...)...)
		case 4:
			bad = append(bad[:at:at], binary.BigEndian.AppendUint32(nil, r.Uint32()>>r.IntN(32))...)
			bad = append(bad, good[min(4+at+4, len(good)):]...)
		}
	}
	conn, err := net.DialTimeout("tcp", c.addr, patience)
	if err != nil {
		c.t.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = conn.Write(append(request(18, 0), sized(bad)...)) // it may be closed before all is written
	head := make([]byte, 8)
	if _, err := io.ReadFull(conn, head); err != nil {
		c.t.Errorf("API %d version %d, %x: the good request has no answer: %v", key, version, bad, err)
		return
	}
	if r.IntN(2) == 0 {
		return // hangs up while the node is at it
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // an answer, the end, or a wait that was asked for
	_, _ = io.Copy(io.Discard, io.LimitReader(conn, 1<<20))
}

// fill gives a request something to be mutated in.
func fill(req kmsg.Request) {
	switch m := req.(type) {
	case *kmsg.ProduceRequest:
		m.Acks, m.TimeoutMillis = -1, 1000
		t := kmsg.NewProduceRequestTopic()
		t.Topic = "before"
		p := kmsg.NewProduceRequestTopicPartition()
		b := kmsg.RecordBatch{Magic: 2, PartitionLeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: 1, Length: 49 + 10, Records: make([]byte, 10)}
		p.Records = b.AppendTo(nil)
		t.Partitions = append(t.Partitions, p)
		m.Topics = append(m.Topics, t)
	case *kmsg.FetchRequest:
		m.MaxWaitMillis, m.MinBytes, m.MaxBytes = 5, 1, 1<<20
		t := kmsg.NewFetchRequestTopic()
		t.Topic = "before"
		p := kmsg.NewFetchRequestTopicPartition()
		p.PartitionMaxBytes = 1 << 20
		t.Partitions = append(t.Partitions, p)
		m.Topics = append(m.Topics, t)
	case *kmsg.MetadataRequest:
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr("before")
		m.Topics = append(m.Topics, t)
	case *kmsg.ListOffsetsRequest:
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = "before"
		t.Partitions = append(t.Partitions, kmsg.NewListOffsetsRequestTopicPartition())
		m.Topics = append(m.Topics, t)
	case *kmsg.JoinGroupRequest:
		m.Group, m.ProtocolType, m.SessionTimeoutMillis, m.RebalanceTimeoutMillis = "g", "consumer", 6000, 6000
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = "range", make([]byte, 10)
		m.Protocols = append(m.Protocols, p)
	case *kmsg.OffsetCommitRequest:
		m.Group = "g"
		t := kmsg.NewOffsetCommitRequestTopic()
		t.Topic = "before"
		t.Partitions = append(t.Partitions, kmsg.NewOffsetCommitRequestTopicPartition())
		m.Topics = append(m.Topics, t)
	case *kmsg.CreateTopicsRequest:
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = "made", 1, 1
		m.Topics = append(m.Topics, t)
	case *kmsg.ConsumerGroupHeartbeatRequest:
		m.Group, m.MemberID, m.RebalanceTimeoutMillis = "h", "m", 1000
		m.SubscribedTopicNames = []string{"before"}
	case *kmsg.InitProducerIDRequest:
		m.TransactionalID, m.TransactionTimeoutMillis = kmsg.StringPtr("t"), 1000
	case *kmsg.AddPartitionsToTxnRequest:
		m.TransactionalID = "t"
		t := kmsg.NewAddPartitionsToTxnRequestTopic()
		t.Topic, t.Partitions = "before", []int32{0}
		m.Topics = append(m.Topics, t)
	}
}

// TestMuteReader: a client that asks without end and reads nothing is not read from any more, and costs what may wait for it.
func TestMuteReader(t *testing.T) {
	c := start(t, "journal.durability=async")
	c.topic("wide", 2000, nil)
	before := c.rss()
	ask := request(3, 1, 0, 0, 0, 1, 0, 4, 'w', 'i', 'd', 'e')
	for range 8 {
		conn := c.dial()
		go func() {
			_ = conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
			for range 20_000 {
				if _, err := conn.Write(ask); err != nil {
					return // it is full
				}
			}
		}()
	}
	<-time.After(time.Second)
	c.serves("others")
	if grown := c.rss() - before; grown > 224<<20 { // 16 MiB for each connection, and what the collector leaves
		t.Errorf("%d MiB more are resident", grown>>20)
	}
}

// TestAnnounced: requests that are announced in full size and do not come hold no memory, and connections that say nothing hold nobody up.
func TestAnnounced(t *testing.T) {
	c := start(t, "journal.durability=async", "kafka.idle_timeout=3s")
	before := c.rss()
	var conns []net.Conn
	for i := range 300 {
		conn := c.dial()
		if i%2 == 0 {
			_, _ = conn.Write([]byte{0x06, 0x3f, 0xff, 0xff, 0, 0, 0, 9, 0, 0, 0, 1, 0xff, 0xff})
		}
		conns = append(conns, conn)
	}
	c.serves("others")
	if grown := c.rss() - before; grown > 64<<20 {
		t.Errorf("%d MiB more are resident", grown>>20)
	}
	testx.Eventually(t, patience, func() bool {
		for _, conn := range conns {
			_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				return false
			}
		}
		return true
	}, "who is silent stays connected beyond kafka.idle_timeout")
}
