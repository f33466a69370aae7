package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/bench/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

func TestExplainCommand(t *testing.T) {
	at := inProcess(t)
	c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: at["mqtt.tcp"], Connect: wire.Connect{Version: 5, ClientID: []byte("mute"),
		CleanStart: true, SessionExpiry: 3600, ReceiveMaximum: 2}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Subscribe(wire.FilterRequest{Filter: []byte("jobs"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	says(t, 0, "held by     nothing", "explain", "--client", "mute")
	for range 3 {
		says(t, 0, "", "pub", "--mqtt", at["mqtt.tcp"], "-t", "jobs", "-q", "1", "-m", "x")
	}
	out := says(t, 0, "held by       window: 2 of 2 messages unacknowledged", "explain", "--client", "mute")
	for _, want := range []string{"\nwindow        2 of 2 in flight, the client takes 2\n", "\nacknowledged  nothing for ", "\ndropped       nothing\n", "\nsession        mute\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %s", want, out)
		}
	}
	var v explainedView
	if err := json.Unmarshal([]byte(says(t, 0, "", "explain", "--client", "mute", "-o", "json")), &v); err != nil || len(v.Connections) != 1 ||
		v.Connections[0].HeldBy[0].Kind != "window" || v.Connections[0].Silent <= 0 || v.Session == nil {
		t.Errorf("%+v, %v", v, err)
	}
	says(t, 2, "give --client, --connection or --message", "explain")
	says(t, 1, `explain client "absent": it is not connected, and has no session that is kept`, "explain", "--client", "absent")
	says(t, 2, "too many arguments", "explain", "mute")
}
