"""kafka-python, confluent-kafka and aiokafka against one node. Prints PASS or FAIL, a line for each test."""

import asyncio
import os
import sys
import time
import uuid

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic as PlainTopic

AT = os.environ["SLUICE_KAFKA"]
N = 500


def name(prefix):
    return prefix + "-" + uuid.uuid4().hex[:8]


def kafka_python_codecs():
    topic, group = name("kp"), name("g")
    KafkaAdminClient(bootstrap_servers=AT).create_topics([PlainTopic(topic, 3, 1)])
    codecs = (None, "gzip", "snappy", "lz4", "zstd")
    for codec in codecs:
        producer = KafkaProducer(bootstrap_servers=AT, compression_type=codec, acks="all")
        for i in range(N):
            producer.send(topic, key=b"%d" % (i % 7), value=b"%d" % i, headers=[("codec", str(codec).encode())])
        producer.flush()
        producer.close()
    consumer = KafkaConsumer(topic, bootstrap_servers=AT, group_id=group, auto_offset_reset="earliest", consumer_timeout_ms=4000)
    seen = {}
    for m in consumer:
        at = (m.headers[0][1], m.key)
        assert seen.get(at, -1) < int(m.value), f"{at}: {m.value} behind {seen[at]}"
        seen[at] = int(m.value)
    consumer.commit()
    consumer.close()
    assert len(seen) == 7 * len(codecs) and min(seen.values()) > N - 8, seen


def poll(consumer, n, seconds=20):
    got, end = [], time.time() + seconds
    while len(got) < n and time.time() < end:
        m = consumer.poll(0.5)
        if m is not None:
            assert m.error() is None, m.error()
            got.append(m)
    return got


def confluent_group(protocol):
    topic, group = name("cf"), name("g")
    admin = AdminClient({"bootstrap.servers": AT})
    for f in admin.create_topics([NewTopic(topic, 4)]).values():
        f.result(20)
    producer = Producer({"bootstrap.servers": AT, "enable.idempotence": True, "compression.type": "zstd"})
    for i in range(N):
        producer.produce(topic, b"%d" % i, key=b"%d" % (i % 9))
    assert producer.flush(20) == 0
    conf = {"bootstrap.servers": AT, "group.id": group, "auto.offset.reset": "earliest", "group.protocol": protocol}
    consumer = Consumer(conf)
    consumer.subscribe([topic])
    got = poll(consumer, N)
    assert len(got) == N, len(got)
    consumer.commit(asynchronous=False)
    consumer.close()
    producer.produce(topic, b"next")
    producer.flush(20)
    consumer = Consumer(conf)
    consumer.subscribe([topic])
    got = poll(consumer, 1)
    consumer.close()
    assert [m.value() for m in got] == [b"next"], [m.value() for m in got]


def confluent_classic():
    confluent_group("classic")


def confluent_consumer_protocol():
    confluent_group("consumer")


def confluent_transactions():
    topic = name("tx")
    producer = Producer({"bootstrap.servers": AT, "transactional.id": name("id")})
    producer.init_transactions(20)
    for r in range(6):
        producer.begin_transaction()
        for i in range(50):
            producer.produce(topic, b"%d-%d" % (r, i))
        if r % 3 == 2:
            producer.abort_transaction(20)
        else:
            producer.commit_transaction(20)
    consumer = Consumer({"bootstrap.servers": AT, "group.id": name("g"), "auto.offset.reset": "earliest", "isolation.level": "read_committed"})
    consumer.subscribe([topic])
    got = [m.value().split(b"-")[0] for m in poll(consumer, 200)]
    consumer.close()
    assert len(got) == 200 and set(got) == {b"0", b"1", b"3", b"4"}, (len(got), set(got))


async def aiokafka_both_ways():
    topic = name("aio")
    producer = AIOKafkaProducer(bootstrap_servers=AT, enable_idempotence=True)
    await producer.start()
    for i in range(N):
        await producer.send(topic, b"%d" % i)
    await producer.stop()
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=AT, group_id=name("g"), auto_offset_reset="earliest")
    await consumer.start()
    got = [int((await asyncio.wait_for(consumer.getone(), 10)).value) for _ in range(N)]
    await consumer.commit()
    await consumer.stop()
    assert got == list(range(N)), got[:20]


def aiokafka():
    asyncio.run(aiokafka_both_ways())


for test in (kafka_python_codecs, confluent_classic, confluent_consumer_protocol, confluent_transactions, aiokafka):
    try:
        test()
    except Exception as e:  # pylint: disable=broad-except
        print(f"FAIL {test.__name__}: {type(e).__name__} {e}".replace("\n", " "))
    else:
        print(f"PASS {test.__name__}")
    sys.stdout.flush()
