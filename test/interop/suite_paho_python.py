"""Paho for Python: clients/paho_python.py over the four transports."""

import os

import harness


def run(c):
    python = harness.venv("paho", "paho-mqtt>=2,<3")
    c.versions["paho-mqtt"] = harness.package_version(python, "paho-mqtt")
    c.versions["Python"] = harness.run([python, "-c", "import platform; print(platform.python_version())"]).strip()
    c.program([python, os.path.join(harness.HERE, "clients", "paho_python.py")], c.broker(), 300)
