package broker

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/broker/topics"
)

func (m *model) up(t *rapid.T) *modelClient {
	m.t = t
	m.op++
	var list []*modelClient
	for _, k := range slices.Sorted(maps.Keys(m.clients)) {
		if c := m.clients[k]; c.up && !c.gone {
			list = append(list, c)
		}
	}
	if len(list) == 0 {
		t.Skip("nobody is connected")
	}
	return list[rapid.IntRange(0, len(list)-1).Draw(t, "client")]
}

func (m *model) doConnect(t *rapid.T) {
	m.t = t
	m.op++
	id := rapid.SampledFrom([]string{"k0", "k1", "k2", "l0", "p0", "p1", "s0", "s1"}).Draw(t, "id")
	m.connect(id, id[0] == 'k' && rapid.IntRange(0, 7).Draw(t, "clean") == 0)
}

func (m *model) doDisconnect(t *rapid.T) { m.disconnect(m.up(t)) }

func (m *model) doSubscribe(t *rapid.T) {
	c := m.up(t)
	if c.id[0] == 's' || c.id[0] == 'p' {
		t.Skip("has no subscriptions of its own")
	}
	f := rapid.SampledFrom(modelFilters).Draw(t, "filter")
	q := QoS(rapid.IntRange(0, 2).Draw(t, "qos"))
	if s := c.s; s != nil {
		if s.asked[f] == 0 {
			s.asked[f] = m.op
		}
		s.last[f] = m.op
		if q == 0 || s.subs[f] == 0 {
			m.leave(s, f)
		}
	}
	req := []SubscribeRequest{{Filter: []byte(f), QoS: q, RetainHandling: rapid.SampledFrom([]uint8{0, 2}).Draw(t, "retained")}}
	at := m.op
	brings := m.brings(c.s, &req[0])
	m.request(c, func(tok Token) (Outcome, error) { return c.l.Subscribe(c.c, req, make([]error, 1), tok) }, func(err error) {
		if err == nil && c.s != nil && c.s.last[f] == at {
			c.s.subs[f] = q
			for _, topic := range brings {
				if !m.keepsRetained(topic) {
					continue
				}
				if c.s.owed[topic] == nil {
					c.s.owed[topic] = map[string]bool{}
				}
				c.s.owed[topic][f] = true
			}
		}
	})
}

// brings lists the topics whose retained message a subscription is to bring, and which is kept for the session: whatever replaces it.
func (m *model) brings(s *modelSession, r *SubscribeRequest) (list []string) {
	if s == nil || r.RetainHandling == 2 {
		return nil
	}
	for _, topic := range modelTopics {
		if !topics.FilterMatches(r.Filter, []byte(topic)) {
			continue
		}
		s.wanted[topic]++
		if r.QoS > 0 && m.keepsRetained(topic) {
			list = append(list, topic)
		}
	}
	return list
}

// keepsRetained says whether a topic surely has a retained message, and one that is kept for sessions.
func (m *model) keepsRetained(topic string) bool {
	if m.bound.binds(topic) {
		return false // it is retained behind its commit
	}
	sure := false
	for _, n := range m.retained[topic] {
		if m.messages[n].qos == 0 {
			return false
		}
		sure = sure || m.messages[n].acked != 0 && !m.messages[n].failed
	}
	return sure
}

// leave takes back what a filter entitles a session to.
func (m *model) leave(s *modelSession, f string) {
	delete(s.subs, f)
	for topic, filters := range s.owed {
		if delete(filters, f); len(filters) == 0 {
			delete(s.owed, topic)
		}
	}
	for n, filters := range s.must {
		if delete(filters, f); len(filters) == 0 {
			delete(s.must, n)
		}
	}
}

func (m *model) doUnsubscribe(t *rapid.T) {
	c := m.up(t)
	if c.s == nil || c.id[0] == 's' {
		t.Skip("nothing to leave")
	}
	f := rapid.SampledFrom(modelFilters).Draw(t, "filter")
	m.leave(c.s, f)
	c.s.last[f] = m.op
	req := []SubscribeRequest{{Filter: []byte(f)}}
	m.request(c, func(tok Token) (Outcome, error) { return c.l.Unsubscribe(c.c, req, make([]error, 1), tok) }, func(err error) {
		m.leave(c.s, f)
	})
}

