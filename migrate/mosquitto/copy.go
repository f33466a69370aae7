package mosquitto

import (
	"errors"
	"fmt"
	"time"

	"github.com/sluicemq/sluice/bench/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// quiet is how long the source may send nothing before it is asked whether that was all.
const quiet = 300 * time.Millisecond

// Copied says what Copy has done.
type Copied struct {
	Messages int
	Bytes    int64
	Refused  []string // topics that the target does not take, with its reason; the first hundred
	Failed   int      // how many they are
}

// refusedMost is how many topics Copied names.
const refusedMost = 100

// Copy has from send its retained messages that match filter, and publishes them to `to` as they are, each once its own broker has answered for it.
// Both are connected; from sees MQTT 5 or 3.1.1, to speaks 5. What is published meanwhile is left alone. With an error some may have been copied: it can be
// done again.
func Copy(from, to *mqttclient.Client, filter string) (done Copied, err error) {
	codes, err := from.Subscribe(wire.FilterRequest{Filter: []byte(filter), QoS: 2})
	if err != nil {
		return done, fmt.Errorf("subscribe to %s: %w", filter, err)
	}
	if codes[0].Failed() {
		return done, fmt.Errorf("subscribe to %s: %v", filter, codes[0])
	}
	for {
		m, err := from.Receive(quiet)
		if errors.Is(err, mqttclient.ErrTimeout) {
			// The broker answers in order: what it still has to send comes before its answer.
			if err := from.Ping(); err != nil {
				return done, fmt.Errorf("ask the source: %w", err)
			}
			if from.Buffered() {
				continue
			}
			break
		}
		if err != nil {
			return done, fmt.Errorf("receive: %w", err)
		}
		if !m.Retain {
			continue // it is published just now
		}
		if err := done.put(to, &m); err != nil {
			return done, err
		}
	}
	if err := to.Ping(); err != nil { // messages of QoS 0 have no answer of their own
		return done, fmt.Errorf("ask the target: %w", err)
	}
	return done, nil
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
