package control_test

import (
	"testing"
	"time"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
)

// A client that acknowledges nothing is listed as slow, and nobody is while nobody asks for it.
func TestListSlow(t *testing.T) {
	for _, threshold := range []string{"0s", "1ms"} {
		n := start(t, "mqtt.slow_subscribers.threshold="+threshold)
		n.subscriber("mute", "jobs", 1, 2, 3600)
		n.publish(n.subscriber("pub", "none", 0, 1, 0), "jobs", 1, 2, 10)
		list := func() []*api.SlowSubscriber {
			r, err := n.explain().ListSlow(t.Context(), &api.ListSlowRequest{})
			if err != nil {
				t.Fatal(err)
			}
			return r.Subscribers
		}
		if threshold == "0s" {
			n.held("mute", "window")
			if got := list(); len(got) != 0 {
				t.Errorf("%v", got)
			}
			continue
		}
		testx.Eventually(t, 20*time.Second, func() bool { return len(list()) == 1 })
		if s := list()[0]; s.Client != "mute" || s.Topic != "jobs" || s.Late != 1 || s.LongestUs < 1000 || s.LastUs > s.LongestUs || s.AtMs == 0 {
			t.Errorf("%v", s)
		}
	}
}
