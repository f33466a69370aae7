package server

import (
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka"
)

// txnAnswers is a core that answers for each partition what a test says.
type txnAnswers struct {
	*broker.Broker
	mu       sync.Mutex
	requests int
	asked    []txnItem
	err      func(partition int32) error
	held     map[int32]func(error) // those that are not answered yet
}

func (a *txnAnswers) take(p *broker.Partition, i txnItem) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	i.part = broker.TopicPartition{Topic: p.Topic().ID(), Partition: p.Index()}
	a.asked = append(a.asked, i)
	if a.err == nil {
		return nil
	}
	return a.err(p.Index())
}

// TxnAnnounced makes it a txnCore.
func (a *txnAnswers) TxnAnnounced(p *broker.Partition, lead record.Epoch, who broker.ProducerIdentity, serial uint64) error {
	return a.take(p, txnItem{lead: lead, who: who, serial: serial})
}

// TxnEnded makes it a txnCore.
func (a *txnAnswers) TxnEnded(p *broker.Partition, lead record.Epoch, who broker.ProducerIdentity, serial uint64, commit bool, done func(error)) {
	err := a.take(p, txnItem{lead: lead, who: who, serial: serial, commit: commit})
	a.mu.Lock()
	_, held := a.held[p.Index()]
	if held {
		a.held[p.Index()] = done
	}
	a.mu.Unlock()
	if !held {
		done(err)
	}
}

// txnPair is a node that asks, and one that answers. Their clocks are moved by hand. lead says who leads, for who asks.
type txnPair struct {
	t          *testing.T
	n          *node
	core       *txnAnswers
	asks       *txnPeers
	mesh       *link.Mesh
	here, away *clock.Manual
	node       link.NodeID
	epoch      record.Epoch
	own        bool
}

func newTxnPair(t *testing.T) *txnPair {
	t.Helper()
	start := time.Unix(1_700_000_000, 0)
	w := &txnPair{t: t, here: clock.NewManual(start), away: clock.NewManual(start), node: 2, epoch: 7}
	w.n, w.mesh = linked(t, func(n *node, answers *link.Mesh) {
		w.core = &txnAnswers{Broker: n.broker}
		counted := func(serve func(*link.Request)) func(*link.Request) {
			return func(r *link.Request) {
				w.core.mu.Lock()
				w.core.requests++
				w.core.mu.Unlock()
				serve(r)
			}
		}
		p := &txnPeers{mesh: answers, core: w.core, clock: w.away}
		answers.Serve(methodTxnAnnounce, counted(p.serveAnnounce))
		answers.Serve(methodTxnEnd, counted(p.serveEnd))
	})
	w.asks = &txnPeers{mesh: w.mesh, core: w.core, clock: w.here, lead: func(record.ShardID) (link.NodeID, record.Epoch, bool) { return w.node, w.epoch, w.own }}
	return w
}

// topic makes one of n partitions.
func (w *txnPair) topic(name string, n int) *broker.Topic {
	w.t.Helper()
	made := make(chan error, 1)
	w.n.broker.CreateTopic(0, name, broker.TopicID{byte(len(name)), 3}, n, nil, func(_ *broker.TopicSpec, err error) { made <- err })
	if err := <-made; err != nil {
		w.t.Fatal(err)
	}
	return w.n.broker.Topic(0, name)
}

var txnWho = broker.ProducerIdentity{ID: 1 << 40, Epoch: 12}

// end ends a transaction on partitions, and answers what came of each.
func (w *txnPair) end(list []*broker.Partition, commit bool) []error {
	w.t.Helper()
	var all sync.WaitGroup
	errs := make([]error, len(list))
	for i, p := range list {
		all.Add(1)
		w.asks.EndTxn(p, txnWho, 1<<50+1, commit, func(err error) {
			errs[i] = err
			all.Done()
		})
	}
	w.here.Advance(txnTurn)
	all.Wait()
	return errs
}

// announce is end for the begin of one on a partition.
func (w *txnPair) announce(p *broker.Partition) error {
	done := make(chan error, 1)
	w.asks.AnnounceTxn(p, txnWho, 1<<50, func(err error) { done <- err })
	err := <-done
	w.here.Advance(txnTurn) // the next one is sent at once
	return err
}

