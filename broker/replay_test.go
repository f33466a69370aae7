package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

// replayer is a client that has room for so many messages, and replays k/# from the beginning.
func (bb *boundBench) replayer(loop int, req ConnectRequest, qos QoS, room int) *roomClient {
	bb.t.Helper()
	s := &roomClient{testClient: bb.connect(loop, req), room: room}
	s.c.sub = s
	errs := make([]error, 1)
	ask := []SubscribeRequest{{Filter: []byte("k/#"), QoS: qos, From: ReplayFrom{Kind: ReplayEarliest}}}
	if _, err := s.l.Subscribe(s.c, ask, errs, 1); err != nil || errs[0] != nil {
		bb.t.Fatal(err, errs)
	}
	bb.pump()
	return s
}

// more gives a client room for so many messages more.
func (c *roomClient) more(n int) {
	c.room += n
	c.l.Ready(c.c)
	c.tb.pump()
}

// put produces a record of the stream's partition 0, which comes to so many bytes.
func (bb *boundBench) put(value string, size int) {
	bb.t.Helper()
	bb.produce(bb.partition(0), records(record.BatchOptions{}, record.Input{Key: []byte("k/1"), Value: []byte(value),
		Headers: []record.Header{{Key: []byte("filler"), Value: []byte(strings.Repeat("x", size))}}}), AppendOptions{})
}

// numbers are the values that put was called with.
func numbers(word string, from, to int) (list []string) {
	for i := from; i < to; i++ {
		list = append(list, fmt.Sprint(word, i))
	}
	return list
}

// A replay whose topic is deleted ends; what is published to the topic of the same name that is made then comes as usual, once and all of it.
func TestReplayTopicGone(t *testing.T) {
	for _, cold := range []bool{false, true} {
		bb := newBoundBench(t, "k/#")
		bb.log.cold = cold
		for _, v := range numbers("old", 0, 30) {
			bb.put(v, 10<<10)
		}
		s := bb.replayer(1, live("s"), 1, 3)
		old := bb.b.Topic(0, "t")
		bb.bind()
		gone := error(ErrConcurrent)
		bb.b.DeleteTopic(old, func(err error) { gone = err })
		bb.pump()
		if gone != nil || !old.Dropped() {
			t.Fatal("the topic stays: ", gone)
		}
		bb.b.SetTopic(topicSpec("t", 2, 200, 201))
		bb.bind("k/#")
		for _, v := range numbers("new", 0, 10) {
			bb.put(v, 0)
		}
		s.more(100)
		for _, v := range numbers("new", 10, 20) {
			bb.put(v, 0)
		}
		var was, is []string
		for _, v := range s.payloads() {
			if strings.HasPrefix(v, "old") {
				was = append(was, v)
			} else {
				is = append(is, v)
			}
		}
		if len(was) < 3 || len(was) > 12 || !slices.Equal(was, numbers("old", 0, len(was))) { // what had been read still comes
			t.Errorf("cold %v: of what is gone came %q", cold, was)
		}
		if !slices.Equal(is, numbers("new", 0, 20)) {
			t.Errorf("cold %v: of the new topic came %q", cold, is)
		}
		if s.c.replaying() || bb.faults.Load() != 0 {
			t.Errorf("cold %v: the replay goes on, or %d errors are logged", cold, bb.faults.Load())
		}
		// A replay that begins now reads the new topic.
		again := bb.replayer(0, live("again"), 1, 100)
		if got := again.payloads(); !slices.Equal(got, numbers("new", 0, 20)) {
			t.Errorf("cold %v: a replay of the new topic gives %q", cold, got)
		}
		bb.settled()
	}
}

// A replay goes on with the first record that is left where those that it was to read are deleted, as retention does it too, and loses none of the others.
func TestReplayRecordsGone(t *testing.T) {
	for _, cold := range []bool{false, true} {
		for _, all := range []bool{false, true} {
			bb := newBoundBench(t, "k/#")
			bb.log.cold = cold
			for _, v := range numbers("v", 0, 40) {
				bb.put(v, 10<<10)
			}
			s := bb.replayer(1, live("s"), 1, 3)
			p, to := bb.partition(0), record.Offset(30)
			if all {
				to = 40
			}
			gone := error(ErrConcurrent)
			p.shard.home.DeleteRecords(p, to, func(_ record.Offset, err error) { gone = err })
			bb.pump()
			if gone != nil {
				t.Fatal(gone)
			}
			s.more(2)
			for _, v := range numbers("v", 40, 45) {
				bb.put(v, 0)
			}
			s.more(100)
			for _, v := range numbers("v", 45, 50) {
				bb.put(v, 0)
			}
			got := s.payloads()
			n := len(got) - (50 - int(to)) // before what was deleted: as much as had been read
			if n < 3 || n > 12 || !slices.Equal(got[:n], numbers("v", 0, n)) || !slices.Equal(got[n:], numbers("v", int(to), 50)) {
				t.Errorf("cold %v, to %d: got %q", cold, to, got)
			}
			if s.c.replaying() || bb.faults.Load() != 0 {
				t.Errorf("cold %v, to %d: the replay goes on, or %d errors are logged", cold, to, bb.faults.Load())
			}
			bb.settled()
		}
	}
}

