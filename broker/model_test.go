package broker

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/journal/record"
)

// The model: random operations against a broker whose loops, log and clock the test moves, beside a plain book of who is owed what.
// What is acknowledged at QoS 1 reaches each entitled durable session at least once, at QoS 2 exactly once, first deliveries in
// order, nothing comes to who is not entitled, and the retained message is the last one acknowledged. A shared group is entitled as a
// whole; in one that has a live member too, nothing comes twice at QoS 2. What is retained comes once for each subscription at QoS 2, and
// at least once where it is kept for the session.

var (
	modelTopics  = []string{"a/b", "a/c", "a/b/c", "x"}
	modelFilters = []string{"a/b", "a/+", "a/#", "#", "x", "+/b"}
	modelKept    = []string{"k0", "k1", "k2"}
)

// modelShards is how many shards a test's broker has.
const modelShards = 4

// memCheckpoints is a Checkpoints in memory with what was flushed apart from what was written.
type memCheckpoints struct {
	written, flushed map[record.ShardID]*shardRows
	replay           int          // the first group that a restart has to replay
	step             func() error // runs before each Write
}

type shardRows struct {
	applied uint64
	at      Place
	rows    map[string][]byte
}

func (r *shardRows) Set(key, value []byte) error {
	r.rows[string(key)] = bytes.Clone(value)
	return nil
}

func (r *shardRows) Delete(key []byte) error {
	delete(r.rows, string(key))
	return nil
}

func (m *memCheckpoints) Write(shard record.ShardID, applied uint64, at Place, fn func(RowWriter) error) error {
	if m.step != nil {
		if err := m.step(); err != nil {
			return err
		}
	}
	next := &shardRows{applied: applied, at: at, rows: map[string][]byte{}}
	if old := m.written[shard]; old != nil {
		next.rows = maps.Clone(old.rows)
		if at.Offset < old.at.Offset || applied < old.applied {
			return fmt.Errorf("checkpoint of shard %d moves back", shard)
		}
	}
	if m.written == nil {
		m.written = map[record.ShardID]*shardRows{}
	}
	m.written[shard] = next
	return fn(next)
}

func (m *memCheckpoints) Load(shard record.ShardID, fn func(key, value []byte) error) (uint64, error) {
	r := m.flushed[shard]
	if r == nil {
		return 0, nil
	}
	for _, k := range slices.Sorted(maps.Keys(r.rows)) {
		if err := fn([]byte(k), r.rows[k]); err != nil {
			return 0, err
		}
	}
	return r.applied, nil
}

// flushEarly is what the store may do by itself at any time: the rows are durable, and a restart replays from where it would have.
func (m *memCheckpoints) flushEarly() { m.flushed = maps.Clone(m.written) }

func (m *memCheckpoints) Flush() error {
	m.flushEarly()
	from := int64(1 << 62)
	for _, r := range m.flushed {
		from = min(from, r.at.Offset)
	}
	if len(m.flushed) == modelShards {
		m.replay = int(from)
	}
	return nil
}

// modelMessage is one publish.
type modelMessage struct {
	n         int
	publisher string
	topic     string
	qos       QoS
	retain    bool
	acked     int // when, in operations; 0: not yet
	failed    bool
	hidden    bool            // of a transaction that is not committed: nobody may get it
	free      bool            // what the bindings said of it has changed since: it need not come
	offset    record.Offset   // in its stream, where stored
	stored    bool            // the stream has it
	loose     bool            // was not acknowledged when a group failed: if it is sent again, it comes behind what was sent after it
	app       map[string]int  // deliveries to the application of each session
	once      map[string]bool // those that came at QoS 2
}

// modelSession is what a durable client id is owed. It ends with a clean start.
type modelSession struct {
	id       string
	subs     map[string]QoS             // acknowledged
	asked    map[string]int             // when a filter was first asked for
	must     map[int]map[string]bool    // message -> the filters that entitle to it
	got      []int                      // first deliveries
	heldIDs  map[uint16]int             // QoS 2 identifiers that the client has and that are not released
	doubtful bool                       // a clean start was asked for: the session ends with it, or goes on if that is not committed
	last     map[string]int             // filter -> the last time that it was asked for or given up
	brought  map[int]int                // retained deliveries at QoS 2 of each message
	wanted   map[string]int             // subscriptions that may have brought each topic's
	streamed map[string]record.Offset   // topic and QoS -> behind the last first delivery from a stream
	owed     map[string]map[string]bool // topic -> the filters that are to bring its retained message
}

