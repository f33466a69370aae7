package main

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

func TestTraceCommand(t *testing.T) {
	at := inProcess(t, "mqtt.trace_property=true")
	type result struct {
		out  string
		code int
	}
	done := make(chan result, 1)
	go func() {
		out, code := sluice(t, "", "trace", "topic", "orders/#", "--limit", "3", "-o", "json")
		done <- result{out, code}
	}()
	var r result
	testx.Eventually(t, 30*time.Second, func() bool { // until the trace has begun, and has seen three
		says(t, 0, "", "pub", "--mqtt", at["mqtt.tcp"], "-t", "orders/7", "-q", "1", "-m", "x", "-P", "trace=order-7")
		select {
		case r = <-done:
			return true
		default:
			return false
		}
	}, "three events")
	if r.code != 0 || strings.Count(r.out, `"kind":`) != 3 || !strings.Contains(r.out, `"kind":"received","client":"`) || !strings.Contains(r.out, `"text":"orders/7","trace":"order-7"`) {
		t.Errorf("%d %s", r.code, r.out)
	}
	out := says(t, 0, "orders/7, QoS 1, 1B, packet 1, trace order-7", "explain", "--message", "order-7")
	if !strings.Contains(out, " nobody ") || !strings.Contains(out, " answered ") {
		t.Error(out)
	}
	says(t, 0, "received", "explain", "--message", "#1")
	says(t, 0, `"messages": 1`, "explain", "--message", "#1", "-o", "json")
	says(t, 1, `explain message "absent": nothing is remembered of it`, "explain", "--message", "absent")
	says(t, 0, "tracing", "trace", "client", "nobody", "--for", "300ms")
	says(t, 2, "CLIENT is missing", "trace", "client")
	says(t, 2, "want an IP address or a network", "trace", "address", "here")
	says(t, 2, "it is no MQTT topic filter", "trace", "topic", "a/#/b")
	says(t, 2, "--output table or json", "trace", "topic", "a", "-o", "yaml")
}
