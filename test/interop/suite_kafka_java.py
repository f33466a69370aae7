"""Apache Kafka's own clients and tools, in Java: the programs of its distribution, each doing its work against a node."""

import json
import re
import signal

import harness
import javakafka

RECONNECTS = True
COUNT = 3000


def run(c):
    javakafka.prepare(c)
    broker = c.broker()
    programs = javakafka.Programs(c, broker)
    try:
        for test in (topics, configuration, quotas, verifiable_producer, consumer_protocol, verifiable_consumer, reset_offsets, transactions,
                     copier_in_a_group, performance, deleted_records, log_dirs, cluster, acls, killed):
            c.check(test.__name__, test, c, broker, programs)
    finally:
        programs.close()


def numbers(lines):
    return [line for line in lines if re.fullmatch(r"-?\d+", line)]


def topics(c, broker, p):
    p.tool("TopicCommand", *p.server, "--create", "--topic", "java", "--partitions", "3", "--config", "retention.ms=600000")
    shows(p, "PartitionCount: 3", "TopicCommand", *p.server, "--describe", "--topic", "java")
    p.tool("TopicCommand", *p.server, "--alter", "--topic", "java", "--partitions", "4")
    shows(p, "java", "TopicCommand", *p.server, "--list")
    p.tool("TopicCommand", *p.server, "--create", "--topic", "gone")
    p.tool("TopicCommand", *p.server, "--delete", "--topic", "gone")
    assert "gone" not in p.tool("TopicCommand", *p.server, "--list")


def configuration(c, broker, p):
    topic = ["--entity-type", "topics", "--entity-name", "java"]
    p.tool("kafka.admin.ConfigCommand", *p.server, "--alter", *topic, "--add-config", "max.message.bytes=2000000,cleanup.policy=[compact,delete]")
    out = p.tool("kafka.admin.ConfigCommand", *p.server, "--describe", *topic)
    assert "max.message.bytes=2000000" in out and "cleanup.policy=compact,delete" in out, out
    p.tool("kafka.admin.ConfigCommand", *p.server, "--alter", *topic, "--delete-config", "max.message.bytes,cleanup.policy")
    out = p.tool("kafka.admin.ConfigCommand", *p.server, "--describe", *topic)
    assert "max.message.bytes" not in out, out


def quotas(c, broker, p):
    client = ["--entity-type", "clients", "--entity-name", "slow"]
    p.tool("kafka.admin.ConfigCommand", *p.server, "--alter", *client, "--add-config", "producer_byte_rate=1000000")
    shows(p, "producer_byte_rate=1000000", "kafka.admin.ConfigCommand", *p.server, "--describe", *client)
    p.tool("kafka.admin.ConfigCommand", *p.server, "--alter", *client, "--delete-config", "producer_byte_rate")


def verifiable_producer(c, broker, p):
    # The tool does not send again what a node that goes away has not answered, unless it is told to.
    settings = ["--command-config", c.write("producer.properties", "retries=2147483647\nenable.idempotence=true\n")] if harness.RESTARTS else []
    out = p.tool("VerifiableProducer", *p.server, "--topic", "v", "--max-messages", COUNT, "--acks", "-1", *settings)
    assert f'"acked":{COUNT}' in out, out[-300:]
    in_order(p.read("v", COUNT, "--group", "classic"))


def consumer_protocol(c, broker, p):
    in_order(p.read("v", COUNT, "--group", "next", "--command-property", "group.protocol=consumer"))
    shows(p, rf"next\s+v\s+0\s+{COUNT}\s+{COUNT}\s+0", "consumer.group.ConsumerGroupCommand", *p.server, "--describe", "--group", "next")
    shows(p, r"next\s+Consumer", "GroupsCommand", *p.server, "--list")
    shows(p, r"classic\s+Classic", "GroupsCommand", *p.server, "--list")