// What is asked of a node at a time goes in few requests, and each partition has its own answer.
func TestTxnPeers(t *testing.T) {
	w := newTxnPair(t)
	topic := w.topic("t", 300)
	if err := w.announce(topic.Partition(3)); err != nil {
		t.Error(err)
	}
	want := []txnItem{{lead: 7, who: txnWho, serial: 1 << 50, part: broker.TopicPartition{Topic: topic.ID(), Partition: 3}}}
	if !reflect.DeepEqual(w.core.asked, want) {
		t.Errorf("asked %+v, want %+v", w.core.asked, want)
	}
	w.core.asked, w.core.requests = nil, 0
	w.core.err = func(partition int32) error {
		if partition%3 == 0 {
			return broker.ErrConcurrentTransactions
		}
		return nil
	}
	for i, err := range w.end(topic.Partitions(), true) {
		if errors.Is(err, broker.ErrConcurrentTransactions) != (i%3 == 0) || i%3 != 0 && err != nil {
			t.Errorf("partition %d: %v", i, err)
		}
	}
	if w.core.requests != 2 || len(w.core.asked) != 300 {
		t.Errorf("%d requests for %d partitions, want 2 for 300", w.core.requests, len(w.core.asked))
	}
	for _, i := range w.core.asked {
		if !i.commit || i.serial != 1<<50+1 || i.who != txnWho || i.lead != 7 {
			t.Fatalf("asked %+v", i)
		}
	}
}

// A partition's leader is that of the set of shards which it lies in.
func TestTxnLeader(t *testing.T) {
	k := &kafkaCluster{own: 3}
	k.view.Store(&kafka.View{Shards: 6, All: kafka.Placement{Leader: 1, Epoch: 5}, Sets: []kafka.Placement{{Leader: 2, Epoch: 7}, {Leader: -1, Epoch: 8}, {Leader: 3, Epoch: 9}}})
	for shard, want := range map[record.ShardID]struct {
		node  link.NodeID
		epoch record.Epoch
		own   bool
	}{0: {1, 5, false}, 5: {1, 5, false}, 6: {2, 7, false}, 9: {2, 7, false}, 10: {}, 13: {}, 14: {3, 9, true}, 17: {3, 9, true}, 18: {}} {
		if node, epoch, own := k.leader(shard); node != want.node || epoch != want.epoch || own != want.own {
			t.Errorf("shard %d: node %d in epoch %d, own %v; want %+v", shard, node, epoch, own, want)
		}
	}
}

// Each error that means something to a coordinator, or a client, comes through as what it is; others as one that has the request made again.
func TestTxnErrors(t *testing.T) {
	w := newTxnPair(t)
	topic := w.topic("t", 1)
	for _, want := range append(txnErrors[:len(txnErrors):len(txnErrors)], errTxnOther) {
		answer := want
		if want == errTxnOther { //nolint:errorlint // the same
			answer = errors.New("something else")
		}
		w.core.err = func(int32) error { return answer }
		if err := w.announce(topic.Partition(0)); !errors.Is(err, want) {
			t.Errorf("announced: %v, want %v", err, want)
		}
		if errs := w.end(topic.Partitions(), false); !errors.Is(errs[0], want) {
			t.Errorf("ended: %v, want %v", errs[0], want)
		}
	}
	for _, code := range []byte{byte(len(txnErrors) + 1), 254, txnOther} {
		if !errors.Is(txnError(code), errTxnOther) {
			t.Errorf("code %d is %v", code, txnError(code))
		}
	}
}

