package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// storm is connections of one client identifier that come and go as they like, some with acknowledgements outstanding.
func (w *world) storm(seed, rounds int) error {
	r := rand.New(rand.NewPCG(uint64(seed), 1))
	for range rounds {
		k := wire.Connect{Version: w.version, ClientID: []byte(w.id("x")), CleanStart: r.IntN(2) == 0}
		if w.version == wire.V5 {
			k.SessionExpiry = uint32(r.IntN(3))
		}
		if r.IntN(2) == 0 {
			k.HasWill, k.Will = true, wire.Will{Topic: []byte(w.name("t")), Payload: []byte("will"), QoS: 1, Retain: r.IntN(2) == 0}
		}
		c, err := mqttclient.Dial(w.Context(), mqttclient.Options{URL: w.n.tcp, Connect: wire.Connect{Version: w.version}, Timeout: patience})
		if err != nil {
			return err
		}
		_, err = c.Connect(&k)
		if errors.Is(err, mqttclient.ErrTimeout) {
			return fmt.Errorf("CONNECT was not answered: %w", err)
		}
		if err == nil && r.IntN(3) > 0 {
			_, err = c.Subscribe(wire.FilterRequest{Filter: []byte(w.name("t")), QoS: 2})
		}
		for id := uint16(100); err == nil && id < 104; id++ {
			p := wire.PublishOut{Topic: []byte(w.name("t")), Payload: []byte("m"), QoS: byte(1 + id%2), PacketID: id}
			err = c.SendRaw(wire.AppendPublish(nil, w.version, &p))
		}
		switch r.IntN(3) { // else it stays until it is taken over, or the test ends
		case 0:
			_ = c.Close()
		case 1:
			_ = c.Disconnect()
		default:
			w.Cleanup(func() { _ = c.Close() })
		}
	}
	return nil
}

// Conformance: MQTT-3.1.4-2 (3.1.1), MQTT-3.1.4-3 (5.0)
func TestTakeOverStorm(t *testing.T) {
	each(t, both, func(w *world) {
		keeper := w.connect("keeper", kept)
		keeper.sub(2, "t")
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				if err := w.storm(i, 40); err != nil {
					w.Errorf("connection %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		last := w.connect("x", kept)
		if err := last.Ping(); err != nil {
			w.Fatalf("the last one has the session: %v", err)
		}
	})
}