func (m *model) doPublish(t *rapid.T) {
	c := m.up(t)
	msg := &modelMessage{n: len(m.messages), publisher: c.id, topic: rapid.SampledFrom(modelTopics).Draw(t, "topic"),
		qos: QoS(rapid.IntRange(0, 2).Draw(t, "qos")), retain: rapid.IntRange(0, 3).Draw(t, "retain") == 0, app: map[string]int{}, once: map[string]bool{}}
	m.messages = append(m.messages, msg)
	m.nextID[c.id] = m.nextID[c.id]%5000 + 1
	m.send(c, msg, m.nextID[c.id])
}

// acknowledge ends, or brings a step on, the i-th of what a client has in flight.
func (m *model) acknowledge(c *modelClient, i int) {
	id := c.order[i]
	done := func() {
		delete(c.open, id)
		delete(c.released, id)
		c.order = slices.Delete(c.order, i, i+1)
		c.l.Acked(c.c, id)
	}
	switch {
	case c.open[id] == 1, c.released[id]:
		done()
	case c.receiving[id]:
	default:
		c.receiving[id] = true
		m.request(c, func(tok Token) (Outcome, error) { return c.l.Received(c.c, id, tok) }, func(err error) {
			delete(c.receiving, id)
			if err == nil && !c.gone {
				if c.s != nil {
					delete(c.s.heldIDs, id)
				}
				c.released[id] = true
			}
		})
	}
}

func (m *model) doAcknowledge(t *rapid.T) {
	c := m.up(t)
	for n := rapid.IntRange(1, 5).Draw(t, "n"); n > 0 && len(c.order) > 0 && !c.gone; n-- {
		m.acknowledge(c, 0)
	}
	if c.room >= 0 && !c.gone {
		c.room = rapid.IntRange(0, 4).Draw(t, "room")
		if c.room > 0 {
			c.l.Ready(c.c)
		}
	}
}

func (m *model) fetches() {
	for m.tb.b.fetcher.busy() {
		runtime.Gosched()
	}
}

func (m *model) doLoop(t *rapid.T) {
	m.t = t
	m.op++
	l := m.tb.b.Local(rapid.IntRange(0, m.tb.b.Loops()-1).Draw(t, "loop"))
	l.Drain()
	l.EndTurn()
	m.fetches()
}

func (m *model) doCommit(t *rapid.T) {
	m.t = t
	m.op++
	m.tb.log.commit()
}

func (m *model) doFail(t *rapid.T) {
	m.t = t
	m.op++
	for _, msg := range m.messages {
		msg.loose = msg.loose || msg.acked == 0
	}
	m.tb.log.fail = errors.New("disk full")
	m.tb.log.commit()
	m.tb.log.fail = nil
}

func (m *model) doPump(t *rapid.T) {
	m.t = t
	m.op++
	m.tb.pump()
}

func (m *model) doTick(t *rapid.T) {
	m.t = t
	m.op++
	m.tb.clock.Advance(time.Second)
	m.tb.b.Local(rapid.IntRange(0, m.tb.b.Loops()-1).Draw(t, "loop")).Tick()
}

// doCheckpoint writes rows behind. Between the shards commits and loops go on, the store flushes by itself, or refuses.
func (m *model) doCheckpoint(t *rapid.T) {
	m.t = t
	m.op++
	refused := false
	m.points.step = func() error {
		for rapid.IntRange(0, 1).Draw(t, "meanwhile") == 1 {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				refused = true
				return errors.New("refused")
			case 1:
				m.points.flushEarly()
			case 2, 3, 4:
				m.doCommit(t)
			default:
				m.doLoop(t)
			}
		}
		return nil
	}
	if err := m.tb.b.Checkpoint(m.points); err != nil && !refused {
		t.Fatal(err)
	}
	m.points.step = nil
}

