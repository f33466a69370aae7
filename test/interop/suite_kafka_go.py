"""sarama and segmentio/kafka-go: the programs in kafkago, a module of its own."""

import os
import re

import harness

RECONNECTS = True


def run(c):
    harness.need("go", "golang")
    source = os.path.join(harness.HERE, "kafkago")
    with open(os.path.join(source, "go.mod")) as f:
        for name, version in re.findall(r"github.com/(IBM/sarama|segmentio/kafka-go) (v[\d.]+)", f.read()):
            c.versions[name] = version
    binary = os.path.join(c.directory, "kafkago")
    harness.run(["go", "build", "-o", binary, "."], cwd=source)
    c.program([binary], c.broker(), 170)
