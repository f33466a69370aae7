package mosquitto

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// quiet is how long a source may say nothing before it is asked whether that was all.
const quiet = 300 * time.Millisecond

// Copied says what Copy has done.
type Copied struct {
	Messages int
	Bytes    int64
	Gone     int      // that were there at first, and did not come when they were asked for
	Refused  []string // topics that the target does not take, with its reason; the first hundred
	Failed   int      // how many they are
}

// refusedMost is how many topics Copied names.
const refusedMost = 100

// askMost is how many topics are asked for at once. A Mosquitto that has more for a subscriber than it may queue (max_queued_messages) drops the rest without a
// word, so all retained messages of a broker cannot be had by one subscription at the QoS that they have.
const askMost = 50

// Copy has from send its retained messages that match filter, and publishes them to `to` as they are, each once its own broker has answered for it.
// Both are connected; from speaks MQTT 5 or 3.1.1, to speaks 5. What is published meanwhile is left alone. With an error some may have been copied: it can be
// done again.
func Copy(from, to *mqttclient.Client, filter string) (done Copied, err error) {
	topics, err := list(from, filter)
	if err != nil {
		return done, err
	}
	for len(topics) > 0 {
		part := topics[:min(len(topics), askMost)]
		topics = topics[len(part):]
		missing, err := done.fetch(from, to, part)
		if err != nil {
			return done, err
		}
		for _, topic := range missing { // a broker that may queue even less
			gone, err := done.fetch(from, to, []string{topic})
			if err != nil {
				return done, err
			}
			done.Gone += len(gone)
		}
	}
	if err := to.Ping(); err != nil { // messages of QoS 0 have no answer of their own
		return done, fmt.Errorf("ask the target: %w", err)
	}
	return done, nil
}

// list gives the topics that have a retained message. At QoS 0 nothing is queued, so all come.
func list(from *mqttclient.Client, filter string) (topics []string, err error) {
	err = retained(from, quiet, []wire.FilterRequest{{Filter: []byte(filter)}}, func(m *wire.Publish) error {
		topics = append(topics, string(m.Topic))
		return nil
	})
	return topics, err
}

// fetch copies the messages of some topics, and gives those that have none.
func (d *Copied) fetch(from, to *mqttclient.Client, topics []string) (missing []string, err error) {
	reqs := make([]wire.FilterRequest, len(topics))
	left := make(map[string]bool, len(topics))
	for i, topic := range topics {
		reqs[i] = wire.FilterRequest{Filter: []byte(topic), QoS: 2}
		left[topic] = true
	}
	err = retained(from, 0, reqs, func(m *wire.Publish) error {
		if !left[string(m.Topic)] {
			return nil // it came again
		}
		delete(left, string(m.Topic))
		return d.put(to, m)
	})
	return slices.Sorted(maps.Keys(left)), err
}

// retained subscribes, and calls take with each retained message that comes of it, then unsubscribes. wait is how long it reads before it asks whether that was
// all: what comes until it has the answer is held in memory.
func retained(from *mqttclient.Client, wait time.Duration, reqs []wire.FilterRequest, take func(*wire.Publish) error) error {
	codes, err := from.Subscribe(reqs...)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	names := make([]string, len(reqs))
	for i := range reqs {
		if names[i] = string(reqs[i].Filter); i < len(codes) && codes[i].Failed() {
			return fmt.Errorf("subscribe to %s: %v", names[i], codes[i])
		}
	}
	for {
		m, err := from.Receive(wait)
		switch {
		case errors.Is(err, mqttclient.ErrTimeout):
			// The broker answers in order: what it has to send, and what it sends next now that the last was acknowledged, comes before its answer.
			if err := from.Ping(); err != nil {
				return fmt.Errorf("ask the source: %w", err)
			}
			if !from.Buffered() {
				_, err := from.Unsubscribe(names...)
				return err
			}
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		case m.Retain: // else it is published just now
			if err := take(&m); err != nil {
				return err
			}
		}
	}
}

func (d *Copied) put(to *mqttclient.Client, m *wire.Publish) error {
	out := wire.PublishOut{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: true, HasExpiry: m.Props.HasExpiry, Expiry: m.Props.Expiry}
	out.Forward, _ = m.Props.Forward(nil)
	reason, err := to.Publish(&out)
	switch {
	case err == nil:
		d.Messages++
		d.Bytes += int64(len(m.Payload))
	case reason.Failed() && reason != wire.UnspecifiedError:
		if d.Failed++; len(d.Refused) < refusedMost {
			d.Refused = append(d.Refused, fmt.Sprintf("%s: %v", m.Topic, reason))
		}
	default:
		return fmt.Errorf("publish %s: %w", m.Topic, err)
	}
	return nil
}
