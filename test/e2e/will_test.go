package e2e

import (
	"testing"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// will gives a connection a will below the run's corner.
func (w *world) will(topic, payload string, qos byte, retain bool, delay uint32) with {
	return func(k *wire.Connect) {
		k.HasWill = true
		k.Will = wire.Will{Topic: []byte(w.name(topic)), Payload: []byte(payload), QoS: qos, Retain: retain, Delay: delay}
	}
}

// A will is published when its connection breaks, whatever breaks it, and not after DISCONNECT.
//
// Conformance: MQTT-3.1.2-8 (3.1.1, 5.0), MQTT-3.1.2-10 (3.1.1, 5.0), MQTT-3.1.2-12 (3.1.1), MQTT-3.1.2-7 (5.0)
// Conformance: MQTT-3.1.2-16 (3.1.1), MQTT-3.1.2-14 (5.0), MQTT-3.14.4-3 (3.1.1, 5.0)
func TestWill(t *testing.T) {
	each(t, both, func(w *world) {
		watch := w.connect("watch")
		watch.sub(2, "will")
		for qos := byte(0); qos <= 2; qos++ {
			for _, o := range []with{func(*wire.Connect) {}, kept} {
				c := w.connect("c", o, w.will("will", "broken", qos, false, 0))
				_ = c.Close()
				if m := watch.expect("broken")[0]; m.QoS != qos || m.Retain {
					w.Fatalf("%+v", m)
				}
			}
		}
		c := w.connect("p", w.will("will", "protocol error", 1, false, 0))
		c.send([]byte{0x30, 0x03, 0, 1, '#', 0})
		watch.expect("protocol error")
		w.connect("k", w.will("will", "silent", 1, false, 0), func(k *wire.Connect) { k.KeepAlive = 1 })
		watch.expect("silent")
		w.connect("t", w.will("will", "taken over", 1, false, 0))
		w.connect("t")
		watch.expect("taken over")

		c = w.connect("d", w.will("will", "never", 1, false, 0))
		c.bye()
		_ = w.connect("e").Close() // without a will
		if w.version == wire.V5 {
			c = w.connect("f", w.will("will", "asked for", 1, false, 0))
			if err := c.DisconnectWith(&wire.Disconnect{Reason: wire.DisconnectWithWill}); err != nil {
				w.Fatal(err)
			}
			watch.expect("asked for")
		}
		watch.quiet("will")
		late := w.connect("late")
		late.sub(0, "will")
		late.quiet("will") // nothing was retained
	})
}

// Conformance: MQTT-3.1.2-17 (3.1.1), MQTT-3.1.2-15 (5.0)
func TestRetainedWill(t *testing.T) {
	each(t, both, func(w *world) {
		watch := w.connect("watch")
		watch.sub(1, "will")
		_ = w.connect("c", w.will("will", "kept", 1, true, 0)).Close()
		watch.expect("kept")
		late := w.connect("late")
		late.sub(1, "will")
		if m := late.expect("kept")[0]; !m.Retain {
			w.Error("the will was not retained")
		}
	})
}

// Conformance: MQTT-3.1.3-9 (5.0)
func TestWillDelay(t *testing.T) {
	each(t, only5, func(w *world) {
		watch := w.connect("watch")
		watch.sub(1, "will")
		began := time.Now()
		_ = w.connect("late", kept, w.will("will", "late", 1, false, 1)).Close()
		_ = w.connect("back", kept, w.will("will", "prevented", 1, false, 2)).Close()
		w.connect("back", kept)
		// The session's end comes before the delay's.
		_ = w.connect("short", w.will("will", "session ended", 1, false, 100)).Close()
		watch.expect("session ended", "late")
		if d := time.Since(began); d < 900*time.Millisecond {
			w.Errorf("after %v", d)
		}
		watch.quiet("will")
	})
}

// Conformance: MQTT-3.1.3-10 (5.0)
func TestWillProperties(t *testing.T) {
	each(t, only5, func(w *world) {
		watch := w.connect("watch")
		watch.sub(1, "will")
		block := wire.AppendProperty(user("b", "1", "a", "2", "b", "3"), wire.Property{ID: wire.PropContentType, Data: []byte("text/plain")})
		c := w.connect("c", w.will("will", "x", 1, false, 0), func(k *wire.Connect) {
			k.Will.Forward = block
			k.Will.Props.HasExpiry, k.Will.Props.Expiry = true, 100
		})
		_ = c.Close()
		m := watch.recv()
		if got := pairs(m.Props.User()); got != "b=1 a=2 b=3" || string(m.Props.ContentType()) != "text/plain" || !m.Props.HasExpiry || m.Props.Expiry > 100 || m.Props.Expiry < 98 {
			w.Errorf("%s %s %+v", got, m.Props.ContentType(), m.Props)
		}
	})
}

// expire lets a message expire that has one second.
func expire(w *world) {
	w.Helper()
	pass := time.NewTimer(1200 * time.Millisecond)
	defer pass.Stop()
	<-pass.C
}
