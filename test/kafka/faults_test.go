package kafka

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/testx"
)

var (
	fetches = flag.Int("fetches", 1500, "how many fetches wait in TestWaitingFetches; each takes two file descriptors")
	flapFor = flag.Duration("flap-for", 3*time.Second, "how long they do")
	flaps   = flag.Int("flaps", 500, "how many members flap in TestFlappingMembers")
)

// connect is raw for goroutines of a test.
func (c *cluster) connect() (*raw, error) {
	conn, err := net.DialTimeout("tcp", c.addr, patience)
	return &raw{t: c.t, conn: conn}, err
}

// metric is a value of the node's /metrics, or the sum of those with this beginning.
func (c *cluster) metric(name string) (sum float64) {
	c.t.Helper()
	res, err := http.Get("http://" + c.node.Listeners["http"] + "/metrics")
	if err != nil {
		c.t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		var v float64
		if at := strings.LastIndexByte(lines.Text(), ' '); strings.HasPrefix(lines.Text(), name) && at > 0 {
			_, _ = fmt.Sscan(lines.Text()[at+1:], &v)
			sum += v
		}
	}
	return sum
}

// cpu is the processor time that the node has taken.
func (c *cluster) cpu() time.Duration {
	c.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.node.PID))
	if err != nil {
		c.t.Skip("no /proc: ", err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	var user, system int64
	fields := strings.Fields(rest)
	_, _ = fmt.Sscan(fields[11], &user)
	_, _ = fmt.Sscan(fields[12], &system)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// descriptors is how many files and connections the node has open.
func (c *cluster) descriptors() int {
	c.t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.node.PID))
	if err != nil {
		c.t.Skip("no /proc: ", err)
	}
	return len(list)
}

// woken is the partition to which TestWaitingFetches produces.
const woken = 7

// Waiting fetches cost memory and nothing else, are woken by what they wait for alone, and leave nothing when their connections go.
func TestWaitingFetches(t *testing.T) {
	const partitions = 50
	c := start(t)
	c.topic("idle", partitions, nil)
	c.topic("other", 1, nil)
	var w waiters
	w.open(t, c, 0) // so that the first round finds what the node makes once
	producer := c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	produce(t, producer, &kgo.Record{Topic: "other", Value: []byte("x")})
	files, before := c.descriptors(), c.rss()
	for round := range 2 {
		w = waiters{}
		w.open(t, c, *fetches)
		connected, had := c.rss(), c.metric(`sluice_kafka_requests_total{api="Fetch"`)
		w.fetch(partitions, int64(round))
		testx.Eventually(t, patience, func() bool { return c.metric(`sluice_kafka_requests_total{api="Fetch"`) >= had+float64(*fetches) }, "not all fetches are taken")
		waiting := c.rss()
		t.Logf("%d fetches wait: %d bytes of each connection, %d of each fetch", *fetches, (connected-before)/int64(*fetches), (waiting-connected)/int64(*fetches))
		if each := (waiting - before - 16<<20) / int64(*fetches); each > 32<<10 {
			t.Errorf("a fetch that waits and its connection take %d bytes", each)
		}
		busy := c.cpu()
		<-time.After(time.Second)
		if busy = c.cpu() - busy; busy > 150*time.Millisecond {
			t.Errorf("the node works %v of a second while fetches wait", busy)
		}
		if n := w.answers.Load(); n != 0 {
			t.Fatalf("%d fetches have an answer, and nothing has come", n)
		}
		produce(t, producer, &kgo.Record{Topic: "idle", Partition: woken, Value: []byte("x")})
		due := int64((*fetches-woken-1)/partitions + 1)
		testx.Eventually(t, patience, func() bool { return w.answers.Load() >= due }, "not all are woken that wait for the partition")
		produce(t, producer, &kgo.Record{Topic: "other", Value: []byte("x")}) // what is woken wrongly has its answer by then
		if n, wrong := w.answers.Load(), w.wrong.Load(); n != due || wrong > 0 {
			t.Errorf("%d are woken of which %d should not, want %d", n, wrong, due)
		}
		w.close()
		testx.Eventually(t, patience, func() bool { return c.descriptors() <= files+4 }, "connections are left")
	}
	for p := range int32(partitions) {
		produce(t, producer, &kgo.Record{Topic: "idle", Partition: p, Value: []byte("y")})
	}
	c.serves("others")
	if grown := c.rss() - before; grown > 48<<20+int64(*fetches)*24<<10 {
		t.Errorf("%d MiB are resident after all have gone", grown>>20)
	}
}

// waiters are connections that fetch.
type waiters struct {
	conns   []*raw
	answers atomic.Int64
	wrong   atomic.Int64 // answers without a record, or of another partition
	all     sync.WaitGroup
}

func (w *waiters) open(t testing.TB, c *cluster, n int) {
	t.Helper()
	for range n {
		r, err := c.connect()
		if err != nil {
			t.Fatalf("connection %d: %v", len(w.conns), err)
		}
		t.Cleanup(func() { _ = r.conn.Close() })
		if _, err := r.try(kmsg.NewPtrApiVersionsRequest()); err != nil {
			t.Fatalf("connection %d: %v", len(w.conns), err)
		}
		w.conns = append(w.conns, r)
	}
}

