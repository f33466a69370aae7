"""franz-go: the tests that come inside its module kgo, against a live node. Share groups are not offered, so those skip themselves."""

import os
import re

import harness

RECONNECTS = False  # its client does, but its tests take no error of a connection
MODULE = "github.com/twmb/franz-go"
# Tests that need a broker of another kind: SCRAM on a second listener, and one that still takes Produce 2.
OTHER = re.compile(r"^Test(SCRAMAuth|IssueProduceBrokerTooOld|.*Share)")


def run(c):
    harness.need("go", "golang")
    c.versions["franz-go"] = harness.run(["go", "list", "-m", "-f", "{{.Version}}", MODULE], cwd=harness.ROOT).strip()
    source = harness.run(["go", "list", "-f", "{{.Dir}}", MODULE + "/pkg/kgo"], cwd=harness.ROOT).strip()  # one test reads it
    binary = os.path.join(c.directory, "kgo.test")
    harness.run(["go", "test", "-c", "-o", binary, MODULE + "/pkg/kgo"], cwd=harness.ROOT)
    broker = c.broker()
    environment = {**os.environ, "KGO_SEEDS": broker.bootstrap(), "KGO_TEST_RF": "1", "KGO_TEST_RECORDS": "20000",
                   "KGO_LOG_LEVEL": "none"}
    _, output = harness.output_of([binary, "-test.v", "-test.timeout", "280s"], 300, cwd=source, env=environment)
    verdicts = re.findall(r"^--- (PASS|FAIL|SKIP): (Test\w+)", output, re.M)
    passed = 0
    for verdict, name in verdicts:
        if verdict == "PASS":
            passed += 1
        elif verdict == "FAIL" or not OTHER.match(name):
            said = re.search(rf"=== NAME  {name}\b(.*?)(?:^===|\Z)", output, re.M | re.S)
            c.failed(name, f"{verdict}: {said.group(1) if said else output[-300:]}")
        else:
            c.skipped(name, "share groups, or a broker of another kind")
    # All of them by one name: a report of 150 lines more says nothing.
    if re.search(r"^PASS$", output, re.M) and passed > 100:
        c.passed(f"{passed} tests of kgo")
    elif not any(r[1] == "failed" for r in c.results):
        c.failed("run", output[-300:])