def verifiable_consumer(c, broker, p):
    for protocol in ("classic", "consumer"):
        out = p.tool("VerifiableConsumer", *p.server, "--topic", "v", "--group-id", "verified-" + protocol, "--max-messages", COUNT, "--reset-policy", "earliest",
                     "--group-protocol", protocol, timeout=60)
        consumed = sum(e["count"] for e in map(json.loads, re.findall(r"^\{.*\}$", out, re.M)) if e["name"] == "records_consumed")
        assert consumed >= COUNT and '"success":true' in out, f"{protocol}: {consumed} records: {out[-200:]}"


def reset_offsets(c, broker, p):
    p.tool("consumer.group.ConsumerGroupCommand", *p.server, "--group", "classic", "--topic", "v", "--reset-offsets", "--to-offset", COUNT - 10, "--execute")
    out = p.tool("consumer.ConsoleConsumer", *p.server, "--topic", "v", "--group", "classic", "--max-messages", "10")
    assert numbers(out.splitlines())[:10] == [str(i) for i in range(COUNT - 10, COUNT)], out
    p.tool("consumer.group.ConsumerGroupCommand", *p.server, "--group", "classic", "--topic", "v", "--delete-offsets")
    p.tool("consumer.group.ConsumerGroupCommand", *p.server, "--group", "classic", "--delete")
    assert "classic" not in p.tool("consumer.group.ConsumerGroupCommand", *p.server, "--list").split()


def copier(p, *more):
    out = p.tool("TransactionalMessageCopier", "--broker-list", p.at, "--input-topic", "v", "--input-partition", "0", "--transaction-size", "300", *more)
    assert f'"totalProcessed":{COUNT}' in out, out[-300:]


def leader():
    """The number of the node that leads: it may be any where nodes are restarted."""
    return r"\d+" if harness.RESTARTS else "1"


def in_order(lines):
    """All records once and in order; else the first that is not, with what is around it."""
    got, want = numbers(lines), [str(i) for i in range(COUNT)]
    at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
    assert got == want, f"{len(got)} records of {COUNT}, and from {at} on: {got[max(at - 2, 0):at + 5]}, lines {lines[max(at - 2, 0):at + 5]}"


def shows(p, pattern, *tool):
    """A tool says something. Where nodes are restarted it may have asked one just before that knew, and another one just after: then it is asked again."""
    for turn in range(5 if harness.RESTARTS else 1):
        out = p.tool(*tool)
        if re.search(pattern, out):
            return
    raise AssertionError(f"{' '.join(tool)} does not show {pattern}: {out[-600:]}")


def transactions(c, broker, p):
    copier(p, "--transactional-id", "copier", "--consumer-group", "cg", "--output-topic", "copy", "--max-messages", COUNT, "--enable-random-aborts")
    in_order(p.read("copy", COUNT, "--isolation-level", "read_committed"))
    shows(p, rf"copier\s+{leader()}\s+\d+\s+CompleteCommit", "TransactionsCommand", *p.server, "list")
    shows(p, r"copier\s+\d+\s+\d+\s+CompleteCommit", "TransactionsCommand", *p.server, "describe", "--transactional-id", "copier")
    shows(p, "ProducerId", "TransactionsCommand", *p.server, "describe-producers", "--topic", "copy", "--partition", "0")
    p.tool("TransactionsCommand", *p.server, "find-hanging", *(["--topic", "copy"] if harness.RESTARTS else ["--broker-id", "1"]))


def copier_in_a_group(c, broker, p):
    copier(p, "--transactional-id", "copier-2", "--consumer-group", "cg-2", "--output-topic", "copy-2", "--max-messages", COUNT, "--group-mode")
    in_order(p.read("copy-2", COUNT, "--isolation-level", "read_committed"))


def performance(c, broker, p):
    p.tool("ProducerPerformance", "--topic", "java", "--num-records", "50000", "--record-size", "200", "--throughput", "-1", "--bootstrap-server", p.at,
           "--command-property", "acks=all", "--command-property", "compression.type=lz4")
    ends = list(map(int, re.findall(r"^java:\d+:(\d+)$", p.tool("GetOffsetShell", *p.server, "--topic", "java"), re.M)))
    assert sum(ends) == 50000, ends
    out = p.tool("ConsumerPerformance", *p.server, "--topic", "java", "--num-records", "50000", "--group", "perf", "--timeout", "60000")
    assert re.search(r", 50000,", out), out
    shows(p, "Percentiles", "EndToEndLatency", *p.server, "--topic", "e2e", "--num-records", "300", "--producer-acks", "all", "--record-size", "100")


