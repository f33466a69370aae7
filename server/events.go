package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/events"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka"
)

// eventsTopic is what the MQTT topics of events begin with.
const eventsTopic = "$SYS/broker/events/"

// checkEvents says what is wrong with where events go to.
func checkEvents(cfg *config.Config) error {
	if t := cfg.Events.KafkaTopic; t != "" && !kafka.ValidTopicName(t) {
		return fmt.Errorf("events.kafka_topic: %q: a name has 1 to 249 letters, digits, dots, underscores and dashes", t)
	}
	return nil
}

// eventPump tells what happens to clients, sessions and subscriptions, as MQTT messages and as records of a topic. It takes them from the loops' list, makes
// text of them on its own goroutine, and gives them to loop 0 some at a time: the next ones when that loop has taken those before.
type eventPump struct {
	n      *node
	queue  *events.Queue
	to     atomic.Pointer[eventsTo]
	lost   atomic.Uint64 // of MQTT's that the core did not take
	unkept atomic.Uint64 // of records that the topic did not take
	ctx    context.Context
	stop   context.CancelFunc
	done   sync.WaitGroup
	said   time.Time // when the last warning was written
}

// eventsTo is where they go.
type eventsTo struct {
	mqtt       bool
	topic      string // empty: no records
	partitions int    // of the topic, if it is made
}

// toldEvent is one event as it is told.
type toldEvent struct {
	topic   string
	key     []byte
	payload []byte
	at      int64
	done    [2]bool // it was told by MQTT, by a record, or never will be
}

func startEvents(n *node, queue *events.Queue, cfg *config.Config) *eventPump {
	p := &eventPump{n: n, queue: queue}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.configure(cfg)
	n.topics.events.Store(p)
	p.done.Go(p.run)
	return p
}

// configure says what is told from now on, and where.
func (p *eventPump) configure(cfg *config.Config) {
	e := &cfg.Events
	p.to.Store(&eventsTo{mqtt: e.MQTT, topic: e.KafkaTopic, partitions: cfg.Kafka.Partitions})
	var kinds events.Set
	if e.MQTT || e.KafkaTopic != "" {
		kinds = events.ParseSet(e.Kinds)
	}
	p.queue.Want(kinds)
}

func (p *eventPump) close() {
	p.stop()
	p.done.Wait()
}

// eventsAtOnce is how many events loop 0 is given at once: some hundred µs.
const eventsAtOnce = 64

func (p *eventPump) run() {
	var list []events.Event
	told := make([]toldEvent, 0, eventsAtOnce)
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.queue.Ready():
		}
		list = p.queue.Take(list)
		to := p.to.Load()
		topic := p.topic(to)
		for at := 0; at < len(list); at += eventsAtOnce {
			told = told[:0]
			for i := at; i < min(at+eventsAtOnce, len(list)); i++ {
				e := &list[i]
				told = append(told, toldEvent{topic: eventsTopic + e.Kind.Topic(), key: []byte(e.ClientID), payload: e.JSON(int(p.n.o.kafka.node)), at: e.At,
					done: [2]bool{!to.mqtt, to.topic == ""}})
			}
			if !p.tell(told, topic) {
				return
			}
		}
	}
}

// eventsAgain is how long what found no room waits.
const eventsAgain = 10 * time.Millisecond

// tell has loop 0 tell some events, and what is busy again: meanwhile the list fills, and counts what finds no room. false: the node ends.
func (p *eventPump) tell(told []toldEvent, topic *broker.Topic) bool {
	for {
		answer := make(chan bool, 1)
		l := p.n.broker.Local(0)
		l.Run(func() { answer <- p.turn(l, told, topic) })
		select {
		case <-p.ctx.Done():
			return false
		case all := <-answer:
			if all {
				return true
			}
		}
		select {
		case <-p.ctx.Done():
			return false
		case <-time.After(eventsAgain):
		}
	}
}

// turn tells what is not told yet. It runs on the loop. all: nothing is left.
func (p *eventPump) turn(l *broker.Local, told []toldEvent, topic *broker.Topic) (all bool) {
	for i := range told {
		t := &told[i]
		if !t.done[0] {
			m := broker.Message{Topic: []byte(t.topic), Payload: t.payload, QoS: 1, Timestamp: t.at}
			_, err := l.Publish(nil, &m, false, 0)
			if errors.Is(err, broker.ErrBusy) {
				return false
			}
			p.failed(&p.lost, err)
			t.done[0] = true
		}
		if !t.done[1] {
			err := broker.ErrUnknownTopic
			if topic != nil {
				err = l.AppendRecord(topic, &record.Input{Key: t.key, Value: t.payload, Timestamp: t.at})
			}
			if errors.Is(err, broker.ErrBusy) {
				return false
			}
			p.failed(&p.unkept, err)
			t.done[1] = true
		}
	}
	return true
}

func (p *eventPump) failed(n *atomic.Uint64, err error) {
	if err != nil {
		n.Add(1)
	}
}

// warnEvery is how often it is said at most that events have no topic.
const warnEvery = time.Minute

// topic is where records go, made if it is not there; nil: there is none.
func (p *eventPump) topic(to *eventsTo) *broker.Topic {
	if to.topic == "" {
		return nil
	}
	t := p.n.broker.Topic(0, to.topic)
	switch {
	case t != nil && t.Spec().Config.Spread:
		p.warn("events are not written to a topic with leader.spread", "topic", to.topic)
		return nil
	case t != nil || !p.n.member.leads():
		return t
	}
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	if err := p.n.topics.make(ctx, to.topic, to.partitions); err != nil {
		p.warn("events have no topic", "topic", to.topic, "err", err)
		return nil
	}
	return p.n.broker.Topic(0, to.topic)
}

func (p *eventPump) warn(text string, args ...any) {
	if p.ctx.Err() == nil && time.Since(p.said) > warnEvery {
		p.said = time.Now()
		p.n.o.logger.Warn(text, args...) //nolint:sloglint // who calls it has a constant
	}
}

// eventMetricHelp are the metrics of events.
var eventMetricHelp = map[string]string{
	"sluice_events_added_total":   "Events that were to be told (events.kinds).|kind",
	"sluice_events_dropped_total": "Events that were not told: their list was full (queue_full), or the core did not take the message (mqtt) or the record (kafka).|reason",
	"sluice_events_waiting":       "Events that wait to be told, now.",
}

func (c *collector) collectEvents(k sink) {
	p := c.s.node.events
	if p == nil {
		return // not started yet
	}
	n := p.queue.Counts()
	for kind, count := range n.Added {
		k.counter("sluice_events_added_total", count, events.Kind(kind).String())
	}
	k.counter("sluice_events_dropped_total", n.Full, "queue_full")
	k.counter("sluice_events_dropped_total", p.lost.Load(), "mqtt")
	k.counter("sluice_events_dropped_total", p.unkept.Load(), "kafka")
	k.gauge("sluice_events_waiting", float64(n.Waiting))
}
