package broker

import (
	"testing"
	"time"
)

// Each acknowledgement and each delivery is counted once, in time: routed at once on one loop and on two, and after a commit.
func TestLatencies(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	tb.clock.Advance(time.Second)
	pub := tb.connect(0, ConnectRequest{ClientID: "pub"})
	here, there := tb.connect(0, ConnectRequest{ClientID: "here"}), tb.connect(1, ConnectRequest{ClientID: "there"})
	kept := tb.connect(1, ConnectRequest{ClientID: "kept", Expiry: time.Hour})
	here.subscribe(1, "live")
	there.subscribe(1, "live")
	kept.subscribe(1, "kept")
	tb.pump()
	for range 3 {
		pub.publish("live", "x", 1, 1)
		tb.clock.Advance(time.Millisecond)
		tb.pump()
	}
	pub.publish("kept", "x", 1, 1)
	tb.clock.Advance(20 * time.Millisecond)
	tb.pump()
	acks, sum, _ := tb.b.Latencies().Ack.Snapshot()
	deliveries, _, buckets := tb.b.Latencies().Delivery.Snapshot()
	if acks != 4 || deliveries != 7 {
		t.Errorf("%d acknowledgements of 4, %d deliveries of 7", acks, deliveries)
	}
	if sum < 0.02 || sum > 0.03 {
		t.Errorf("acknowledgements took %v s together", sum)
	}
	if n := buckets[(10 * time.Microsecond << 10).Seconds()]; n != 6 {
		t.Errorf("%d of 7 deliveries took at most 10 ms", n)
	}
}