def deleted_records(c, broker, p):
    offsets = c.write("delete.json", '{"partitions":[{"topic":"v","partition":0,"offset":1000}],"version":1}')
    shows(p, "low_watermark: 1000", "DeleteRecordsCommand", *p.server, "--offset-json-file", offsets)
    shows(p, "v:0:1000", "GetOffsetShell", *p.server, "--topic", "v", "--time", "earliest")


def log_dirs(c, broker, p):
    out = p.tool("LogDirsCommand", *p.server, "--describe", "--topic-list", "java")
    directory = json.loads(re.search(r"^\{.*\}$", out, re.M).group())["brokers"][0]["logDirs"][0]
    assert len(directory["partitions"]) == 4 and sum(part["size"] for part in directory["partitions"]) > 100_000, out
    brokers = sorted(json.loads(re.search(r"^\{.*\}$", out, re.M).group())["brokers"], key=lambda b: b["broker"])
    move = c.write("move.json", json.dumps({"version": 1, "partitions": [{"topic": "java", "partition": 0, "replicas": [b["broker"] for b in brokers],
                                                                        "log_dirs": [b["logDirs"][0]["logDir"] for b in brokers]}]}))
    p.tool("reassign.ReassignPartitionsCommand", *p.server, "--reassignment-json-file", move, "--execute")
    shows(p, "is completed", "reassign.ReassignPartitionsCommand", *p.server, "--reassignment-json-file", move, "--verify")
    shows(p, "No partition reassignments found", "reassign.ReassignPartitionsCommand", *p.server, "--list")


def cluster(c, broker, p):
    shows(p, r"transaction.version\s.*FinalizedVersionLevel: 2", "FeatureCommand", *p.server, "describe")
    shows(p, rf"LeaderId:\s+{leader()}\n", "MetadataQuorumCommand", *p.server, "describe", "--status")
    shows(p, "Leader", "MetadataQuorumCommand", *p.server, "describe", "--replication")
    shows(p, "unfenced", "ClusterTool", "list-endpoints", *p.server)
    shows(p, "Cluster ID", "ClusterTool", "cluster-id", *p.server)
    p.tool("ClientMetricsCommand", *p.server, "--list")
    shows(p, r"Fetch\(1\): 4 to 18", "BrokerApiVersionsCommand", *p.server)
    p.tool("LeaderElectionCommand", *p.server, "--election-type", "preferred", "--topic", "java", "--partition", "0")


def acls(c, broker, p):
    rule = ["--allow-principal", "User:ANONYMOUS", "--operation", "All", "--topic", "*", "--group", "*", "--cluster", "--transactional-id", "*"]
    p.tool("AclCommand", *p.server, "--add", *rule)
    shows(p, "principal=User:ANONYMOUS", "AclCommand", *p.server, "--list")
    p.tool("AclCommand", *p.server, "--add", "--deny-principal", "User:nobody", "--operation", "Read", "--topic", "v", "--resource-pattern-type", "prefixed")
    shows(p, "User:nobody", "AclCommand", *p.server, "--list", "--principal", "User:nobody")
    p.tool("AclCommand", *p.server, "--remove", "--force", "--deny-principal", "User:nobody", "--operation", "Read", "--topic", "v", "--resource-pattern-type", "prefixed")
    assert "User:nobody" not in p.tool("AclCommand", *p.server, "--list")


def killed(c, broker, p):
    broker.stop(signal.SIGKILL)
    broker.start()
    assert numbers(p.read("v", COUNT - 1000, "--group", "later")) == [str(i) for i in range(1000, COUNT)]
    shows(p, rf"cg\s+v\s+0\s+{COUNT}", "consumer.group.ConsumerGroupCommand", *p.server, "--describe", "--group", "cg")
