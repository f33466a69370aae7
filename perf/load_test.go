package perf

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// pipe is a publisher and its subscribers, with window messages under way at a time. What a 3.1.1 subscriber gets at QoS 0 are the very
// bytes that were published, and above that all but the packet identifier.
type pipe struct {
	pub       *mqttclient.Client
	subs      []*mqttclient.Client
	out, acks []byte
	in, back  []byte
	one, id   int // length of a packet; where its identifier is
	window    int
	qos       byte
}

// pipeOptions say what a pipe is; the zero value has one message of QoS 0 to one live subscriber under way.
type pipeOptions struct {
	qos     byte
	window  int // 0: 1
	fan     int // 0: 1
	durable bool
}

func newPipe(t testing.TB, n *node, number int, o pipeOptions) *pipe {
	t.Helper()
	url := "mqtt://" + n.ready.Listeners["mqtt.tcp"]
	topic := fmt.Sprintf("pair/%03d", number)
	p := &pipe{pub: connect(t, url, fmt.Sprint("pub", number)), qos: o.qos, id: 2 + 2 + len(topic), window: max(o.window, 1)}
	for i := range max(o.fan, 1) {
		sub := connect(t, url, fmt.Sprintf("sub%d-%d", number, i), func(c *mqttclient.Options) { c.Connect.CleanStart = !o.durable })
		if _, err := sub.Subscribe(wire.FilterRequest{Filter: []byte(topic), QoS: o.qos}); err != nil {
			t.Fatal(err)
		}
		p.subs = append(p.subs, sub)
	}
	for i := range p.window {
		p.out = wire.AppendPublish(p.out, wire.V311, &wire.PublishOut{Topic: []byte(topic), Payload: make([]byte, 64), QoS: o.qos, PacketID: uint16(i + 1)})
	}
	p.one = len(p.out) / p.window
	p.in = make([]byte, len(p.out))
	p.back = make([]byte, 4*p.window)
	return p
}

// round sends a window and takes it at the other end. Each step waits for the one before it, so with a window of one there is one packet
// for each read and write of the node.
func (p *pipe) round() error {
	if _, err := p.pub.Conn().Write(p.out); err != nil {
		return err
	}
	for _, sub := range p.subs {
		if _, err := io.ReadFull(sub.Conn(), p.in); err != nil {
			return err
		}
		if p.in[0]&^0x08 != p.out[0] || p.in[p.one-1] != p.out[p.one-1] {
			return fmt.Errorf("a subscriber got % x", p.in[:p.id])
		}
		if err := p.acknowledge(sub); err != nil {
			return err
		}
	}
	switch p.qos {
	case 1:
		return p.answers(p.pub, wire.PUBACK)
	case 2:
		if err := p.answers(p.pub, wire.PUBREC); err != nil {
			return err
		}
		p.acks = p.acks[:0]
		for i := range p.window {
			p.acks = wire.AppendShortAck(p.acks, wire.PUBREL, uint16(i+1))
		}
		if _, err := p.pub.Conn().Write(p.acks); err != nil {
			return err
		}
		return p.answers(p.pub, wire.PUBCOMP)
	}
	return nil
}

// acknowledge answers what sub has just got.
func (p *pipe) acknowledge(sub *mqttclient.Client) error {
	send := func(t wire.PacketType) error {
		p.acks = p.acks[:0]
		for at := 0; at < len(p.in); at += p.one {
			p.acks = wire.AppendShortAck(p.acks, t, uint16(p.in[at+p.id])<<8|uint16(p.in[at+p.id+1]))
		}
		_, err := sub.Conn().Write(p.acks)
		return err
	}
	switch p.qos {
	case 1:
		return send(wire.PUBACK)
	case 2:
		if err := send(wire.PUBREC); err != nil {
			return err
		}
		if err := p.answers(sub, wire.PUBREL); err != nil {
			return err
		}
		return send(wire.PUBCOMP)
	}
	return nil
}

// answers takes an acknowledgement for each message of the window.
func (p *pipe) answers(c *mqttclient.Client, t wire.PacketType) error {
	if _, err := io.ReadFull(c.Conn(), p.back); err != nil {
		return err
	}
	for at := 0; at < len(p.back); at += 4 {
		if got := wire.PacketType(p.back[at] >> 4); got != t {
			return fmt.Errorf("%v instead of %v", got, t)
		}
	}
	return nil
}

// end makes sure that the node has read all that was sent.
func (p *pipe) end() error {
	for _, c := range append([]*mqttclient.Client{p.pub}, p.subs...) {
		if err := ping(c); err != nil {
			return err
		}
	}
	return nil
}

func ping(c *mqttclient.Client) error {
	var answer [2]byte
	if _, err := c.Conn().Write([]byte{byte(wire.PINGREQ) << 4, 0}); err != nil {
		return err
	}
	_, err := io.ReadFull(c.Conn(), answer[:])
	return err
}

// run lets all pipes do so many rounds at once.
func run(t testing.TB, pipes []*pipe, rounds int) {
	t.Helper()
	var wg sync.WaitGroup
	for _, p := range pipes {
		deadline := time.Now().Add(60 * time.Second)
		for _, c := range append([]*mqttclient.Client{p.pub}, p.subs...) {
			_ = c.Conn().SetDeadline(deadline)
		}
		wg.Go(func() {
			for range rounds {
				if err := p.round(); err != nil {
					t.Error(err)
					return
				}
			}
			if err := p.end(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
