"""The HDFS store's contract, and nodes with it: against SLUICE_TEST_HDFS, or a cluster that $TIER_PEERS/hdfs-mini/start.sh starts."""

import os
import re
import signal
import socket

import harness
import tierstore


def run(c):
    if os.environ.get("SLUICE_TEST_HDFS"):
        both(c, {})
        return
    script = os.path.join(os.environ.get("TIER_PEERS", ""), "hdfs-mini", "start.sh")
    if not os.path.exists(script):
        raise harness.Skip("neither SLUICE_TEST_HDFS nor TIER_PEERS names a cluster")
    harness.need("java", "default-jre-headless")
    harness.need("mvn", "maven")
    port = next(p for p in range(23100, 32000, 100) if all(free(p + i) for i in (0, 1, 10, 11, 12, 20, 21, 22)))
    # What it starts goes on when it has ended.
    code, said = harness.output_of(["bash", script, os.path.join(c.directory, "hdfs"), str(port), "2"], 500)
    pids = [int(p) for p in re.findall(r"(?:namenode|datanode\d+)=(\d+)", said)]
    assert code == 0 and pids, said
    try:
        both(c, {"SLUICE_TEST_HDFS": f"127.0.0.1:{port}"})
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def both(c, environment):
    tierstore.contract(c, "hdfstier", environment)
    tierstore.nodes(c, "hdfs", environment)


def free(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) != 0
