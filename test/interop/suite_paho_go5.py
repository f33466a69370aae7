"""Paho for Go, MQTT 5 (paho.golang): pahogo5 over the four transports."""

import harness
from suite_paho_go import collect


def run(c):
    harness.need("go", "golang")
    c.versions["paho.golang"] = harness.run(["go", "list", "-m", "-f", "{{.Version}}", "github.com/eclipse/paho.golang"],
                                            cwd=harness.ROOT).strip()
    broker = c.broker()
    tests = [f"Test{name}" for name in ("Flow", "Large", "Retained", "Will", "Session", "Properties", "Refused")]
    names = [f"{test}/{transport}" for test in tests for transport in ("tcp", "tls", "ws", "wss")]
    _, output = harness.output_of(["go", "test", "-tags", "interop", "-json", "-count=1", "-timeout", "200s", "./pahogo5"],
                                  400, cwd=harness.HERE, env=broker.environment())
    collect(c, output, names)
