"""Apache Kafka's own clients and tools, in Java."""

import os
import re
import signal

import harness

TOOLS = "org.apache.kafka.tools."


def run(c):
    script = os.environ.get("KAFKA_PEER") or os.path.join(os.path.dirname(harness.ROOT), "shared", "peers", "kafka", "kafka-peer.sh")
    if not os.path.exists(script):
        raise harness.Skip("no script that runs Kafka's tools: set KAFKA_PEER")
    harness.need("java", "openjdk-17-jre-headless")
    harness.run([script, "get"])
    broker = c.broker()
    at = ["--bootstrap-server", f"{broker.host}:{broker.kafka['tcp']}"]

    def tool(name, *arguments):
        cls = name if "." in name and not name.startswith("consumer.") else TOOLS + name
        code, out = harness.output_of([script, "tool", cls, *arguments], 90)
        assert code == 0, out[-400:]
        return out

    def read(topic, n, *arguments):
        out = tool("consumer.ConsoleConsumer", *at, "--topic", topic, "--from-beginning", "--max-messages", str(n), "--timeout-ms", "30000", *arguments)
        return [line for line in out.splitlines() if re.fullmatch(r"-?\d+", line)]

    def topics():
        tool("TopicCommand", *at, "--create", "--topic", "java", "--partitions", "3", "--config", "retention.ms=600000")
        assert "PartitionCount: 3" in tool("TopicCommand", *at, "--describe", "--topic", "java")
        tool("TopicCommand", *at, "--alter", "--topic", "java", "--partitions", "4")
        assert "java" in tool("TopicCommand", *at, "--list")

    def configuration():
        tool("kafka.admin.ConfigCommand", *at, "--alter", "--entity-type", "topics", "--entity-name", "java", "--add-config", "max.message.bytes=2000000")
        out = tool("kafka.admin.ConfigCommand", *at, "--describe", "--entity-type", "topics", "--entity-name", "java")
        assert "max.message.bytes=2000000" in out, out

    def verifiable():
        out = tool("VerifiableProducer", *at, "--topic", "v", "--max-messages", "3000", "--acks", "-1")
        assert '"acked":3000' in out, out[-300:]
        assert read("v", 3000, "--group", "classic") == [str(i) for i in range(3000)]

    def consumer_protocol():
        assert len(read("v", 3000, "--group", "next", "--consumer-property", "group.protocol=consumer")) == 3000
        out = tool("consumer.group.ConsumerGroupCommand", *at, "--describe", "--group", "next")
        assert re.search(r"next\s+v\s+0\s+3000\s+3000\s+0", out), out

    def reset_offsets():
        tool("consumer.group.ConsumerGroupCommand", *at, "--group", "classic", "--topic", "v", "--reset-offsets", "--to-offset", "2990", "--execute")
        got = [x for x in tool("consumer.ConsoleConsumer", *at, "--topic", "v", "--group", "classic", "--max-messages", "10").split() if x.isdigit()]
        assert got[:10] == [str(i) for i in range(2990, 3000)], got

    def transactions():
        out = tool("TransactionalMessageCopier", "--broker-list", at[1], "--transactional-id", "copier", "--consumer-group", "cg", "--input-topic", "v",
                   "--output-topic", "copy", "--input-partition", "0", "--max-messages", "3000", "--transaction-size", "300")
        assert '"totalProcessed":3000' in out, out[-300:]
        assert read("copy", 3000, "--isolation-level", "read_committed") == [str(i) for i in range(3000)]
        assert "copier" in tool("TransactionsCommand", *at, "list")

    def performance():
        tool("ProducerPerformance", "--topic", "java", "--num-records", "50000", "--record-size", "200", "--throughput", "-1", "--producer-props",
             "bootstrap.servers=" + at[1], "acks=all", "compression.type=lz4")
        ends = [int(line.rpartition(":")[2]) for line in tool("GetOffsetShell", *at, "--topic", "java").split()]
        assert sum(ends) == 50000, ends

    def deleted_records():
        offsets = c.write("delete.json", '{"partitions":[{"topic":"v","partition":0,"offset":1000}],"version":1}')
        assert "low_watermark: 1000" in tool("DeleteRecordsCommand", *at, "--offset-json-file", offsets)

    def acls():
        acl = "AclCommand"
        tool(acl, *at, "--add", "--allow-principal", "User:alice", "--operation", "Read", "--operation", "Write", "--topic", "orders")
        tool(acl, *at, "--add", "--allow-principal", "User:bob", "--producer", "--idempotent", "--topic", "plant", "--resource-pattern-type", "prefixed")
        out = tool(acl, *at, "--list")
        assert out.count("User:alice") == 2 and out.count("User:bob") == 4 and "patternType=PREFIXED" in out, out
        assert "User:alice" not in tool(acl, *at, "--list", "--principal", "User:bob")
        tool(acl, *at, "--remove", "--force", "--topic", "orders")
        tool(acl, *at, "--remove", "--force", "--topic", "plant", "--resource-pattern-type", "prefixed")
        tool(acl, *at, "--remove", "--force", "--cluster")
        assert "User:" not in tool(acl, *at, "--list")

    def quotas():
        conf = "kafka.admin.ConfigCommand"
        alice = ["--entity-type", "users", "--entity-name", "alice"]
        tool(conf, *at, "--alter", *alice, "--add-config", "producer_byte_rate=1048576,request_percentage=50")
        tool(conf, *at, "--alter", *alice, "--entity-type", "clients", "--entity-default", "--add-config", "consumer_byte_rate=2048")
        tool(conf, *at, "--alter", "--entity-type", "ips", "--entity-default", "--add-config", "connection_creation_rate=200")
        out = tool(conf, *at, "--describe", *alice)
        assert "producer_byte_rate=1048576.0" in out and "request_percentage=50.0" in out, out
        assert "connection_creation_rate=200.0" in tool(conf, *at, "--describe", "--entity-type", "ips")
        for who, key in ((alice, "producer_byte_rate,request_percentage"), (alice + ["--entity-type", "clients", "--entity-default"], "consumer_byte_rate"),
                         (["--entity-type", "ips", "--entity-default"], "connection_creation_rate")):
            tool(conf, *at, "--alter", *who, "--delete-config", key)
        assert "_rate" not in tool(conf, *at, "--describe", "--entity-type", "users")

    def killed():
        broker.stop(signal.SIGKILL)
        broker.kafka = {"tcp": int(at[1].rpartition(":")[2]), "tls": 0}
        broker.start()
        assert read("v", 2000, "--group", "later") == [str(i) for i in range(1000, 3000)]
        assert re.search(r"cg\s+v\s+0\s+3000", tool("consumer.group.ConsumerGroupCommand", *at, "--describe", "--group", "cg"))

    for test in (topics, configuration, verifiable, consumer_protocol, reset_offsets, transactions, performance, deleted_records, acls, quotas, killed):
        c.check(test.__name__, test)