// fetch has each connection wait a minute for a record of one partition behind what is there: at for woken, which has so many.
func (w *waiters) fetch(partitions int, at int64) {
	for i, r := range w.conns {
		p := int32(i % partitions)
		req := kmsg.NewPtrFetchRequest()
		req.Version = 12
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 60_000, 1, 1<<20, -1
		ft := kmsg.NewFetchRequestTopic()
		ft.Topic = "idle"
		fp := kmsg.NewFetchRequestTopicPartition()
		fp.Partition, fp.PartitionMaxBytes = p, 1<<20
		if p == woken {
			fp.FetchOffset = at
		}
		ft.Partitions = append(ft.Partitions, fp)
		req.Topics = append(req.Topics, ft)
		if r.send(req) != nil {
			w.wrong.Add(1)
			continue
		}
		w.all.Go(func() {
			resp, err := r.receive(req, 2*patience)
			if err != nil {
				return // it was closed
			}
			if f := resp.(*kmsg.FetchResponse); p != woken || len(f.Topics) != 1 || len(f.Topics[0].Partitions[0].RecordBatches) == 0 {
				w.wrong.Add(1)
			}
			w.answers.Add(1)
		})
	}
}

func (w *waiters) close() {
	for _, r := range w.conns {
		_ = r.conn.Close()
	}
	w.all.Wait()
}

// quiet keeps a group of one member alive and notes how long the longest answer takes.
type quiet struct {
	stop    chan struct{}
	done    sync.WaitGroup
	longest time.Duration
	beats   int
	err     error
}

func (c *cluster) quiet(group string) *quiet {
	c.t.Helper()
	r := c.raw()
	id, generation, code := join(r, group, "")
	if code == kerr.MemberIDRequired.Code {
		id, generation, code = join(r, group, id)
	}
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Version, sync.Group, sync.Generation, sync.MemberID = 3, group, generation, id
	if got := r.ask(sync).(*kmsg.SyncGroupResponse).ErrorCode; code != 0 || got != 0 {
		c.t.Fatalf("the quiet group begins with %d and %d", code, got)
	}
	q := &quiet{stop: make(chan struct{})}
	q.done.Go(func() {
		for {
			select {
			case <-q.stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			beat := kmsg.NewPtrHeartbeatRequest()
			beat.Version, beat.Group, beat.Generation, beat.MemberID = 4, group, generation, id
			began := time.Now()
			resp, err := r.try(beat)
			if err == nil {
				err = kerr.ErrorForCode(resp.(*kmsg.HeartbeatResponse).ErrorCode)
			}
			if err != nil {
				q.err = err
				return
			}
			q.longest = max(q.longest, time.Since(began))
			q.beats++
		}
	})
	return q
}

func (q *quiet) end(t testing.TB) {
	t.Helper()
	close(q.stop)
	q.done.Wait()
	t.Logf("the quiet group's longest heartbeat of %d: %v", q.beats, q.longest)
	if q.err != nil || q.longest > time.Second {
		t.Errorf("the quiet group was disturbed: %v, %v", q.err, q.longest)
	}
}

func joinRequest(group, member string) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version = 5
	req.Group, req.MemberID, req.ProtocolType = group, member, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 6000, 500
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Topics = []string{"flap"}
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = "range", meta.AppendTo(nil)
	req.Protocols = append(req.Protocols, p)
	return req
}

func join(r *raw, group, member string) (id string, generation int32, code int16) {
	resp := r.ask(joinRequest(group, member)).(*kmsg.JoinGroupResponse)
	return resp.MemberID, resp.Generation, resp.ErrorCode
}