func newModelSession(id string) *modelSession {
	s := &modelSession{id: id, asked: map[string]int{}, last: map[string]int{}, wanted: map[string]int{}}
	s.reset()
	return s
}

func (s *modelSession) reset() {
	s.must, s.subs, s.heldIDs, s.got = map[int]map[string]bool{}, map[string]QoS{}, map[uint16]int{}, nil
	s.brought, s.owed, s.streamed = map[int]int{}, map[string]map[string]bool{}, map[string]record.Offset{}
}

type model struct {
	t        *rapid.T
	tb       *testBroker
	points   *memCheckpoints
	op       int
	clients  map[string]*modelClient
	sessions map[string]*modelSession
	messages []*modelMessage
	shared   map[string]map[int]bool // owed to the members of shared groups
	retained map[string][]int
	nextID   map[string]uint16
	unsure   map[string][]modelPublish // of QoS 2, not received by the broker yet as far as the publisher knows
	bound    *boundModel               // nil: nothing is bound
}

type modelPublish struct {
	id uint16
	m  *modelMessage
}

// modelClient is a connection that keeps the protocol's rules.
type modelClient struct {
	*testClient
	m         *model
	id        string
	s         *modelSession // nil: live
	open      map[uint16]QoS
	order     []uint16
	released  map[uint16]bool // PUBREL sent, PUBCOMP is due
	receiving map[uint16]bool // PUBREC is on its way into the log
	requests  map[Token]func(error)
	token     Token
	up, gone  bool
	streamed  map[string]record.Offset // topic -> behind the last delivery from a stream
}

func (c *modelClient) Deliver(m *Message, d *Delivery) (uint16, bool) {
	var n int
	if _, err := fmt.Sscanf(string(m.Payload), "%d", &n); err != nil {
		c.m.t.Fatalf("payload %q", m.Payload)
	}
	kept := !d.Ref.Zero()
	if kept && d.QoS > 0 && c.room == 0 {
		return 0, false
	}
	if kept && d.QoS > 0 {
		c.room--
	}
	id := d.PacketID
	if id == 0 && d.QoS > 0 {
		for id = 1; c.open[id] != 0; id++ {
			continue
		}
	}
	if d.QoS > 0 && kept {
		if c.open[id] != 0 {
			c.m.t.Fatalf("%s: identifier %d is in use", c.id, id)
		}
		c.open[id] = d.QoS
		c.order = append(c.order, id)
	}
	c.m.arrived(c, c.m.messages[n], m, d, id)
	return id, true
}

func (c *modelClient) Completed(r Result) {
	fn := c.requests[r.Token]
	if fn == nil {
		c.m.t.Fatalf("%s: completion of unknown %d", c.id, r.Token)
	}
	delete(c.requests, r.Token)
	fn(r.Err)
}

func (c *modelClient) Connected(r ConnectResult) {
	if r.Err != nil {
		c.m.closed(c)
		return
	}
	c.up = true
	c.m.connected(c, r)
}

func (c *modelClient) Kicked(error) { c.m.disconnect(c) }

func (c *modelClient) Control(e Control) {
	if e.Kind == ControlRelease {
		delete(c.s.heldIDs, e.PacketID)
		c.open[e.PacketID] = 2
		c.order = append(c.order, e.PacketID)
		c.released[e.PacketID] = true
	}
}

