package bench_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/brokertest"
)

// TestReconnect: subscribers lose their connections again and again while load runs, and nothing is lost.
func TestReconnect(t *testing.T) {
	for qos := byte(1); qos < 3; qos++ {
		b := brokertest.Start(t, brokertest.Options{})
		cfg := small("reconnect", b)
		cfg.QoS, cfg.Messages, cfg.Duration, cfg.Warmup, cfg.Rate = qos, 0, 300*time.Millisecond, 20*time.Millisecond, 3000
		cfg.Drain = 5 * time.Second
		res := mustRun(t, cfg)
		if !res.OK || res.Counts.Received < res.Counts.Sent || len(res.Steps) != 1 || res.Steps[0].Count < 6 {
			t.Errorf("QoS %d: %q, %+v, %+v", qos, res.Violations, res.Counts, res.Steps)
		}
		if b.Sessions() != 0 {
			t.Errorf("%d sessions are left behind", b.Sessions())
		}
	}
}

// TestReconnectFindsWhatIsForgotten: what comes while a subscriber is away must not be thrown away.
func TestReconnectFindsWhatIsForgotten(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{Faults: brokertest.Faults{IgnoreQueued: 1}})
	cfg := small("reconnect", b)
	cfg.Messages, cfg.Duration, cfg.Warmup, cfg.Rate, cfg.DropEvery = 0, 300*time.Millisecond, 20*time.Millisecond, 20_000, 10*time.Millisecond
	res := mustRun(t, cfg)
	if res.OK || !strings.HasPrefix(res.Violations[0], "LOST") {
		t.Errorf("%q, %+v", res.Violations, res.Counts)
	}
	cfg.QoS = 0
	if _, err := bench.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "absent session") {
		t.Errorf("QoS 0: %v", err)
	}
}