// Nobody is asked where nobody leads, or one who led before another that was asked; what this node leads it asks itself; who cannot be reached is an error.
func TestTxnNobody(t *testing.T) {
	w := newTxnPair(t)
	topic := w.topic("t", 1)
	refused := func(what string, want error) {
		t.Helper()
		if err := w.announce(topic.Partition(0)); !errors.Is(err, want) {
			t.Errorf("%s: announced: %v, want %v", what, err, want)
		}
		if errs := w.end(topic.Partitions(), true); !errors.Is(errs[0], want) {
			t.Errorf("%s: ended: %v, want %v", what, errs[0], want)
		}
	}
	w.node = 0
	refused("nobody leads", broker.ErrNotLeader)
	w.node = 9
	refused("the leader is away", link.ErrDown)
	w.node, w.epoch = 2, 6
	refused("an older leader", broker.ErrNotLeader)
	if len(w.core.asked) != 0 {
		t.Errorf("asked %+v", w.core.asked)
	}
	w.node, w.own, w.epoch = 1, true, 8
	refused("this node", nil)
	if len(w.core.asked) != 2 || w.core.requests != 0 {
		t.Errorf("asked %+v by %d requests", w.core.asked, w.core.requests)
	}
}

// A topic that is deleted has nothing to end; one of which the other node has not heard may have.
func TestTxnTopicGone(t *testing.T) {
	w := newTxnPair(t)
	known, gone := w.topic("known", 1), w.topic("go", 1)
	elsewhere := &broker.TopicSpec{Tenant: 3, ID: broker.TopicID{9}, Name: "elsewhere", Partitions: []broker.PartitionSpec{{ID: 1 << 20}}}
	w.n.broker.SetTopic(elsewhere)
	p := w.n.broker.Topic(3, "elsewhere").Partition(0)
	w.core.Broker = broker.New(broker.Options{Shards: 4, Loops: 1}) // that of a node that has not heard of anything
	defer w.core.Close()
	if errs := w.end([]*broker.Partition{known.Partition(0), gone.Partition(0), p}, true); !errors.Is(errs[0], broker.ErrUnknownTopic) || !errors.Is(errs[2], broker.ErrUnknownTopic) {
		t.Error(errs)
	}
	done := make(chan error, 1)
	w.n.broker.DeleteTopic(gone, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if errs := w.end([]*broker.Partition{gone.Partition(0), known.Partition(0)}, true); errs[0] != nil || !errors.Is(errs[1], broker.ErrUnknownTopic) {
		t.Error(errs)
	}
	if err := w.announce(gone.Partition(0)); err != nil {
		t.Error(err)
	}
}

// A partition that takes its time does not keep what came of the others from the coordinator.
func TestTxnLate(t *testing.T) {
	w := newTxnPair(t)
	topic := w.topic("t", 3)
	w.core.held = map[int32]func(error){1: nil}
	answered := make(chan []error, 1)
	w.asks.EndTxn(topic.Partition(0), txnWho, 1, true, func(error) {}) // the others go together behind it
	go func() { answered <- w.end([]*broker.Partition{topic.Partition(1), topic.Partition(2)}, true) }()
	testx.Eventually(t, patience, func() bool {
		w.here.Advance(txnTurn)
		w.core.mu.Lock()
		defer w.core.mu.Unlock()
		return w.core.held[1] != nil && len(w.core.asked) == 3
	}, "the request at the other node")
	w.away.Advance(leaderWait - txnReserve)
	if errs := <-answered; !errors.Is(errs[0], errTxnLate) || errs[1] != nil {
		t.Error(errs)
	}
	w.core.held[1](nil) // nobody waits for it any more
}

// What waits for one node is bounded.
func TestTxnQueueFull(t *testing.T) {
	w := newTxnPair(t)
	p := w.topic("t", 1).Partition(0)
	var all sync.WaitGroup
	var mu sync.Mutex
	busy := 0
	for range txnQueueMax + 3 {
		all.Add(1)
		w.asks.EndTxn(p, txnWho, 1, true, func(err error) {
			if mu.Lock(); errors.Is(err, broker.ErrBusy) {
				busy++
			}
			mu.Unlock()
			all.Done()
		})
	}
	if mu.Lock(); busy != 2 { // the first went
		t.Errorf("%d were refused, want 2", busy)
	}
	mu.Unlock()
	for range txnQueueMax/txnItemsMax + 1 {
		w.here.Advance(txnTurn)
	}
	all.Wait()
	if n := len(w.core.asked); n != txnQueueMax+1 {
		t.Errorf("%d went, want %d", n, txnQueueMax+1)
	}
}

// A node that does not lead in the epoch that is asked says so, and so does one that is asked for a coordinator that it has not.
func TestTxnNotLeader(t *testing.T) {
	core := broker.New(broker.Options{Replicated: true, Shards: 4, StreamSets: 1, Loops: 1})
	defer core.Close()
	core.Local(0).SetWake(func() {})
	core.SetTopic(&broker.TopicSpec{ID: broker.TopicID{1}, Name: "t", Config: broker.TopicConfig{Spread: true}, Partitions: []broker.PartitionSpec{{ID: 1000, Shard: 4}}})
	p := core.Topic(0, "t").Partition(0)
	view := &joinView{}
	n, mesh := linked(t, func(n *node, answers *link.Mesh) {
		(&txnPeers{mesh: answers, core: core, clock: clock.Real{}}).serve()
		(&kafkaLeader{mesh: answers, cluster: view, broker: n.broker, topics: n.topics}).serve()
	})
	asks := &txnPeers{mesh: mesh, core: core, clock: clock.Real{}, lead: func(record.ShardID) (link.NodeID, record.Epoch, bool) { return 2, 77, false }}
	done := make(chan error, 1)
	tell := func(err error) { done <- err }
	asks.AnnounceTxn(p, txnWho, 1, tell)
	if err := <-done; !errors.Is(err, broker.ErrNotLeader) {
		t.Errorf("announced: %v", err)
	}
	asks.EndTxn(p, txnWho, 1, true, tell)
	if err := <-done; !errors.Is(err, broker.ErrNotLeader) {
		t.Errorf("ended: %v", err)
	}
	parts := []broker.TopicPartition{{Topic: p.Topic().ID()}}
	for what, k := range map[string]*kafkaLeader{"by another node": {mesh: mesh, cluster: ledBy(2)}, "without a leader": {mesh: mesh, cluster: ledBy(-1)}, "itself": {cluster: view, broker: n.broker, mesh: mesh}} {
		k.JoinTxn(0, "id", txnWho, parts, false, tell)
		if err := <-done; !errors.Is(err, broker.ErrNotLeader) {
			t.Errorf("joined %s: %v", what, err)
		}
	}
	k := &kafkaLeader{mesh: mesh, cluster: ledBy(2)}
	k.JoinTxn(0, strings.Repeat("x", 1<<16), txnWho, parts, false, tell)
	if err := <-done; !errors.Is(err, broker.ErrInvalidRequest) {
		t.Errorf("an id that is too long: %v", err)
	}
	k.JoinTxn(0, "id", txnWho, nil, false, tell)
	if err := <-done; !errors.Is(err, broker.ErrInvalidRequest) {
		t.Errorf("no partitions: %v", err)
	}
}

// The coordinator that leads is asked by who does not, and what it says comes through.
func TestTxnJoined(t *testing.T) {
	n, mesh := linked(t, func(n *node, answers *link.Mesh) {
		(&kafkaLeader{mesh: answers, cluster: &joinView{leads: true}, broker: n.broker, topics: n.topics}).serve()
	})
	w := &txnPair{t: t, n: n}
	id := w.topic("t", 3).ID()
	made := make(chan broker.ProducerIdentity, 1)
	n.broker.InitProducer(0, "id", time.Minute, broker.ProducerIdentity{ID: -1, Epoch: -1}, func(who broker.ProducerIdentity, err error) {
		if err != nil {
			t.Error(err)
		}
		made <- who
	})
	who := <-made
	done := make(chan error, 1)
	for _, asked := range []*kafkaLeader{{mesh: mesh, cluster: ledBy(2)}, {cluster: &joinView{leads: true}, broker: n.broker}} {
		join := func(name string, who broker.ProducerIdentity, verify bool, parts ...int32) error {
			var list []broker.TopicPartition
			for _, p := range parts {
				list = append(list, broker.TopicPartition{Topic: id, Partition: p})
			}
			asked.JoinTxn(0, name, who, list, verify, func(err error) { done <- err })
			return <-done
		}
		for _, c := range []struct {
			name   string
			who    broker.ProducerIdentity
			verify bool
			parts  []int32
			want   error
		}{
			{"id", who, false, []int32{0, 1}, nil},
			{"id", who, true, []int32{1, 0}, nil},
			{"id", who, true, []int32{1, 2}, broker.ErrTxnNotAnnounced},
			{"id", broker.ProducerIdentity{ID: who.ID, Epoch: who.Epoch + 1}, false, []int32{0}, broker.ErrProducerFenced},
			{"other", who, false, []int32{0}, broker.ErrInvalidProducerIDMapping},
		} {
			if err := join(c.name, c.who, c.verify, c.parts...); !errors.Is(err, c.want) {
				t.Errorf("%+v: %v", c, err)
			}
		}
	}
	described := make(chan broker.TxnDescription, 1)
	n.broker.DescribeTxn(0, "id", func(d broker.TxnDescription) { described <- d })
	if d := <-described; d.State != broker.TxnOngoing || len(d.Partitions) != 2 {
		t.Errorf("the transaction is %+v", d)
	}
}

// joinView is a cluster in which this node leads, or nobody.
type joinView struct{ leads bool }

func (v *joinView) View() *kafka.View {
	if v.leads {
		return &kafka.View{All: kafka.Placement{Leader: 2, Leads: true}}
	}
	return &kafka.View{All: kafka.Placement{Leader: -1}}
}

// What is no request is refused with words.
func TestTxnHostile(t *testing.T) {
	w := newTxnPair(t)
	item := appendTxnItem(nil, &txnItem{who: txnWho})
	with := func(at int, b byte) string {
		c := append([]byte{txnWire}, item...)
		c[1+at] = b
		return string(c)
	}
	for body, want := range map[string]string{
		"":                             "want version 1",
		"\x02" + string(item):          "want version 1 of a request for transactions, found 02",
		"\x01":                         "want 1 to 4096 partitions",
		"\x01" + string(item[1:]):      "found 46 bytes",
		"\x01" + string(item) + "\x00": "found 48 bytes",
		"\x01" + strings.Repeat(string(item), txnItemsMax+1): "want 1 to 4096 partitions",
		with(23, 0x80): "want a partition's number",
		with(35, 0x80): "want a producer",
		with(37, 0x80): "want a producer",
		with(46, 2):    "want 1 for a commit",
	} {
		for _, method := range []uint16{methodTxnAnnounce, methodTxnEnd} {
			done := make(chan error, 1)
			if _, err := w.mesh.Go(2, method, []byte(body), 0, func(m link.Message, err error) {
				if err == nil {
					m.Release()
				}
				done <- err
			}); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%x...: %v, want %q", body[:min(len(body), 60)], err, want)
			}
		}
	}
	if len(w.core.asked) != 0 {
		t.Errorf("asked %+v", w.core.asked)
	}
	whole, err := (&txnJoin{tenant: 1, id: "id", who: txnWho, parts: []broker.TopicPartition{{Partition: 5}}}).encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if _, err := decodeTxnJoin(whole[:n]); err == nil {
			t.Errorf("%d bytes of %d are a request", n, len(whole))
		}
	}
}

