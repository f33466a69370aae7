"""kafka-python, confluent-kafka and aiokafka: clients/kafka_python.py."""

import os

import harness

RECONNECTS = True


def run(c):
    packages = ["kafka-python", "confluent-kafka", "aiokafka"]
    python = harness.venv("kafka", *packages, "lz4", "zstandard", "python-snappy")
    for p in packages:
        c.versions[p] = harness.package_version(python, p)
    c.program([python, os.path.join(harness.HERE, "clients", "kafka_python.py")], c.broker(), 300)
