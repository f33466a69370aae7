"""Kafka Streams: its WordCountDemo with exactly_once_v2, over a killed node, a restart and a killed application."""

import collections
import os
import re
import signal
import subprocess
import threading
import time

import javakafka

RECONNECTS = True
INPUT, OUTPUT = "streams-plaintext-input", "streams-wordcount-output"
WORDS = ("sluice", "weir", "gate", "canal", "lock")
LINES = 1500  # a phase


def line(i):
    return " ".join(WORDS[(i * k) % len(WORDS)] for k in (1, 2, 3)) + f" n{i % 97}"


def run(c):
    javakafka.prepare(c)
    broker = c.broker()
    programs = javakafka.Programs(c, broker)
    try:
        c.check("exactly_once_v2 over kill, restart and a killed application", count, c, broker, programs)
    finally:
        programs.close()


def count(c, broker, programs):
    for topic in (INPUT, OUTPUT):
        programs.tool("TopicCommand", *programs.server, "--create", "--topic", topic, "--partitions", 3)
    settings = c.write("streams.properties", "\n".join((
        "bootstrap.servers=" + programs.at, "processing.guarantee=exactly_once_v2", "num.stream.threads=2", "commit.interval.ms=50",
        "state.dir=" + os.path.join(c.directory, "state"), "session.timeout.ms=6000", "heartbeat.interval.ms=1000", "auto.offset.reset=earliest")) + "\n")

    def demo():
        return programs.start("org.apache.kafka.streams.examples.wordcount.WordCountDemo", settings)

    def counted():
        return sum(map(int, re.findall(rf"^{OUTPUT}:\d+:(\d+)$", programs.tool("GetOffsetShell", *programs.server, "--topic", OUTPUT), re.M)))

    app, sent = demo(), 0
    for phase in ("running", "kill", "restart", "application killed"):
        producer = Producer(programs, sent, LINES)
        producer.half.wait(60)
        if phase == "kill":
            broker.stop(signal.SIGKILL)
            broker.start()
        elif phase == "restart":
            assert broker.stop() == 0
            broker.start()
        elif phase == "application killed":
            javakafka.stop(app, signal.SIGKILL)
            app = demo()
        producer.finish()
        sent += LINES
        assert app.poll() is None, javakafka.said(app)[-400:]
        if phase == "running":  # the next phases begin while it counts
            javakafka.until("first counts", lambda: counted() > 0)
    wanted = collections.Counter(word for i in range(sent) for word in line(i).split())
    got = read_counts(programs, sum(wanted.values()))
    for word, n in wanted.items():
        assert got[word] == list(range(1, n + 1)), f"{word}: {len(got[word])} counts of {n}, the last {got[word][-3:]}"
    assert javakafka.stop(app) in (0, 143), "the application does not end"


def read_counts(programs, n):
    """Every count of each word in order. No count comes twice and none is left out: a state store's cache is off in the demo."""
    out = programs.read(OUTPUT, n, "--isolation-level", "read_committed", "--formatter-property", "print.key=true", "--formatter-property",
                        "value.deserializer=org.apache.kafka.common.serialization.LongDeserializer", timeout=60)
    got = collections.defaultdict(list)
    for word, number in re.findall(r"^(\w+)\t(\d+)$", "\n".join(out), re.M):
        got[word].append(int(number))
    return got


class Producer:
    """Some lines, 500 a second, through an idempotent ConsoleProducer, which goes on while its broker is away. half is set in the middle."""

    def __init__(self, programs, first, n):
        self.process = subprocess.Popen(programs.command("ConsoleProducer", *programs.server, "--topic", INPUT, "--command-property", "enable.idempotence=true",
                                                         "--command-property", "delivery.timeout.ms=60000", "--command-property", "linger.ms=2"),
                                        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        programs.running.append(self.process)
        self.half = threading.Event()
        self.feeder = threading.Thread(target=self.feed, args=(first, n))
        self.feeder.start()

    def feed(self, first, n):
        try:
            for i in range(first, first + n, 5):
                self.process.stdin.write("".join(line(j) + "\n" for j in range(i, min(i + 5, first + n))))
                self.process.stdin.flush()
                if i - first >= n // 2:
                    self.half.set()
                time.sleep(0.01)
        except OSError:
            self.half.set()  # it has ended: finish says why

    def finish(self):
        self.feeder.join()
        _, errors = self.process.communicate(timeout=90)
        assert self.process.returncode == 0 and "ERROR" not in errors, (errors[errors.find("ERROR"):] if "ERROR" in errors else errors[-1000:])[:1000]
