"""KafkaJS: clients/kafkajs.mjs."""

import json
import os
import shutil

import harness

RECONNECTS = True


def run(c):
    harness.need("node", "nodejs")
    harness.need("npm", "npm")
    directory = os.path.join(harness.CACHE, "npm-kafka")
    os.makedirs(directory, exist_ok=True)
    harness.run(["npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", directory, "kafkajs@2"], cwd=directory)
    with open(os.path.join(directory, "node_modules", "kafkajs", "package.json")) as f:
        c.versions["KafkaJS"] = json.load(f)["version"]
    # An import is looked up from where the file is.
    program = shutil.copy(os.path.join(harness.HERE, "clients", "kafkajs.mjs"), os.path.join(directory, "kafkajs.mjs"))
    c.program(["node", program], c.broker(), 200)
