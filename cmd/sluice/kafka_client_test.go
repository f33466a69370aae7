package main

import (
	"strings"
	"testing"
)

// pub and sub speak both protocols, and meet on one stream.
func TestPubSubBothProtocols(t *testing.T) {
	at := inProcess(t, "bindings=[{filter: plant/+/temp, topic: temps}]")
	kafka, mqtt := at["kafka.tcp"], at["mqtt.tcp"]
	exactly := func(want string, args ...string) {
		t.Helper()
		if out := says(t, 0, "", args...); out != want {
			t.Errorf("sluice %v said %q, want %q", args, out, want)
		}
	}
	exactly("", "pub", "--kafka", kafka, "-t", "temps", "--record-key", "plant/1/temp", "-m", "one", "-P", "a=b")
	exactly("", "pub", "--mqtt", mqtt, "-t", "plant/2/temp", "-m", "two", "-q", "1", "-P", "c=d")
	exactly("", "pub", "--kafka", kafka, "-t", "temps", "--record-key", "plant/3/temp", "-n", "--repeat", "2")
	exactly("temps plant/1/temp one\ntemps plant/2/temp two\n", "sub", "--kafka", kafka, "-t", "temps", "--from", "earliest", "-v", "--count", "2")
	exactly("plant/1/temp one a=b\nplant/2/temp two c=d\n", "sub", "--mqtt", mqtt, "-t", "plant/#", "--from", "earliest", "--format", `%t %p %P\n`, "--count", "2")
	exactly("1 two 0 c=d 3\n", "sub", "--kafka", kafka, "-t", "temps", "--from", "1", "--format", `%o %p %n %P %l\n`, "--count", "1")
	for _, want := range []string{"0 one\n", "1 two\n", "2 \n3 \n"} { // a group goes on where it is
		count := "1"
		if want == "2 \n3 \n" {
			count = "2"
		}
		exactly(want, "sub", "--kafka", kafka, "-t", "temps", "--group", "g", "--from", "earliest", "--format", `%o %p\n`, "--count", count)
	}
	says(t, 1, "0 of 1 records", "sub", "--kafka", kafka, "-t", "temps", "--group", "g", "--count", "1", "--timeout", "300ms")
	says(t, 1, "is a stream bound to it", "sub", "--mqtt", mqtt, "-t", "other/#", "--from", "earliest")
	says(t, 1, "is a Kafka listener at", "pub", "--kafka", "127.0.0.1:1", "-t", "x", "-m", "y", "--timeout", "300ms")
	says(t, 2, "--qos is for MQTT", "pub", "--kafka", kafka, "-t", "x", "-m", "y", "-q", "1")
	says(t, 2, "--record-key is for Kafka", "pub", "--mqtt", mqtt, "-t", "x", "-m", "y", "--record-key", "k")
	says(t, 2, "--group, --tls and --sasl are for Kafka", "sub", "--mqtt", mqtt, "-t", "x", "--group", "g")
	says(t, 2, `--from "noon"`, "sub", "--kafka", kafka, "-t", "x", "--from", "noon")
	says(t, 2, "a group goes on where it is", "sub", "--kafka", kafka, "-t", "x", "--group", "g", "--from", "7")
	says(t, 2, "want plain, scram-sha-256", "pub", "--kafka", kafka, "-t", "x", "-m", "y", "--user", "u", "--sasl", "magic")
	says(t, 2, "is not HOST:PORT", "pub", "--kafka", "nowhere", "-t", "x", "-m", "y")
}

// A bound stream gets partitions only where that is said, and delivers from them then.
func TestBreakOrder(t *testing.T) {
	at := inProcess(t, "bindings=[{filter: 'plant/#', topic: plants}]")
	says(t, 1, "say so with --break-order", "topic", "alter", "plants", "--partitions", "8")
	says(t, 0, "8", "topic", "alter", "plants", "--partitions", "8", "--break-order")
	for _, key := range []string{"plant/a", "plant/b", "plant/c", "plant/d", "plant/e"} {
		says(t, 0, "", "pub", "--kafka", at["kafka.tcp"], "-t", "plants", "--record-key", key, "-m", key)
	}
	out := says(t, 0, "", "sub", "--mqtt", at["mqtt.tcp"], "-t", "plant/#", "--from", "earliest", "--count", "5", "--timeout", "10s")
	for _, key := range []string{"plant/a", "plant/b", "plant/c", "plant/d", "plant/e"} {
		if !strings.Contains(out, key+"\n") {
			t.Errorf("%s did not come: %q", key, out)
		}
	}
}