// FuzzTxnWire: whatever comes, it is refused or means what it says again.
func FuzzTxnWire(f *testing.F) {
	join, _ := (&txnJoin{tenant: 7, id: "id", who: txnWho, parts: []broker.TopicPartition{{Topic: broker.TopicID{1}, Partition: 5}}, verify: true}).encode()
	f.Add(join)
	f.Add(appendTxnItem([]byte{txnWire}, &txnItem{tenant: 1, lead: -3, who: txnWho, serial: 1 << 60, commit: true}))
	f.Add([]byte{txnWire, 0, 14})
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, err := decodeTxnItems(b); err == nil {
			again := []byte{txnWire}
			for i := range list {
				again = appendTxnItem(again, &list[i])
			}
			if string(again) != string(b) {
				t.Errorf("%x comes back as %x", b, again)
			}
		}
		if j, err := decodeTxnJoin(b); err == nil {
			if again, err := j.encode(); err != nil || string(again) != string(b) {
				t.Errorf("%x comes back as %x, %v", b, again, err)
			}
		}
		if codes, err := txnCodes(b, 2); err == nil {
			for _, c := range codes {
				if err := txnError(c); txnCode(err) != c && txnCode(err) != txnOther {
					t.Errorf("code %d is %v", c, err)
				}
			}
		}
	})
}