// A kept session whose replay breaks off gets all that was published since it subscribed from its queue, at QoS 2 too what the replay had given
// it of that: nobody knows what of it has come. What was before comes when it asks again.
func TestReplayBrokenOff(t *testing.T) {
	for _, crash := range []bool{false, true} {
		bb := newBoundBench(t, "k/#")
		all := ConnectRequest{ClientID: "s", Expiry: NeverExpires, ReceiveMax: 100}
		for _, v := range numbers("old", 0, 10) {
			bb.put(v, 0)
		}
		s := bb.replayer(1, all, 2, 3)
		pub := bb.connect(0, live("pub"))
		for i, v := range numbers("new", 0, 5) {
			pub.publish("k/1", v, 2, Token(i+1))
			bb.pump()
		}
		s.more(9)
		if got := s.payloads(); !slices.Equal(got, append(numbers("old", 0, 10), "new0", "new1")) {
			t.Fatalf("the replay gives %q", got)
		}
		if crash {
			bb = &boundBench{bb.crashed()}
			bb.bind("k/#")
		} else {
			s.disconnect()
		}
		again := bb.connect(0, all)
		bb.pump()
		if got := again.payloads(); !slices.Equal(got, numbers("new", 0, 5)) {
			t.Errorf("crash %v: the queue gives %q", crash, got)
		}
		for _, g := range again.got {
			if g.qos != 2 {
				t.Errorf("%s comes at QoS %d", g.payload, g.qos)
			}
		}
		again.ackAll()
		again.disconnect()
		// It asks again, and gets all of it once.
		third := bb.replayer(0, all, 2, 100)
		bb.put("new5", 0)
		if got := third.payloads(); !slices.Equal(got, append(numbers("old", 0, 10), numbers("new", 0, 6)...)) {
			t.Errorf("crash %v: a replay to its end gives %q", crash, got)
		}
	}
}

// A client in the middle of a replay asks for the same filter from the end on: it gets nothing more of the past, whether the replay waits for room
// or has not begun, and all that comes, once. So does one that names an offset ahead of all. A kept session has in its queue what came since it
// subscribed, and gets it.
func TestReplayThenLatest(t *testing.T) {
	for _, keep := range []bool{false, true} {
		for _, from := range []ReplayFrom{{Kind: ReplayLatest}, {Kind: ReplayOffset, Offset: 1 << 62}} {
			for _, room := range []int{0, 3} {
				name := fmt.Sprint("kept ", keep, ", kind ", from.Kind, ", room ", room)
				bb := newBoundBench(t, "k/#")
				for _, v := range numbers("old", 0, 10) {
					bb.put(v, 0)
				}
				req := live("s")
				if keep {
					req = ConnectRequest{ClientID: "s", Expiry: NeverExpires, ReceiveMax: 100}
				}
				s := bb.replayer(1, req, 1, room)
				if got := s.payloads(); !slices.Equal(got, numbers("old", 0, room)) {
					t.Fatalf("%s: the replay gives %q", name, got)
				}
				errs := make([]error, 1)
				ask := []SubscribeRequest{{Filter: []byte("k/#"), QoS: 1, From: from}}
				if _, err := s.l.Subscribe(s.c, ask, errs, 2); err != nil || errs[0] != nil {
					t.Fatal(name, err, errs)
				}
				s.more(100)
				for _, v := range numbers("new", 0, 3) {
					bb.put(v, 0)
				}
				bb.pump()
				if got, want := s.payloads(), append(numbers("old", 0, room), numbers("new", 0, 3)...); !slices.Equal(got, want) {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
				s.disconnect()
				bb.settled()
			}
		}
	}
}

// A kept session that leaves a filter in the middle of its replay gets what waits for its other filters.
func TestReplayLeft(t *testing.T) {
	bb := newBoundBench(t, "k/#")
	for _, v := range numbers("old", 0, 10) {
		bb.put(v, 0)
	}
	s := bb.replayer(1, ConnectRequest{ClientID: "s", Expiry: NeverExpires, ReceiveMax: 100}, 1, 3)
	s.subscribe(1, "other")
	bb.pump()
	pub := bb.connect(0, live("pub"))
	pub.publish("other", "waits", 1, 1)
	bb.pump()
	errs := make([]error, 1)
	if _, err := s.l.Unsubscribe(s.c, []SubscribeRequest{{Filter: []byte("k/#")}}, errs, 3); err != nil || errs[0] != nil {
		t.Fatal(err, errs)
	}
	s.room += 100
	bb.pump()
	if got := s.payloads(); !slices.Contains(got, "waits") {
		t.Errorf("got %q", got)
	}
}

// However many filters a packet asks the past for, a connection has as many replays as it may, live or kept, in one packet or in several; the rest is answered so.
func TestReplaysBounded(t *testing.T) {
	for what, mk := range map[string]func(string) ConnectRequest{"live": live, "kept": kept} {
		bb := newBoundBench(t, "k/#")
		bb.put("old", 0)
		c := bb.connect(0, mk("s"))
		refused := 0
		for packet := range 3 {
			var reqs []SubscribeRequest
			for i := range 1000 {
				reqs = append(reqs, SubscribeRequest{Filter: fmt.Append(nil, "k/", packet, "/", i), QoS: 1, From: ReplayFrom{Kind: ReplayEarliest}})
			}
			errs := make([]error, len(reqs))
			if _, err := c.l.Subscribe(c.c, reqs, errs, 1); err != nil {
				t.Fatal(err)
			}
			for _, err := range errs {
				if errors.Is(err, ErrQuota) {
					refused++
				} else if err != nil {
					t.Error(err)
				}
			}
			if n := len(c.c.more.replays); n > replaysMax {
				t.Errorf("%s: %d replays", what, n)
			}
		}
		if refused < 3000-replaysMax {
			t.Errorf("%s: %d of 3000 are refused", what, refused)
		}
		bb.pump()
		c.disconnect()
	}
}
