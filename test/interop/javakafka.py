"""Apache Kafka's jars from Maven Central, and its programs against a node: for the suites that run Kafka's own Java."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

import harness

JARS = os.path.join(harness.CACHE, "java-kafka")
# What tools say that do not try again: the admin client asked all nodes, one went away, and it does not take what it has itself left to be asked again; a node
# that is just starting is none that partitions may be moved to.
LOST = ("Unexpected key set: [BrokerKey(", "Unknown broker id ")
# What only looks, or may be done twice: it is done again where a node goes away meanwhile, as these programs end by that.
REPEATABLE = re.compile(r"ConfigCommand|GroupsCommand|TransactionsCommand|LogDirsCommand|QuorumCommand|AclCommand|ClusterTool|FeatureCommand|BrokerApiVersions|"
                        r"ReassignPartitions|LeaderElection|DeleteRecords|GetOffsetShell|ConsumerGroupCommand|ClientMetrics")
TOOLS = "org.apache.kafka.tools."
# -1: quick to start counts for more than quick to run.
JAVA = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", os.path.join(JARS, "*")]


def prepare(c):
    """Fetches the jars; their version goes into the report."""
    harness.need("java", "default-jdk-headless")
    harness.need("mvn", "maven")
    pom = shutil.copy(os.path.join(harness.HERE, "clients", "kafka-pom.xml"), c.directory)
    harness.run(["mvn", "-B", "-q", "-f", pom, "dependency:copy-dependencies", f"-DoutputDirectory={JARS}"])
    c.versions["Apache Kafka"] = re.search(r"<kafka.version>([\d.]+)<", open(pom).read()).group(1)
    c.versions["Java"] = re.search(r'version "([^"]+)"', harness.run(["java", "-version"])).group(1)


class Programs:
    """Runs Kafka's programs against one broker, and ends those in the background with it."""

    def __init__(self, c, broker):
        self.c, self.broker, self.running = c, broker, []
        self.at = broker.bootstrap()
        self.server = ["--bootstrap-server", self.at]

    def command(self, name, *arguments):
        short = name.startswith(("consumer.", "reassign.")) or "." not in name
        return [*JAVA, TOOLS + name if short else name, *map(str, arguments)]

    def tool(self, name, *arguments, input=None, timeout=90):
        """What the program says; AssertionError when it fails."""
        for turn in range(3 if harness.RESTARTS and REPEATABLE.search(name) else 1):
            code, out = harness.output_of(self.command(name, *arguments), timeout, input=input, cwd=self.c.directory)
            if code == 0:
                break
        if harness.RESTARTS and any(text in out for text in LOST):
            return self.tool(name, *arguments, input=input, timeout=timeout)
        assert code == 0, f"{name}: exit code {code}: {out[:400]} … {out[-400:]}"
        return out

    def read(self, topic, n, *arguments, timeout=30):
        """The n records of a topic from its beginning, as ConsoleConsumer prints them, without what it says about itself."""
        out = self.tool("consumer.ConsoleConsumer", *self.server, "--topic", topic, "--from-beginning", "--max-messages", n, "--timeout-ms",
                        timeout * 1000, *arguments, timeout=timeout + 30)
        return [line for line in out.splitlines() if not re.match(r"Processed a total|\[[^\]]+\] (WARN|ERROR) |\[main\]", line)]

    def start(self, name, *arguments):
        """A program in the background: the process, with its output in the file process.log."""
        fd, path = tempfile.mkstemp(prefix=name.rpartition(".")[2] + "-", suffix=".log", dir=self.c.directory)
        with os.fdopen(fd, "wb") as log:
            process = subprocess.Popen(self.command(name, *arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                       start_new_session=True, cwd=self.c.directory)
        process.log = path
        self.running.append(process)
        return process

    def close(self):
        for process in self.running:
            stop(process, signal.SIGKILL)


def stop(process, how=signal.SIGTERM):
    """Ends a program of start; one that does not end within 20 s is killed."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode


def said(process):
    with open(process.log, errors="replace") as f:
        return f.read()


def until(what, test, seconds=60):
    """Waits until test is true; AssertionError with what was waited for."""
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)
