package report

import (
	"testing"

	"github.com/sluicemq/sluice/bench"
)

// A mixed run has the settings of its parts, not sums of them.
func TestMixedSettings(t *testing.T) {
	idle, load := &bench.Result{Name: "a"}, &bench.Result{Name: "b"}
	idle.Config.Connections = 7
	load.Config.Publishers, load.Config.Payload, load.Config.QoS = 2, 64, 1
	if got := settings(&bench.Result{Parts: []*bench.Result{idle, load}}); got != "a: 7 connections; b: 2 publishers, 0 subscribers, 64 bytes, QoS 1, 0 in flight" {
		t.Error(got)
	}
}
