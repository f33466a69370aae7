package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

const (
	quietRate = 1000
	floodRate = 200_000 // messages a second: what one core of the node takes of a publisher who knows no end leaves no processor to whoever measures
	flappers  = 1000
	flapRate  = 1000 // connections a second of all of them
)

// others are who is beside the quiet ones. Each runs until ctx is over.
var others = []struct {
	name string
	run  func(*node, context.Context) error
}{
	{"nobody", func(_ *node, ctx context.Context) error { <-ctx.Done(); return nil }},
	{"one that floods", (*node).flood},
	{"one that never reads", (*node).deaf},
	{"1,000 that flap", (*node).flap},
}

// quiet has clients who publish by a timetable, alone and beside others.
func (o *options) quiet() error {
	print("\np99 of quiet clients (pairs, QoS 1, %d messages a second) beside others, to what it is alone", quietRate)
	p99, all := make([][]float64, len(others)), make([]ratios, len(others))
	for range o.rounds {
		for i, other := range others {
			v, err := o.beside(other.run)
			if err != nil {
				return fmt.Errorf("beside %s: %w", other.name, err)
			}
			say("beside %s: p99 %.0f µs", other.name, v)
			p99[i] = append(p99[i], v)
			all[i] = append(all[i], v/p99[0][len(p99[0])-1])
		}
	}
	for i, other := range others {
		print("  %-22s %s, µs %.0f", other.name, all[i], p99[i])
	}
	return nil
}

func (o *options) beside(other func(*node, context.Context) error) (p99 float64, err error) {
	n, err := o.start()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var oerr error
	all.Go(func() { oerr = other(n, ctx) })
	r, err := n.bench("pairs", "--pairs", "16", "--qos", "1", "--rate", fmt.Sprint(quietRate), "--duration", o.duration.String())
	stop()
	all.Wait()
	if err := errors.Join(err, oerr); err != nil {
		return 0, err
	}
	return r.Latency.P99, nil
}

// enter connects and is let in.
func (n *node) enter(id string) (net.Conn, error) {
	c, err := dial(n.mqtt, net.IPv4(127, 0, 4, 1))
	if err != nil {
		return nil, err
	}
	_, err = c.Write(wire.AppendConnect(nil, &wire.Connect{Version: wire.V311, ClientID: []byte(id), CleanStart: true}))
	var b [4]byte
	if err == nil {
		_, err = io.ReadFull(c, b[:])
	}
	if err == nil && b[3] != 0 {
		err = fmt.Errorf("%s: answered %x", id, b)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, c.SetDeadline(time.Time{})
}

// flood publishes without waiting for anything.
func (n *node) flood(ctx context.Context) error {
	c, err := n.enter("flood")
	if err != nil {
		return err
	}
	defer c.Close()
	var b []byte
	batch := 0
	for ; len(b) < 64<<10; batch++ {
		b = wire.AppendPublish(b, wire.V311, &wire.PublishOut{Topic: []byte("flood"), Payload: make([]byte, 100)})
	}
	go func() { <-ctx.Done(); _ = c.Close() }()
	_, err = paced(ctx, floodRate/float64(batch), 1, func(int) error {
		if _, err := c.Write(b); err != nil && ctx.Err() == nil {
			return err
		}
		return nil
	})
	return err
}

// deaf subscribes to all that there is, to more than it ever reads.
func (n *node) deaf(ctx context.Context) error {
	c, err := n.enter("deaf")
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(wire.AppendSubscribe(nil, wire.V311, &wire.SubscribeOut{PacketID: 1, Filters: []wire.FilterRequest{{Filter: []byte("#")}}}))
	<-ctx.Done()
	return err
}

// flap has many clients connect, and drop the connection once they are in.
func (n *node) flap(ctx context.Context) error {
	_, err := paced(ctx, flapRate, 16, func(int) error {
		c, err := n.enter(fmt.Sprint("flap-", time.Now().UnixNano()%flappers))
		if err == nil {
			_ = c.Close()
		} else if lost(err) == nil {
			err = nil // another one has the same name now
		}
		return err
	})
	return err
}
