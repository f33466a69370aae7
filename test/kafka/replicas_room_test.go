package kafka

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// large is more than a leader's list has room for when it is full.
var large = strings.Repeat("x", 1000<<10)

// fill has the followers held, and the leader's list of partition 0 full: it says how many batches are stored.
func (tr *trio) fill() (n int64) {
	tr.t.Helper()
	tr.hold(true)
	r := tr.raw(leaderAt)
	for late := 0; late < 12; n++ { // the first that are late are in the list, which is not written any more
		if n == 64 {
			tr.t.Fatal("there is room for ever")
		}
		m := produceTo(tr, 9, 1, 100*time.Millisecond, oneBatch(large, 76, 0, int32(n)))
		switch p, _ := produced(r, m); wire.ErrorCode(p.ErrorCode) {
		case wire.None:
			late = 0
		case wire.RequestTimedOut:
			if late++; p.ErrorMessage != nil {
				return n - 1 // the one before has had no room
			}
		default:
			tr.t.Fatalf("batch %d: %s", n, wire.ErrorCode(p.ErrorCode))
		}
	}
	tr.t.Fatal("what comes behind one without room has room")
	return n
}

// TestRoomInTime: a producer that waits for room, as followers are slow, is answered when its time is over, and what it has sent behind that is not stored before it, though the
// partition knows nothing of the producer. All is stored once and in order when it comes again.
func TestRoomInTime(t *testing.T) {
	tr := ledTrio(t)
	stored := tr.fill()
	r := tr.raw(leaderAt)
	elsewhere := kmsg.NewProduceRequestTopicPartition()
	elsewhere.Partition, elsewhere.Records = 9, oneBatch("z", 77, 0, 0)
	first, second := produceTo(tr, 9, -1, 100*time.Millisecond, oneBatch(large, 77, 0, 0)), produceTo(tr, 9, -1, patience, oneBatch("b", 77, 0, 1))
	first.Topics[0].Partitions = append(first.Topics[0].Partitions, elsewhere)
	r.begin(first)
	r.begin(second)
	p := answers(r.end(first))
	expect(t, "no room in time", p[0].ErrorCode, wire.RequestTimedOut)
	expect(t, "a partition that is not there", p[1].ErrorCode, wire.UnknownTopicOrPartition)
	expect(t, "what was sent behind it", answers(r.end(second))[0].ErrorCode, wire.RequestTimedOut)
	tr.hold(false)
	first.TimeoutMillis = int32(patience.Milliseconds())
	for i, m := range []*kmsg.ProduceRequest{first, second, first, second} {
		r.begin(m)
		if p := answers(r.end(m)); p[0].ErrorCode != 0 || p[0].BaseOffset != stored+int64(i%2) {
			t.Errorf("sent again: %s at %d, want %d", wire.ErrorCode(p[0].ErrorCode), p[0].BaseOffset, stored+int64(i%2))
		}
	}
}