// doCrash throws the broker away and starts one on what was committed, from the last checkpoint on.
func (m *model) doCrash(t *rapid.T) {
	m.t = t
	m.op++
	m.tb.b.Close()
	tb, err := m.tb.restartWith(rapid.IntRange(1, 3).Draw(t, "loops"), m.points, m.bound.topics()...)
	if err != nil {
		t.Fatal(err)
	}
	m.tb = tb
	m.clients = map[string]*modelClient{}
	m.bound.crashed()
	m.checkRetained(false)
}

// checkRetained compares what is retained with the last that was acknowledged, or one that came behind it: at QoS 0 nobody was told.
func (m *model) checkRetained(settled bool) {
	for topic, list := range m.retained {
		if !settled && m.bound.binds(topic) {
			continue // what the stream has may be relayed later
		}
		value := string(m.tb.b.retainedPayload(topic))
		for i := len(list) - 1; ; i-- {
			if i < 0 {
				if value != "" {
					m.t.Fatalf("retained on %s: %q, of %v", topic, value, list)
				}
				m.retained[topic] = nil
				break
			}
			msg := m.messages[list[i]]
			if fmt.Sprint(msg.n) == value {
				m.retained[topic] = list[i : i+1]
				break
			}
			if msg.acked != 0 && !msg.failed {
				m.t.Fatalf("retained on %s: %q, and %d was acknowledged", topic, value, msg.n)
			}
		}
	}
}

func (b *Broker) retainedPayload(topic string) []byte {
	slot := b.retained.index.Get(0, []byte(topic))
	if slot == 0 {
		return nil
	}
	var m Message
	b.retained.viewLocked(slot, []byte(topic), &m)
	return m.Payload
}

// settle has everybody come back and take all there is; then nothing is owed.
func (m *model) settle(t *rapid.T) {
	m.t = t
	m.op++
	m.tb.pump()
	ids := append([]string{"s0", "s1", "p1"}, modelKept...)
	for _, id := range ids {
		m.op++
		m.connect(id, false)
		m.tb.pump()
		c := m.clients[id]
		if c == nil || !c.up {
			t.Fatalf("%s does not get in", id)
		}
	}
	for idle := 0; idle < 3; idle++ {
		for _, id := range ids {
			c := m.clients[id]
			c.room = -1
			if len(c.order) > 0 {
				idle = 0
			}
			for i := 0; i < len(c.order); {
				n := len(c.order)
				if m.acknowledge(c, i); len(c.order) == n {
					i++
				}
			}
			c.l.Ready(c.c)
			m.tb.pump()
		}
		m.tb.clock.Advance(time.Second)
		m.tb.tick()
	}
	for _, id := range slices.Sorted(maps.Keys(m.sessions)) {
		for n, filters := range m.sessions[id].must {
			t.Errorf("%s never got %d (%+v), owed by %v", id, n, m.messages[n], filters)
		}
		for topic, filters := range m.sessions[id].owed {
			t.Errorf("%s never got what is retained on %s, owed by %v", id, topic, filters)
		}
	}
	for g, owed := range m.shared {
		for n := range owed {
			t.Errorf("nobody of %s ever got %d (%+v)", g, n, m.messages[n])
		}
	}
	m.checkRetained(true)
	if n := m.tb.faults.Load(); n != 0 {
		t.Errorf("%d errors logged", n)
	}
	for _, c := range m.clients {
		if c.c.waiting != 0 {
			t.Errorf("%s waits for %d", c.id, c.c.waiting)
		}
	}
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(t, rt, nil)
		defer func() { m.tb.b.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"connect": m.doConnect, "disconnect": m.doDisconnect, "subscribe": m.doSubscribe, "unsubscribe": m.doUnsubscribe,
			"publish": m.doPublish, "publish2": m.doPublish, "publish3": m.doPublish, "acknowledge": m.doAcknowledge,
			"acknowledge2": m.doAcknowledge, "loop": m.doLoop, "loop2": m.doLoop, "loop3": m.doLoop, "commit": m.doCommit,
			"commit2": m.doCommit, "fail": m.doFail, "pump": m.doPump, "tick": m.doTick, "checkpoint": m.doCheckpoint, "crash": m.doCrash,
		})
		m.settle(rt)
	})
}