// arrived checks a delivery and notes it.
func (m *model) arrived(c *modelClient, msg *modelMessage, got *Message, d *Delivery, id uint16) {
	if string(got.Topic) != msg.topic || msg.failed || msg.hidden {
		m.t.Fatalf("%s got %d on %s, published on %s, failed %v, hidden %v", c.id, msg.n, got.Topic, msg.topic, msg.failed, msg.hidden)
	}
	if d.Shared {
		m.arrivedShared(c, msg, d, id)
		return
	}
	if c.s == nil {
		m.bound.arrivedLive(c, msg, got, d)
		return
	}
	if d.Retain {
		m.arrivedRetained(c, msg, d, id)
		return
	}
	if d.Ref.Zero() && d.QoS > 0 {
		m.t.Logf("%s gets %d at QoS %d unkept", c.id, msg.n, d.QoS)
	}
	if d.Ref.Zero() { // at QoS 0, or routed while the subscription was on its way
		if msg.app[c.s.id]++; d.QoS == 2 {
			msg.once[c.s.id] = true
		}
		return
	}
	asked := false
	for f, when := range c.s.asked {
		asked = asked || topics.FilterMatches([]byte(f), []byte(msg.topic)) && (msg.acked == 0 || msg.acked >= when || got.part != nil) // which is matched behind its commit
	}
	if !asked {
		m.t.Fatalf("%s got %d, acknowledged at %d, and asked at %v", c.id, msg.n, msg.acked, c.s.asked)
	}
	m.t.Logf("%s gets %d at QoS %d, %+v, identifier %d, dup %v", c.id, msg.n, d.QoS, d.Ref, id, d.Dup)
	if m.held(c, msg, d, id) {
		return
	}
	msg.app[c.s.id]++
	if d.QoS == 2 {
		if msg.once[c.s.id] {
			m.t.Fatalf("%s got %d twice at QoS 2", c.id, msg.n)
		}
		msg.once[c.s.id] = true
	}
	delete(c.s.must, msg.n)
	if msg.app[c.s.id] > 1 || c.s.doubtful {
		return
	}
	m.bound.arrivedFirst(c, msg, got, d)
	for _, n := range c.s.got {
		if o := m.messages[n]; n > msg.n && !msg.loose && o.topic == msg.topic && o.publisher == msg.publisher && o.qos == msg.qos && d.QoS == o.qos {
			m.t.Fatalf("%s got %d after %d", c.id, msg.n, n)
		}
	}
	if d.QoS == msg.qos {
		c.s.got = append(c.s.got, msg.n)
	}
}

// held says that the client has the message already, by its QoS 2 identifier.
func (m *model) held(c *modelClient, msg *modelMessage, d *Delivery, id uint16) bool {
	if d.QoS < 2 || c.s == nil {
		return false
	}
	have, held := c.s.heldIDs[id]
	if held && have != msg.n {
		m.t.Fatalf("%s: identifier %d brings %d and is held for %d", c.id, id, msg.n, have)
	}
	c.s.heldIDs[id] = msg.n
	return held
}

// arrivedShared is arrived for a message of a shared group.
func (m *model) arrivedShared(c *modelClient, msg *modelMessage, d *Delivery, id uint16) {
	group := "v" // the live member's one
	if c.s != nil {
		for _, sub := range c.c.sess.d.subscriptions() {
			if sub.number == d.Ref.Group {
				group = sub.group
			}
		}
	}
	m.t.Logf("%s gets %d of %s at QoS %d, %+v, identifier %d, dup %v", c.id, msg.n, group, d.QoS, d.Ref, id, d.Dup)
	if m.held(c, msg, d, id) {
		return
	}
	if key := "$" + group; d.QoS == 2 {
		if msg.once[key] {
			m.t.Fatalf("%s got %d twice at QoS 2", group, msg.n)
		}
		msg.once[key] = true
	}
	msg.app["$"+group]++
	delete(m.shared[group], msg.n)
}

// arrivedRetained is arrived for a retained message.
func (m *model) arrivedRetained(c *modelClient, msg *modelMessage, d *Delivery, id uint16) {
	m.t.Logf("%s gets %d retained at QoS %d, %+v, identifier %d, dup %v", c.id, msg.n, d.QoS, d.Ref, id, d.Dup)
	if !msg.retain {
		m.t.Fatalf("%s got %d as retained", c.id, msg.n)
	}
	if d.QoS > 0 {
		delete(c.s.owed, msg.topic)
	}
	if m.held(c, msg, d, id) {
		return
	}
	if c.s.brought[msg.n]++; d.QoS == 2 && c.s.brought[msg.n] > c.s.wanted[msg.topic] {
		m.t.Fatalf("%s got %d %d times as retained, by %d subscriptions", c.id, msg.n, c.s.brought[msg.n], c.s.wanted[msg.topic])
	}
	if d.QoS < 2 {
		c.s.brought[msg.n] = 0
	}
	for _, n := range c.s.got {
		if o := m.messages[n]; o.retain && n > msg.n && !msg.loose && !d.Dup && o.topic == msg.topic && o.publisher == msg.publisher && o.qos == msg.qos {
			m.t.Fatalf("%s got the retained %d after its successor %d", c.id, msg.n, n)
		}
	}
}

