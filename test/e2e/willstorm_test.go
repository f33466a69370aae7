package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// Some thousand connections are cut at once: all wills come, each once, at the rate that is set, and who publishes meanwhile is answered.
func TestWillStorm(t *testing.T) {
	const n, rate = 2000, 1000
	node := start(t, nodeOptions{limits: broker.Limits{WillRate: rate}})
	in(t, node, only5, func(w *world) {
		watch, by := w.connect("watch"), w.connect("by")
		watch.sub(1, "will/+")
		by.sub(1, "ping")
		all := make([]*client, n)
		for i := range all {
			opts := []with{w.will(fmt.Sprintf("will/%d", i), "gone", 1, false, 0)}
			if i%2 == 0 {
				opts = append(opts, kept)
			}
			all[i] = w.connect(fmt.Sprint("c", i), opts...)
		}
		began := time.Now()
		for _, c := range all {
			_ = c.Close()
		}
		done := make(chan struct{})
		answered := make(chan int, 1)
		go func() {
			pings := 0
			defer func() { answered <- pings }()
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := by.Publish(&wire.PublishOut{Topic: []byte(w.name("ping")), QoS: 1}); err != nil {
					w.Error(err)
					return
				}
				if _, err := by.Receive(patience); err != nil {
					w.Error(err)
					return
				}
				pings++
			}
		}()
		seen := map[string]bool{}
		for range n {
			m := watch.recv()
			if seen[string(m.Topic)] {
				w.Fatalf("%s came twice", m.Topic)
			}
			seen[string(m.Topic)] = true
		}
		took := time.Since(began)
		close(done)
		if least := (n - rate/10) * time.Second / rate; took < least*9/10 {
			w.Errorf("%d wills in %v, want %d a second", n, took, rate)
		}
		if pings := <-answered; pings < 10 {
			w.Errorf("%d round trips of another client in %v", pings, took)
		}
		w.Logf("%d wills in %v", n, took)
		watch.sub(1, "quiet")
		watch.quiet("quiet")
	})
}
