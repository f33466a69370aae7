package mqtt

import (
	"fmt"
	"testing"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// From the bytes of a PUBLISH to those of its deliveries, through the real core, without sockets.
func BenchmarkPublish(b *testing.B) {
	for _, qos := range []byte{0, 1} {
		for _, fan := range []int{1, 1000} {
			b.Run(fmt.Sprintf("QoS %d to %d", qos, fan), func(b *testing.B) {
				w := newWorld(b, Options{})
				pub := w.connect(wire.V311, "pub")
				pub.k.keep = false
				subs := make([]*peer, fan)
				for i := range subs {
					subs[i] = w.connect(wire.V311, fmt.Sprint("sub", i))
					subs[i].subscribe(qos, "a/b")
					subs[i].k.keep = false
				}
				in := wire.AppendPublish(nil, wire.V311, &wire.PublishOut{Topic: []byte("a/b"), Payload: make([]byte, 64), QoS: qos, PacketID: 1})
				ack := make([]byte, 0, 8)
				b.ReportAllocs()
				b.ResetTimer()
				for i := 0; i < b.N; i += fan {
					pub.c.onData(in)
					if qos == 1 {
						for _, s := range subs {
							s.c.onData(wire.AppendShortAck(ack[:0], wire.PUBACK, s.c.out.nextID))
						}
					}
				}
			})
		}
	}
}
