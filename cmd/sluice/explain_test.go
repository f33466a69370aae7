package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
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
	says(t, 0, "CLIENT  USER  LONGEST", "explain", "--slow")
	says(t, 2, "give --client, --connection, --topic, --message or --slow", "explain")
	says(t, 1, `explain client "absent": it is not connected, and has no session that is kept`, "explain", "--client", "absent")
	says(t, 2, "too many arguments", "explain", "mute")
}

func TestExplainTopicCommand(t *testing.T) {
	at := inProcess(t)
	says(t, 0, "subscribers  0 by 0 filters", "explain", "--topic", "plant/a")
	says(t, 0, "", "pub", "--mqtt", at["mqtt.tcp"], "-t", "plant/a", "-q", "1", "-r", "-m", "12345")
	for _, c := range []struct {
		id, filter string
		qos        byte
	}{{"away", "plant/#", 1}, {"away0", "plant/+", 0}, {"here", "plant/a", 1}} {
		cl, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: at["mqtt.tcp"], Connect: wire.Connect{Version: 5, ClientID: []byte(c.id), SessionExpiry: 3600}})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		if _, err := cl.Subscribe(wire.FilterRequest{Filter: []byte(c.filter), QoS: c.qos}); err != nil {
			t.Fatal(err)
		}
		if c.id != "here" {
			if err := cl.Disconnect(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var out string
	testx.Eventually(t, 10*time.Second, func() bool { // those who have said DISCONNECT are gone
		out = says(t, 0, "subscribers  3 by 3 filters", "explain", "--topic", "plant/a", "--client", "press")
		return strings.Count(out, "away:") == 2
	}, "two are away")
	for _, want := range []string{"publish      allowed: ", "retained     5B, QoS 1, since 20", "away    plant/#  -      1    away: kept for it", "away0   plant/+  -      0    away: not kept",
		"here    plant/a  -      1    gets it"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %s", want, out)
		}
	}
	var v explainedTopic
	if err := json.Unmarshal([]byte(says(t, 0, "", "explain", "--topic", "plant/a", "-o", "json")), &v); err != nil || len(v.Receivers) != 3 || v.Retained == nil || !v.Allowed ||
		v.Receivers[0].Filter == "" || v.Receivers[0].Fate == "" {
		t.Errorf("%+v, %v", v, err)
	}
	says(t, 0, "filter: plant/", "explain", "--topic", "plant/a", "-o", "yaml")
	says(t, 2, "none of +, # and NUL", "explain", "--topic", "plant/+")
	says(t, 2, "--user and --host go with --topic", "explain", "--client", "c", "--user", "u")
	says(t, 2, "want an IP address", "explain", "--topic", "t", "--host", "here")
}
