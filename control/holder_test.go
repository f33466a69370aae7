package control

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
)

// TestJudge has what real clients do not do when asked to; the others are in explain_test.go.
func TestJudge(t *testing.T) {
	full := errors.New("broker: storage unavailable: the disk is full")
	for name, tt := range map[string]struct {
		info  broker.ClientInfo
		s     broker.ClientState
		delay time.Duration
		want  string // kinds and the words of the first, none for nothing
	}{
		"nothing":                        {s: broker.ClientState{Window: 20, ReceiveMax: 20, OutBound: 1 << 20, OutFull: 1 << 20}, delay: time.Millisecond},
		"a reader that takes what comes": {s: broker.ClientState{OutBytes: 1000, OutBound: 1 << 20, OutFull: 1 << 20}},
		"the network": {s: broker.ClientState{Stalled: 12 * time.Second, OutBytes: 5 << 20, OutBound: 8 << 20, OutFull: 8 << 20,
			Network: &broker.NetworkState{Unsent: 1000, Repeats: 6}}, want: "network|has taken nothing for 12s; 5.0MiB wait for it, and 6 tries in a row"},
		"a peer that reads nothing": {s: broker.ClientState{Stalled: 1500 * time.Millisecond, OutBytes: 100, OutBound: 1 << 20, OutFull: 1 << 20,
			Network: &broker.NetworkState{Unsent: 1000, Full: true}}, want: "peer|has taken nothing for 1.5s; 100B wait for it, and its own buffer is full"},
		"memory": {s: broker.ClientState{OutBytes: 200 << 10, OutBound: 128 << 10, OutFull: 1 << 20, Pressure: 1},
			want: "memory|the node is short of it: only 128.0KiB may wait for a client, in place of 1.0MiB"},
		"a window that the node makes smaller": {info: broker.ClientInfo{InFlight: 20}, s: broker.ClientState{Window: 20, ReceiveMax: 100, Silent: 40 * time.Second},
			want: "window|20 of 20 messages unacknowledged, none acknowledged for 40s; the node allows fewer than the 100"},
		"the log's bound": {s: broker.ClientState{NotRead: []broker.ReadPause{broker.PauseLog}}, want: "log|it is not read from: what waits for the log has reached its bound"},
		"unanswered":      {s: broker.ClientState{NotRead: []broker.ReadPause{broker.PauseAnswers}, Unanswered: 7}, want: "log|it is not read from: 7 that it has sent"},
		"a subscription":  {s: broker.ClientState{NotRead: []broker.ReadPause{broker.PauseRequests}}, want: "log|it is not read from: its subscriptions"},
		"a full disk": {s: broker.ClientState{NotRead: []broker.ReadPause{broker.PauseLog}, Core: broker.ClientWaits{Storage: full, Commits: 3}},
			want: "disk|it is not read from: storage unavailable: the disk is full"},
		"commits":                       {s: broker.ClientState{Core: broker.ClientWaits{Commits: 3}}, want: "log|3 of its requests wait"},
		"commits, full disk":            {s: broker.ClientState{Core: broker.ClientWaits{Commits: 3, Storage: full}}, want: "disk|3 of its requests wait: storage"},
		"a full disk that it needs not": {s: broker.ClientState{Core: broker.ClientWaits{Storage: full}}},
		"reading":                       {s: broker.ClientState{Core: broker.ClientWaits{Reading: 1, Behind: true}}, want: "disk|what its queues hold is being read"},
		"again":                         {s: broker.ClientState{Core: broker.ClientWaits{Reading: 1, Resend: 4}}, want: "disk|4 messages to be sent again"},
		"identifiers":                   {s: broker.ClientState{Window: 20, Core: broker.ClientWaits{Granting: 2}}, want: "log|2 QoS 2 messages"},
		"retained":                      {s: broker.ClientState{Core: broker.ClientWaits{Retained: 2}}, want: "loop|retained messages of 2 subscriptions"},
		"a stream's past":               {s: broker.ClientState{Core: broker.ClientWaits{Replays: 1}}, want: "disk|1 subscriptions read"},
		"more to send":                  {s: broker.ClientState{Core: broker.ClientWaits{Behind: true}}, want: "loop|its queues hold more"},
		"a late loop":                   {delay: 340 * time.Millisecond, want: "loop|its loop took 340ms to come round"},
		"two things": {info: broker.ClientInfo{InFlight: 2}, s: broker.ClientState{Window: 2, ReceiveMax: 2, Silent: time.Second, SendOwed: 2 * time.Second},
			want: "quota,window|what it was sent is over its consumer_byte_rate or a limit of its tenant, and paid for in 2s"},
		"an order of requests": {s: broker.ClientState{NotRead: []broker.ReadPause{broker.PauseOrder}, Unanswered: 1}},
	} {
		var kinds []string
		why := ""
		for i, h := range judge(&tt.info, &tt.s, tt.delay) {
			kinds = append(kinds, h.Kind)
			if i == 0 {
				why = h.Why
			}
		}
		wantKinds, wantWhy, _ := strings.Cut(tt.want, "|")
		if strings.Join(kinds, ",") != wantKinds || !strings.HasPrefix(why, wantWhy) || (tt.want == "") != (why == "") {
			t.Errorf("%s: %v %q, want %q", name, kinds, why, tt.want)
		}
	}
}
