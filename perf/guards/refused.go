package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sluicemq/sluice/perf/process"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

const (
	refusedRate    = 10_000 // connections a second
	refusedWorkers = 16
	flatOut        = 1e9
	// answerWithin is how long a client waits for what the node has to say.
	answerWithin = 10 * time.Second
)

// refusals are the ways in which a node lets nobody in, with what it answers: nothing where it does not read.
var refusals = []struct {
	name          string
	ban, settings []string
	from          net.IP
	hold          bool // somebody is connected
	reason        wire.ReasonCode
}{
	{name: "banned address", ban: []string{"--address", "127.0.2.0/24"}, from: net.IPv4(127, 0, 2, 1)},
	{name: "banned client id", ban: []string{"--client-id", "flood"}, from: net.IPv4(127, 0, 3, 1), reason: wire.Banned},
	{name: "banned user", ban: []string{"--user", "ANONYMOUS"}, from: net.IPv4(127, 0, 3, 1), reason: wire.Banned},
	{name: "flapping client", settings: []string{"limits.flapping.connects=1"}, from: net.IPv4(127, 0, 3, 1), reason: wire.Banned},
	{name: "one too many", settings: []string{"limits.connections=1"}, from: net.IPv4(127, 0, 3, 1), hold: true},
}

// refused has clients come who are not let in, so many a second, and as fast as they can: between those that come one by one threads go to sleep and wake.
func (o *options) refused() error {
	print("\nCPU of a node for a connection that it refuses")
	for _, r := range refusals {
		n, err := o.start(r.settings...)
		if err != nil {
			return err
		}
		if r.ban != nil {
			err = n.ask(append([]string{"ban", "add"}, r.ban...)...)
		}
		var held net.Conn
		if r.hold && err == nil {
			held, err = n.enter("held")
		}
		if err == nil {
			err = n.refuse(r.name, r.from, r.reason)
		}
		if held != nil {
			_ = held.Close()
		}
		if err := errors.Join(err, n.close()); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return nil
}

func (n *node) refuse(name string, from net.IP, reason wire.ReasonCode) error {
	hello := wire.AppendConnect(nil, &wire.Connect{Version: wire.V5, ClientID: []byte("flood"), CleanStart: true})
	for _, rate := range []float64{refusedRate, flatOut} {
		if err := n.refuseAt(rate, name, from, hello, reason); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) refuseAt(rate float64, name string, from net.IP, hello []byte, reason wire.ReasonCode) error {
	before, err := process.CPU(n.PID)
	if err != nil {
		return err
	}
	began := time.Now()
	ctx, stop := context.WithTimeout(context.Background(), n.o.duration)
	defer stop()
	var let atomic.Int64
	count, err := paced(ctx, rate, refusedWorkers, func(int) error {
		in, err := n.knock(from, hello, reason)
		if in {
			let.Add(1)
		}
		return err
	})
	if err != nil {
		return err
	}
	took := time.Since(began)
	after, err := process.CPU(n.PID)
	if err != nil {
		return err
	}
	if let.Load() > 1 { // the flapping one's first
		return fmt.Errorf("%d of %d were let in", let.Load(), count)
	}
	print("  %-22s %.1f µs, %.0f a second", name, float64((after-before).Microseconds())/float64(count), float64(count)/took.Seconds())
	return nil
}

// paced runs fn on so many goroutines, so often a second in sum, until ctx is over, and tells how often it was run.
func paced(ctx context.Context, rate float64, workers int, fn func(worker int) error) (count int64, err error) {
	began := time.Now()
	var next atomic.Int64
	errs := make(chan error, workers)
	for w := range workers {
		go func() {
			errs <- func() error {
				for {
					at := began.Add(time.Duration(float64(next.Add(1)) / rate * float64(time.Second)))
					select {
					case <-ctx.Done():
						next.Add(-1)
						return nil
					case <-time.After(time.Until(at)):
					}
					if err := fn(w); err != nil {
						return err
					}
				}
			}()
		}()
	}
	for range workers {
		err = errors.Join(err, <-errs)
	}
	return next.Load(), err
}

// knock connects and says hello, and tells whether the node has let it in. With a reason, nothing else may be answered.
func (n *node) knock(from net.IP, hello []byte, reason wire.ReasonCode) (in bool, err error) {
	c, err := dial(n.mqtt, from)
	if err != nil {
		return false, lost(err)
	}
	defer c.Close()
	if _, err := c.Write(hello); err != nil {
		return false, lost(err)
	}
	var b [64]byte
	k, err := io.ReadAtLeast(c, b[:], 4)
	switch {
	case err != nil && reason != 0:
		return false, fmt.Errorf("no answer: %w", err)
	case err != nil:
		return false, lost(err)
	case b[3] != 0 && wire.ReasonCode(b[3]) != reason:
		return false, fmt.Errorf("answered %x, and the reason is %#x", b[:k], byte(reason))
	}
	return b[3] == 0, nil
}

// lost forgives that a connection was ended.
func lost(err error) error {
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// dial connects from an address of loopback. The connection leaves nothing behind that its port waits for.
func dial(addr string, from net.IP) (net.Conn, error) {
	d := net.Dialer{Timeout: answerWithin, LocalAddr: &net.TCPAddr{IP: from}, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
	}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = c.(*net.TCPConn).SetLinger(0) //nolint:forcetypeassert // it was dialed so
	_ = c.SetDeadline(time.Now().Add(answerWithin))
	return c, nil
}
