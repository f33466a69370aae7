package perf

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestBudgetWaitingFetch measures what a connection costs whose fetch waits, in a session as clients have it.
func TestBudgetWaitingFetch(t *testing.T) {
	plainBuild(t)
	n := start(t, "listeners.kafka.tcp=127.0.0.1:0", "limits.connections=4000")
	addr := n.ready.Listeners["kafka.tcp"]
	const count = 1500
	open := func(conns int) {
		for range conns {
			waitingFetch(t, addr)
		}
	}
	open(20) // what the first ones build is not theirs
	before := n.settled()
	open(count)
	after := n.settled()
	spend(t, "waiting_fetch.heap_bytes", float64(after.Heap-before.Heap)/count)
	spend(t, "waiting_fetch.goroutines", float64(after.Goroutines-before.Goroutines)/count)
}

// waitingFetch opens a connection that begins a session with one partition, and has its second fetch wait a minute for a record.
func waitingFetch(t *testing.T, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID("budget"))
	meta := kmsg.NewPtrMetadataRequest()
	meta.Version, meta.AllowAutoTopicCreation = 8, true
	mt := kmsg.NewMetadataRequestTopic()
	mt.Topic = kmsg.StringPtr("waited-for")
	meta.Topics = append(meta.Topics, mt)
	ask(t, c, f.AppendRequest(nil, meta, 1))
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MinBytes, req.MaxBytes, req.SessionEpoch = 12, 1, 50<<20, 0
	ft := kmsg.NewFetchRequestTopic()
	ft.Topic = "waited-for"
	fp := kmsg.NewFetchRequestTopicPartition()
	fp.PartitionMaxBytes, fp.CurrentLeaderEpoch = 1<<20, -1
	ft.Partitions = append(ft.Partitions, fp)
	req.Topics = append(req.Topics, ft)
	first := ask(t, c, f.AppendRequest(nil, req, 2))
	session := int32(binary.BigEndian.Uint32(first[4+1+4+2:])) // behind correlation id, tags, throttle time and code
	if session == 0 {
		t.Fatal("the fetch began no session")
	}
	req.SessionID, req.SessionEpoch, req.MaxWaitMillis, req.Topics = session, 1, 60_000, nil
	if _, err := c.Write(f.AppendRequest(nil, req, 3)); err != nil {
		t.Fatal(err)
	}
}

// ask sends a request and gives its answer without the size.
func ask(t *testing.T, c net.Conn, req []byte) []byte {
	t.Helper()
	if _, err := c.Write(req); err != nil {
		t.Fatal(err)
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return b
}
