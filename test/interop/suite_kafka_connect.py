"""Kafka Connect, standalone: its file source and file sink, over a killed node and a restarted worker."""

import os
import re
import signal
import time

import javakafka

RECONNECTS = True
TOPIC = "connect-lines"
LINES = 2000  # a phase


def run(c):
    javakafka.prepare(c)
    broker = c.broker()
    programs = javakafka.Programs(c, broker)
    try:
        c.check("file source and sink over kill and restarts", copy, c, broker, programs)
    finally:
        programs.close()


def copy(c, broker, programs):
    source, sink = (os.path.join(c.directory, name) for name in ("source.txt", "sink.txt"))
    worker = c.write("worker.properties", "\n".join((
        "bootstrap.servers=" + programs.at, "key.converter=org.apache.kafka.connect.storage.StringConverter",
        "value.converter=org.apache.kafka.connect.storage.StringConverter", "offset.storage.file.filename=" + os.path.join(c.directory, "offsets"),
        "offset.flush.interval.ms=500", "listeners=http://127.0.0.1:0", "producer.enable.idempotence=true", "consumer.session.timeout.ms=6000")) + "\n")
    connectors = [c.write(name + ".properties", "\n".join((f"name={name}", "tasks.max=1", f"connector.class=FileStream{name.capitalize()}", *rest)) + "\n")
                  for name, rest in (("source", ("file=" + source, "topic=" + TOPIC)), ("sink", ("file=" + sink, "topics=" + TOPIC)))]

    def connect():
        return programs.start("org.apache.kafka.connect.cli.ConnectStandalone", worker, *connectors)

    def copied():
        with open(sink) as f:
            return f.read().splitlines()

    open(sink, "w").close()
    written, process = 0, connect()
    for phase in ("running", "kill", "restart", "worker started again"):
        if phase == "worker started again":
            process = connect()
        for i in range(written, written + LINES, 100):  # a source that has more than a batch to read leaves the rest of it for the next line
            with open(source, "a") as f:
                f.writelines(f"{j}\n" for j in range(i, i + 100))
            time.sleep(0.1)
            if i == written + LINES // 2 and phase in ("kill", "restart"):
                broker.stop(signal.SIGKILL if phase == "kill" else signal.SIGTERM)
                broker.start()
        written += LINES
        javakafka.until(f"{phase}: all lines in the sink", lambda: str(written - 1) in copied())
        assert process.poll() is None, javakafka.said(process)[-400:]
        if phase == "restart":
            assert javakafka.stop(process) in (0, 143), javakafka.said(process)[-400:]
    # The source's producer is idempotent, and the worker that was ended had time to write its offsets: nothing is in the topic twice.
    wanted = [str(i) for i in range(written)]
    assert [line for line in programs.read(TOPIC, written) if re.fullmatch(r"\d+", line)] == wanted, "the topic's lines"
    # The sink writes a file, and may do it again from what its group has committed.
    assert list(dict.fromkeys(copied())) == wanted, "the sink's lines"
    out = programs.tool("consumer.group.ConsumerGroupCommand", *programs.server, "--describe", "--group", "connect-sink")
    assert re.search(rf"connect-sink\s+{TOPIC}\s+0\s+{written}\s+{written}\s+0", out), out[-400:]
