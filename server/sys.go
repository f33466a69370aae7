package server

import (
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/sluicemq/sluice/broker"
)

// sysTree publishes the $SYS topics: the numbers that MQTT users look for on a broker, under the names that Mosquitto gave them.
type sysTree struct {
	n       *node
	version string
	started time.Time
	period  chan time.Duration
	stop    chan struct{}
	done    sync.WaitGroup
}

// startSys publishes every interval until close; 0 publishes nothing.
func startSys(n *node, version string, interval time.Duration) *sysTree {
	s := &sysTree{n: n, version: version, started: time.Now(), period: make(chan time.Duration), stop: make(chan struct{})}
	s.done.Go(func() { s.run(interval) })
	return s
}

// every changes the interval, and publishes a round at once.
func (s *sysTree) every(interval time.Duration) {
	select {
	case s.period <- interval:
	case <-s.stop:
	}
}

func (s *sysTree) run(interval time.Duration) {
	for {
		var due <-chan time.Time // never
		if interval > 0 {
			s.publish()
			due = time.After(interval)
		}
		select {
		case <-s.stop:
			return
		case interval = <-s.period:
		case <-due:
		}
	}
}

func (s *sysTree) close() {
	close(s.stop)
	s.done.Wait()
}

// publish sends one round on loop 0. The values are retained in the tables only as long as the node runs: each round replaces them.
func (s *sysTree) publish() {
	c := s.n.mqtt.Snapshot()
	filters, subs := s.n.broker.Subscriptions()
	st := s.n.broker.Stats()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	in, out := c.MessagesIn[0]+c.MessagesIn[1]+c.MessagesIn[2], c.MessagesOut[0]+c.MessagesOut[1]+c.MessagesOut[2]
	dropped := uint64(0)
	for _, d := range c.Dropped {
		dropped += d
	}
	values := []struct {
		topic, value string
	}{
		{"version", "sluice version " + s.version},
		{"uptime", strconv.FormatInt(int64(time.Since(s.started)/time.Second), 10) + " seconds"},
		{"clients/connected", strconv.FormatInt(c.Connected, 10)},
		{"clients/total", strconv.FormatInt(c.Connected+max(0, st.Sessions.Load()-c.Connected), 10)},
		{"messages/received", strconv.FormatUint(in, 10)},
		{"messages/sent", strconv.FormatUint(out, 10)},
		{"publish/messages/received", strconv.FormatUint(in, 10)},
		{"publish/messages/sent", strconv.FormatUint(out, 10)},
		{"publish/messages/dropped", strconv.FormatUint(dropped, 10)},
		{"publish/bytes/received", strconv.FormatUint(c.PayloadIn, 10)},
		{"publish/bytes/sent", strconv.FormatUint(c.PayloadOut, 10)},
		{"bytes/received", strconv.FormatUint(c.BytesIn, 10)},
		{"retained messages/count", strconv.FormatInt(st.RetainedMessages.Load(), 10)},
		{"subscriptions/count", strconv.Itoa(subs)},
		{"filters/count", strconv.Itoa(filters)},
		{"heap/current", strconv.FormatUint(mem.HeapAlloc, 10)},
	}
	l := s.n.broker.Local(0)
	l.Run(func() {
		now := time.Now().UnixMilli()
		for _, v := range values {
			m := broker.Message{Topic: []byte("$SYS/broker/" + v.topic), Payload: []byte(v.value), Timestamp: now}
			l.PublishRetained(&m)
		}
	})
}
