package main

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/perf/process"
)

const (
	sessionWorkers = 64
	// sessionsEach is how many sessions come from one address of loopback: each has some 28,000 ports.
	sessionsEach = 20_000
	topicsEach   = 1000 // of a request
)

// many makes kept sessions and topics on three nodes, and tells what a node has in memory with them and how long it takes to start with them.
func (o *options) many() error {
	c, err := startNodes(o, 3, "limits.sessions=2000000")
	if err != nil {
		return err
	}
	defer c.close()
	leader, err := c.synced()
	if err != nil {
		return err
	}
	if err := c.makeSessions(leader); err != nil {
		return err
	}
	if err := c.makeTopics(leader); err != nil {
		return err
	}
	if _, err := c.synced(); err != nil {
		return err
	}
	if err := c.memory("when they are made"); err != nil {
		return err
	}
	time.Sleep(settleFor)
	if err := c.memory("with them, at rest"); err != nil {
		return err
	}
	for _, n := range c.list {
		if err := n.stop(); err != nil {
			return err
		}
		took, err := n.start(o.sluice)
		if err != nil {
			return err
		}
		fmt.Printf("  node %d starts in %.1f s\n", n.id, took.Seconds()) //nolint:forbidigo // the result
		if _, err := c.synced(); err != nil {
			return err
		}
	}
	time.Sleep(settleFor)
	if err := c.memory("after its start, at rest"); err != nil {
		return err
	}
	return c.verify()
}

// verify looks whether sessions and topics are there after all nodes have been restarted.
func (c *nodes) verify() error {
	leader, err := c.synced()
	if err != nil {
		return err
	}
	for i := 1; i <= c.o.sessions; i += 1 + c.o.sessions/1000 {
		if err := leaveSession(leader.mqtt, i, 1); err != nil {
			return err
		}
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(leader.kafka))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	list, err := kadm.NewClient(cl).ListTopics(ctx)
	if err == nil && len(list) != c.o.topics {
		err = fmt.Errorf("%d topics are there, and %d were made", len(list), c.o.topics)
	}
	return err
}

func (c *nodes) memory(when string) error {
	for _, n := range c.list {
		b, err := process.Memory(n.process.PID)
		if err != nil {
			return err
		}
		fmt.Printf("  node %d has %d MiB %s\n", n.id, b>>20, when) //nolint:forbidigo // the result
	}
	return nil
}

// makeSessions has each client connect, be answered, and leave a session that is kept.
func (c *nodes) makeSessions(leader *node) error {
	before, err := c.cpu()
	if err != nil {
		return err
	}
	began := time.Now()
	var next atomic.Int64
	err = together(sessionWorkers, func(int) error {
		for i := next.Add(1); i <= int64(c.o.sessions); i = next.Add(1) {
			if err := leaveSession(leader.mqtt, int(i), 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	took := time.Since(began)
	after, err := c.cpu()
	if err != nil {
		return err
	}
	var sum time.Duration
	for i := range after {
		sum += after[i] - before[i]
	}
	fmt.Printf("\nthree nodes: %d sessions made and left in %.0f s, %.0f changes a second, %.1f µs of CPU each\n", //nolint:forbidigo // the result
		c.o.sessions, took.Seconds(), 2*float64(c.o.sessions)/took.Seconds(), float64(sum.Microseconds())/float64(2*c.o.sessions))
	return nil
}

// leaveSession connects with a session that outlives the connection, which is a change, and disconnects, which is another one. present is 1 if it has to have been
// there before.
func leaveSession(addr string, i int, present byte) error {
	from := net.IPv4(127, 0, 1, byte(1+i/sessionsEach%250))
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: from}, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
	}}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	_ = nc.(*net.TCPConn).SetLinger(0) //nolint:forcetypeassert // it was dialed so; else its port waits
	connect := wire.Connect{Version: wire.V5, ClientID: fmt.Appendf(nil, "client-%07d", i), SessionExpiry: 86400, CleanStart: false}
	b := wire.AppendConnect(nil, &connect)
	if _, err := nc.Write(b); err != nil {
		return err
	}
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	var in [256]byte
	n, err := nc.Read(in[:])
	if err != nil || n < 4 || in[0] != 0x20 || in[2] != present || in[3] != 0 {
		return fmt.Errorf("session %d: answered %x, %w", i, in[:n], err)
	}
	if _, err := nc.Write([]byte{0xe0, 0}); err != nil {
		return err
	}
	if n, err := nc.Read(in[:]); n > 0 {
		return fmt.Errorf("session %d: answered %x to its end, %w", i, in[:n], err)
	}
	return nil
}

func (c *nodes) makeTopics(leader *node) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(leader.kafka))
	if err != nil {
		return err
	}
	defer cl.Close()
	began := time.Now()
	for at := 0; at < c.o.topics; at += topicsEach {
		var names []string
		for i := at; i < min(at+topicsEach, c.o.topics); i++ {
			names = append(names, fmt.Sprintf("topic-%06d", i))
		}
		made, err := kadm.NewClient(cl).CreateTopics(ctx, 1, -1, nil, names...)
		if err == nil {
			err = made.Error()
		}
		if err != nil {
			return err
		}
	}
	fmt.Printf("  %d topics made in %.1f s\n", c.o.topics, time.Since(began).Seconds()) //nolint:forbidigo // the result
	return nil
}

// together runs fn so many times side by side, and gives what went wrong.
func together(n int, fn func(i int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- fn(i) }()
	}
	var first error
	for range n {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}