// Members that come, go, break off and ask in any order cost what they are, hold up no other group, and leave a group that works.
func TestFlappingMembers(t *testing.T) {
	c := start(t, "journal.durability=async")
	c.topic("flap", 20, nil)
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-flaps %d -seed %d", *flaps, *seed)
	for name, flap := range map[string]func(*flapper){"classic": (*flapper).classic, "consumer": (*flapper).consumer} {
		t.Run(name, func(t *testing.T) {
			before := c.rss()
			q := c.quiet("quiet-" + name)
			began := time.Now()
			var all sync.WaitGroup
			var asked atomic.Int64
			for worker := range uint64(16) {
				f := &flapper{c: c, t: t, group: "flap-" + name, r: rand.New(rand.NewPCG(*seed, worker)), asked: &asked, members: make([]flapping, *flaps/16+1)}
				all.Go(func() {
					for time.Since(began) < *flapFor && !t.Failed() {
						flap(f)
					}
					f.leave()
				})
			}
			all.Wait()
			grown := c.rss() - before
			t.Logf("%d requests, %d MiB more are resident", asked.Load(), grown>>20)
			if grown > 256<<20 {
				t.Errorf("%d MiB more are resident", grown>>20)
			}
			q.end(t)
			cl := c.client(kgo.ConsumerGroup("flap-"+name), kgo.ConsumeTopics("flap"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
			produce(t, cl, numbered("flap", 200)...)
			consume(t, cl, 200)
		})
	}
	c.serves("others")
}

// flapping is what a member believes.
type flapping struct {
	id         string
	generation int32
	conn       *raw
	pending    []kmsg.Request // not answered
}

// flapper is one source of members that flap.
type flapper struct {
	c       *cluster
	t       *testing.T
	group   string
	r       *rand.Rand
	asked   *atomic.Int64
	members []flapping
}

// ask sends a request of m, reads an answer if one comes soon, and breaks off now and then.
func (f *flapper) ask(m *flapping, req kmsg.Request) kmsg.Response {
	if m.conn == nil {
		conn, err := f.c.connect()
		if err != nil {
			f.t.Error(err)
			return nil
		}
		m.conn = conn
	}
	f.asked.Add(1)
	err := m.conn.send(req)
	if err != nil || f.r.IntN(8) == 0 || len(m.pending) > 8 {
		m.hangUp()
		return nil
	}
	m.pending = append(m.pending, req)
	var resp kmsg.Response
	for len(m.pending) > 0 {
		if resp, err = m.conn.receive(m.pending[0], 5*time.Millisecond); err != nil {
			m.hangUp() // it may be in the middle of an answer
			return nil
		}
		m.pending = m.pending[1:]
		if j, ok := resp.(*kmsg.JoinGroupResponse); ok && j.MemberID != "" {
			m.id, m.generation = j.MemberID, j.Generation
		}
	}
	return resp
}

func (m *flapping) hangUp() {
	if m.conn != nil {
		_ = m.conn.conn.Close()
	}
	m.conn, m.pending = nil, nil
}

func (f *flapper) classic() {
	m := &f.members[f.r.IntN(len(f.members))]
	switch f.r.IntN(6) {
	case 0, 1:
		f.ask(m, joinRequest(f.group, m.id))
	case 2:
		req := kmsg.NewPtrSyncGroupRequest()
		req.Version, req.Group, req.Generation, req.MemberID = 3, f.group, m.generation, m.id
		for range f.r.IntN(4) {
			a := kmsg.NewSyncGroupRequestGroupAssignment()
			a.MemberID, a.MemberAssignment = f.members[f.r.IntN(len(f.members))].id, make([]byte, f.r.IntN(200))
			req.GroupAssignment = append(req.GroupAssignment, a)
		}
		f.ask(m, req)
	case 3:
		req := kmsg.NewPtrHeartbeatRequest()
		req.Version, req.Group, req.Generation, req.MemberID = 4, f.group, m.generation+int32(f.r.IntN(3))-1, m.id
		f.ask(m, req)
	case 4:
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Version, req.Group, req.Generation, req.MemberID = 8, f.group, m.generation, m.id
		f.ask(m, req)
	case 5:
		m.hangUp()
	}
}

func (f *flapper) consumer() {
	m := &f.members[f.r.IntN(len(f.members))]
	if m.id == "" {
		m.id = fmt.Sprintf("%016x", f.r.Uint64())
	}
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.RebalanceTimeoutMillis = f.group, m.id, -1
	switch f.r.IntN(6) {
	case 0, 1: // joins
		m.generation = 0
		req.MemberEpoch, req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.Topics = 0, 500, []string{"flap"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	case 2, 3: // goes on
		req.MemberEpoch = m.generation
	case 4: // says anything
		req.MemberEpoch = m.generation + int32(f.r.IntN(5)) - 2
		req.SubscribedTopicNames = []string{"flap", "none", fmt.Sprint(f.r.IntN(10))}[:f.r.IntN(3)+1]
	case 5:
		if f.r.IntN(3) == 0 {
			req.MemberEpoch = -1
			break
		}
		m.hangUp()
		return
	}
	if resp, ok := f.ask(m, req).(*kmsg.ConsumerGroupHeartbeatResponse); ok && resp.ErrorCode == 0 {
		m.generation = resp.MemberEpoch
	}
}

// leave takes all members out of the group.
func (f *flapper) leave() {
	r, err := f.c.connect()
	if err != nil {
		f.t.Error(err)
		return
	}
	defer r.conn.Close()
	for i := range f.members {
		m := &f.members[i]
		m.hangUp()
		if m.id == "" {
			continue
		}
		var req kmsg.Request
		if strings.HasSuffix(f.group, "consumer") {
			h := kmsg.NewPtrConsumerGroupHeartbeatRequest()
			h.Group, h.MemberID, h.MemberEpoch = f.group, m.id, -1
			req = h
		} else {
			l := kmsg.NewPtrLeaveGroupRequest()
			l.Version, l.Group = 3, f.group
			who := kmsg.NewLeaveGroupRequestMember()
			who.MemberID = m.id
			l.Members = append(l.Members, who)
			req = l
		}
		if _, err := r.try(req); err != nil {
			f.t.Errorf("%s leaves: %v", m.id, err)
			return
		}
	}
}
