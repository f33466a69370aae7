"""MQTT.js: clients/mqttjs.mjs over the four transports."""

import json
import os
import shutil

import harness


def run(c):
    harness.need("node", "nodejs")
    harness.need("npm", "npm")
    directory = os.path.join(harness.CACHE, "npm")
    os.makedirs(directory, exist_ok=True)
    harness.run(["npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", directory, "mqtt@5"], cwd=directory)
    with open(os.path.join(directory, "node_modules", "mqtt", "package.json")) as f:
        c.versions["MQTT.js"] = json.load(f)["version"]
    c.versions["Node.js"] = harness.run(["node", "--version"]).strip()
    # An import is looked up from where the file is.
    program = shutil.copy(os.path.join(harness.HERE, "clients", "mqttjs.mjs"), os.path.join(directory, "mqttjs.mjs"))
    c.program(["node", program], c.broker(), 300)