func newModel(outer testing.TB, t *rapid.T, bound *boundModel) *model {
	outer.Helper()
	loops := rapid.IntRange(1, 3).Draw(t, "loops")
	m := &model{t: t, points: &memCheckpoints{}, clients: map[string]*modelClient{}, sessions: map[string]*modelSession{},
		shared: map[string]map[int]bool{"g": {}, "h": {}}, retained: map[string][]int{}, nextID: map[string]uint16{}, unsure: map[string][]modelPublish{}, bound: bound}
	m.tb = openTestBroker(outer, loops, nil)
	bound.begin(m)
	for _, id := range []string{"p0", "p1"} {
		m.connect(id, false)
	}
	for _, id := range []string{"s0", "s1"} {
		m.connect(id, false)
		m.tb.pump()
		c := m.clients[id]
		m.join(c, SubscribeRequest{Filter: []byte("a/#"), Group: []byte("g"), QoS: 1}, SubscribeRequest{Filter: []byte("a/#"), Group: []byte("h"), QoS: 2},
			SubscribeRequest{Filter: []byte("a/+"), Group: []byte("v"), QoS: 2})
	}
	m.tb.pump()
	return m
}

// join has c be a member of shared groups.
func (m *model) join(c *modelClient, reqs ...SubscribeRequest) {
	m.request(c, func(tok Token) (Outcome, error) {
		return c.l.Subscribe(c.c, reqs, make([]error, len(reqs)), tok)
	}, func(error) {})
}

// connect opens a connection; "l" ids are live, "p0" too.
func (m *model) connect(id string, clean bool) {
	loop := rapid.IntRange(0, m.tb.b.Loops()-1).Draw(m.t, "loop")
	c := &modelClient{testClient: m.tb.client(loop), m: m, id: id, open: map[uint16]QoS{}, released: map[uint16]bool{}, receiving: map[uint16]bool{},
		requests: map[Token]func(error){}}
	c.room = rapid.SampledFrom([]int{-1, -1, 3, 0}).Draw(m.t, "room")
	c.c = c.l.NewClient(c)
	req := ConnectRequest{ClientID: id, CleanStart: clean, Expiry: NeverExpires,
		ReceiveMax: uint16(rapid.SampledFrom([]int{0, 1, 4, 20}).Draw(m.t, "window"))}
	if id[0] == 'l' || id == "p0" {
		req.Expiry, req.CleanStart = 0, true
	}
	m.clients[id+fmt.Sprint(m.op)] = c
	if s := m.sessions[id]; s != nil && clean { // it may end before anybody is told
		s.reset()
		s.doubtful = true
		for _, msg := range m.messages {
			delete(msg.app, id)
			delete(msg.once, id)
		}
	}
	if clean {
		m.unsure[id] = nil
	}
	c.l.Connect(c.c, &req)
}

func (m *model) connected(c *modelClient, r ConnectResult) {
	old := m.clients[c.id]
	m.clients[c.id] = c
	if old != nil && old != c && !old.gone {
		m.t.Fatalf("%s connected beside another", c.id)
	}
	for k, v := range m.clients {
		if v == c && k != c.id {
			delete(m.clients, k)
		}
	}
	if c.c.sess.d == nil {
		if c.id == "l0" {
			m.join(c, SubscribeRequest{Filter: []byte("a/+"), Group: []byte("v"), QoS: 2})
		}
		return
	}
	s := m.sessions[c.id]
	if s != nil && !r.Present && !c.clean() {
		m.t.Fatalf("session of %s was lost", c.id)
	}
	if s == nil || !r.Present {
		for _, msg := range m.messages {
			delete(msg.app, c.id)
			delete(msg.once, c.id)
		}
		s = newModelSession(c.id)
		m.sessions[c.id] = s
		m.unsure[c.id] = nil
	}
	c.s = s
	// What the publisher is not sure of comes again, in order, unless the broker says that it has it.
	list := m.unsure[c.id]
	m.unsure[c.id] = nil
	for _, p := range list {
		if slices.Contains(r.Received, p.id) {
			m.acked(p.m)
			m.release(c, p.id)
			continue
		}
		m.send(c, p.m, p.id)
	}
}

