"""The functional tests that come inside the module github.com/eclipse/paho.mqtt.golang."""

import json
import os
import re
import shutil

import harness

MODULE = "github.com/eclipse/paho.mqtt.golang"

# These two publish on one connection before the SUBACK of another has come: what we put in waits for it.
WAITS = (
    ('s.Subscribe("/test/ack-after-disconnect", 2, nil)', 's.Subscribe("/test/ack-after-disconnect", 2, nil).Wait()'),
    ('pops := NewClientOptions().AddBroker(FVTTCP).SetClientID("resumesubs-pub")',
     'for i := 0; i < 1000 && len(subMemStore2.All()) > 0; i++ { time.Sleep(10 * time.Millisecond) }\n\t'
     'pops := NewClientOptions().AddBroker(FVTTCP).SetClientID("resumesubs-pub")'),
)


def run(c):
    harness.need("go", "golang")
    found = json.loads(harness.run(["go", "mod", "download", "-json", MODULE], cwd=harness.ROOT))
    c.versions["paho.mqtt.golang"] = found["Version"]
    c.versions["Go"] = harness.run(["go", "env", "GOVERSION"]).strip()
    # The tests live in package mqtt, so the whole module is copied; it is read-only in the cache.
    source = os.path.join(c.directory, "source")
    shutil.copytree(found["Dir"], source)
    harness.run(["chmod", "-R", "u+w", source])
    path = os.path.join(source, "fvt_client_test.go")
    with open(path) as f:
        tests = f.read()
    names = re.findall(r"^func (Test\w+)", tests, re.M)
    for text, waits in WAITS:
        if tests.count(text) != 1:
            raise harness.Skip(f"{found['Version']} is not the version that we know: it has no {text}")
        tests = tests.replace(text, waits)
    with open(path, "w") as f:
        f.write(tests)
    broker = c.broker(default_ports=True)
    environment = {**os.environ, "TEST_FVT_ADDR": broker.host, "GOFLAGS": "-buildvcs=false -mod=mod"}
    _, output = harness.output_of(["go", "test", "-json", "-count=1", "-timeout", "300s", "-run", f"^({'|'.join(names)})$", "."],
                                  400, cwd=source, env=environment)
    collect(c, output, names)


def collect(c, output, names):
    """Reads `go test -json`: one verdict for each test, with what it printed when it failed."""
    said, ended = {}, set()
    for line in output.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            said[None] = said.get(None, "") + line
            continue
        name = event.get("Test")
        said[name] = said.get(name, "") + event.get("Output", "")
        if name in names and event["Action"] in ("pass", "fail", "skip"):
            ended.add(name)
            {"pass": lambda: c.passed(name), "fail": lambda: c.failed(name, said[name][-300:]),
             "skip": lambda: c.skipped(name, said[name][-200:])}[event["Action"]]()
    missing = [n for n in names if n not in ended]
    if missing:
        c.failed("run", f"no verdict of {', '.join(missing[:5])}: {said.get(None, '')[-300:]}{said.get(missing[0], '')[-200:]}")
