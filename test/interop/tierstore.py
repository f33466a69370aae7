"""journal/tier against a real store: its contract, each test by its name, then test/tier, whose nodes are killed and lose their disks."""

import os
import re

import harness


def contract(c, package, environment):
    go_test(c, environment, "./journal/tier/" + package, "ContractReal", r"    --- (PASS|FAIL|SKIP): (TestContractReal/(\w+)) ", "this store has nothing of the kind")


def nodes(c, kind, environment):
    go_test(c, environment, "./test/tier", f"^Test(DiskLost|KilledWhileOffloading|RebuildBesideCopy|Adopt|Compacted|Store.*|.*Backup.*)$/^{kind}$", r"    --- (PASS|FAIL|SKIP): ((Test\w+)/\w+) ", "no store is named")


def go_test(c, environment, package, tests, result, why_skipped):
    """Runs tests of a package; result has groups for verdict, the test's whole name, and its name in the report."""
    harness.need("go", "golang")
    before = len(c.results)
    _, output = harness.output_of(["go", "test", "-count=1", "-run", tests, "-v", package], 540, cwd=harness.ROOT, env={**os.environ, "CGO_ENABLED": "0", **environment})
    for verdict, whole, name in re.findall("^" + result, output, re.M):
        if verdict == "PASS":
            c.passed(name)
        elif verdict == "SKIP":
            c.skipped(name, why_skipped)
        else:
            said = re.search(rf"=== RUN   {whole}\n(.*?)(?:^===|\Z)", output, re.M | re.S)
            c.failed(name, said.group(1) if said and said.group(1).strip() else output[-300:])
    ran = c.results[before:]
    if not ran or not re.search(r"^ok ", output, re.M) and not any(r[1] == "failed" for r in ran):
        c.failed("run", output[-300:])