func (c *modelClient) clean() bool { return c.c.flags&clientPresent == 0 }

func (m *model) disconnect(c *modelClient) {
	if c.gone {
		return
	}
	c.l.Disconnect(c.c, DisconnectRequest{})
	m.closed(c)
}

func (m *model) closed(c *modelClient) {
	c.gone = true
	for k, v := range m.clients {
		if v == c {
			delete(m.clients, k)
		}
	}
}

func (m *model) request(c *modelClient, call func(Token) (Outcome, error), then func(error)) {
	c.token++
	tok := c.token<<16 | Token(uint16(c.token))
	m.requestAs(c, tok, call, then)
}

func (m *model) requestAs(c *modelClient, tok Token, call func(Token) (Outcome, error), then func(error)) {
	c.requests[tok] = then
	out, err := call(tok)
	if err != nil || out != Pending {
		delete(c.requests, tok)
		then(err)
	}
}

func (m *model) acked(msg *modelMessage) {
	if msg.acked == 0 {
		msg.acked = m.op
	}
}

// send publishes msg, the first time or again.
func (m *model) send(c *modelClient, msg *modelMessage, id uint16) {
	in := Message{Topic: []byte(msg.topic), Payload: fmt.Append(nil, msg.n), QoS: msg.qos, Retain: msg.retain,
		Timestamp: m.tb.clock.Now().UnixMilli()}
	kept := c.s != nil
	if msg.qos == 2 && kept {
		m.unsure[c.id] = append(m.unsure[c.id], modelPublish{id, msg})
	}
	due := m.entitled(msg)
	m.bound.sends(msg)
	tok := Token(msg.n+1)<<32 | Token(id)
	m.requestAs(c, tok, func(tok Token) (Outcome, error) { return c.l.Publish(c.c, &in, msg.qos == 2, tok) }, func(err error) {
		sure := func(p modelPublish) bool { return p.m == msg }
		if err != nil {
			msg.failed = true
			m.unsure[c.id] = slices.DeleteFunc(m.unsure[c.id], sure)
			return
		}
		if msg.qos == 0 {
			return
		}
		m.acked(msg)
		due()
		if msg.qos == 2 && kept {
			m.unsure[c.id] = slices.DeleteFunc(m.unsure[c.id], sure)
			m.release(c, id)
		}
	})
	if msg.retain && msg.qos == 0 { // it may replace what is owed, and is kept for nobody
		for _, s := range m.sessions {
			delete(s.owed, msg.topic)
		}
	}
	if msg.retain && !msg.failed {
		m.retained[msg.topic] = append(m.retained[msg.topic], msg.n)
	}
}

// entitled notes who is to get msg as things are now. due says that it is acknowledged: whoever has not left meanwhile must get it.
func (m *model) entitled(msg *modelMessage) (due func()) {
	owed := map[string]map[string]bool{}
	for sid, s := range m.sessions {
		for f, q := range s.subs {
			if min(q, msg.qos) > 0 && topics.FilterMatches([]byte(f), []byte(msg.topic)) {
				if owed[sid] == nil {
					owed[sid] = map[string]bool{}
				}
				owed[sid][f] = true
			}
		}
	}
	sessions := maps.Clone(m.sessions)
	return func() {
		if msg.free {
			return
		}
		for g, owed := range m.shared {
			if msg.topic[0] == 'a' && msg.app["$"+g] == 0 {
				owed[msg.n] = true
			}
		}
		for sid, filters := range owed {
			s := sessions[sid]
			if m.sessions[sid] != s || msg.app[sid] > 0 {
				continue
			}
			for f := range filters {
				if s.subs[f] == 0 {
					delete(filters, f)
				}
			}
			if len(filters) > 0 {
				s.must[msg.n] = filters
			}
		}
	}
}

func (m *model) release(c *modelClient, id uint16) {
	m.request(c, func(tok Token) (Outcome, error) { return c.l.Release(c.c, id, tok) }, func(error) {})
}
