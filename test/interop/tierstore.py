"""The contract of journal/tier against a real store: `go test -run Contract`, each test of it by its name."""

import os
import re

import harness


def contract(c, package, environment):
    harness.need("go", "golang")
    _, output = harness.output_of(["go", "test", "-count=1", "-run", "ContractReal", "-v", "./journal/tier/" + package], 540, cwd=harness.ROOT,
                                  env={**os.environ, "CGO_ENABLED": "0", **environment})
    verdicts = re.findall(r"^    --- (PASS|FAIL|SKIP): TestContractReal/(\w+)", output, re.M)
    for verdict, name in verdicts:
        if verdict == "PASS":
            c.passed(name)
        elif verdict == "SKIP":
            c.skipped(name, "this store has nothing of the kind")
        else:
            said = re.search(rf"=== RUN   TestContractReal/{name}\n(.*?)(?:^===|\Z)", output, re.M | re.S)
            c.failed(name, said.group(1) if said else output[-300:])
    if not re.search(r"^ok ", output, re.M) and not any(r[1] == "failed" for r in c.results):
        c.failed("run", output[-300:])
