package main

import (
	"crypto/tls"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
)

// Each TLS listener of MQTT's names its protocol, serves who asks for none, and refuses who asks for another.
func TestALPN(t *testing.T) {
	cert := testx.TempCert(t)
	at := inProcess(t, "listeners.mqtt.tls=127.0.0.1:0", "listeners.mqtt.wss=127.0.0.1:0", "tls.cert="+cert.ServerCertFile, "tls.key="+cert.ServerKeyFile)
	for _, tt := range []struct {
		listener, got string
		offered       []string
		refused       bool
	}{
		{"mqtt.tls", "mqtt", []string{"x-amzn-mqtt-ca", "mqtt"}, false},
		{"mqtt.tls", "", nil, false},
		{"mqtt.tls", "", []string{"x-amzn-mqtt-ca"}, true},
		{"mqtt.wss", "http/1.1", []string{"h2", "http/1.1"}, false},
		{"mqtt.wss", "", nil, false},
		{"mqtt.wss", "", []string{"mqtt"}, true},
	} {
		cfg := cert.ClientConfig(false)
		cfg.NextProtos = tt.offered
		c, err := tls.Dial("tcp", at[tt.listener], cfg)
		if (err != nil) != tt.refused {
			t.Errorf("%s, %v offered: %v", tt.listener, tt.offered, err)
		}
		if err != nil {
			continue
		}
		if got := c.ConnectionState().NegotiatedProtocol; got != tt.got {
			t.Errorf("%s, %v offered: %q agreed on, want %q", tt.listener, tt.offered, got, tt.got)
		}
		_ = c.Close()
	}
	for scheme, listener := range map[string]string{"mqtts": "mqtt.tls", "wss": "mqtt.wss"} {
		cfg := cert.ClientConfig(false)
		cfg.NextProtos = map[string][]string{"mqtts": {"mqtt"}, "wss": {"http/1.1"}}[scheme]
		url := scheme + "://" + at[listener]
		if scheme == "wss" {
			url += "/mqtt"
		}
		c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: url, TLS: cfg})
		if err != nil {
			t.Errorf("%s: %v", scheme, err)
			continue
		}
		_ = c.Disconnect()
	}
}
