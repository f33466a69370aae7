"""How confluent-kafka, kafka-python and aiokafka say who they are. Prints PASS or FAIL, a line for each test."""

import asyncio
import os
import sys
import time
import uuid

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.abc import AbstractTokenProvider as AioTokens
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialDeletion, UserScramCredentialUpsertion
from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError as PlainError
from kafka.net.sasl.oauth import AbstractTokenProvider as PlainTokens

AT, SHORT = os.environ["SLUICE_KAFKA"], os.environ["SLUICE_SHORT"]
PASSWORD, TOKEN = os.environ["SLUICE_PASSWORD"], os.environ["SLUICE_TOKEN"]
USER, N = "python", 100
RESTARTS = os.environ.get("RESTARTS", "") not in ("", "0")  # nodes are restarted in turn meanwhile
MECHANISMS = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}


def name(prefix):
    return prefix + "-" + uuid.uuid4().hex[:8]


def credentials():
    for at in (AT, SHORT):
        admin = AdminClient({"bootstrap.servers": at})
        for m in MECHANISMS.values():
            changes = [UserScramCredentialUpsertion(USER, ScramCredentialInfo(m, 4096), PASSWORD.encode())]
            for f in admin.alter_user_scram_credentials(changes).values():
                f.result(20)
    got = admin.describe_user_scram_credentials([USER])[USER].result(20)
    assert len(got.scram_credential_infos) == 2, got
    for f in admin.alter_user_scram_credentials([UserScramCredentialUpsertion("gone", ScramCredentialInfo(m, 4096), b"x")]).values():
        f.result(20)
    for f in admin.alter_user_scram_credentials([UserScramCredentialDeletion("gone", m)]).values():
        f.result(20)
    assert "gone" not in admin.describe_user_scram_credentials().result(20)


def confluent(at, **sasl):
    """Writes and reads; what goes wrong is in the list."""
    faults = []
    conf = {"bootstrap.servers": at, "security.protocol": "SASL_PLAINTEXT", "error_cb": faults.append, **{k.replace("_", "."): v for k, v in sasl.items() if k != "oauth_cb"}}
    if "oauth_cb" in sasl:
        conf["oauth_cb"] = sasl["oauth_cb"]
    topic = name("s")
    producer = Producer(conf)
    for i in range(N):
        producer.produce(topic, b"%d" % i)
    assert producer.flush(20) == 0, faults
    consumer = Consumer({**conf, "group.id": name("g"), "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    got, end = 0, time.time() + 20
    while got < N and time.time() < end:
        m = consumer.poll(0.5)
        if m is not None and m.error() is None:
            got += 1
    consumer.close()
    assert got == N, (got, faults)
    return faults


def confluent_scram():
    for m in MECHANISMS:
        confluent(AT, sasl_mechanisms=m, sasl_username=USER, sasl_password=PASSWORD)


def confluent_wrong_password():
    faults = []
    producer = Producer({"bootstrap.servers": AT, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "SCRAM-SHA-512", "sasl.username": USER,
                         "sasl.password": "wrong", "error_cb": faults.append})
    producer.produce("never", b"x")
    producer.flush(3)
    assert any(f.code() == KafkaError._AUTHENTICATION for f in faults), faults


def confluent_token():
    confluent(AT, sasl_mechanisms="OAUTHBEARER", oauth_cb=lambda _: (TOKEN, time.time() + 3000))


def confluent_bad_token():
    faults = []
    bad = TOKEN[:-6] + "AAAAAA"
    producer = Producer({"bootstrap.servers": AT, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "OAUTHBEARER",
                         "oauth_cb": lambda _: (bad, time.time() + 3000), "error_cb": faults.append})
    producer.poll(1)
    producer.produce("never", b"x")
    producer.flush(3)
    assert any(f.code() == KafkaError._AUTHENTICATION for f in faults), faults


def confluent_reauthentication():
    """Ten seconds of writing where a session may last three."""
    faults, done = [], []

    def heard(fault):
        if not RESTARTS or fault.code() != KafkaError._TRANSPORT:  # a node that is restarted refuses connections
            faults.append(fault)

    producer = Producer({"bootstrap.servers": SHORT, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "SCRAM-SHA-256", "sasl.username": USER,
                         "sasl.password": PASSWORD, "error_cb": heard, "retries": 0, "linger.ms": 0})
    topic, end, sent = name("r"), time.time() + 10, 0
    while time.time() < end:
        producer.produce(topic, b"x", on_delivery=lambda err, m: done.append(err))
        sent += 1
        producer.flush(5)
        time.sleep(0.05)
    assert len(done) == sent and not any(done) and not faults, (len(done), sent, [d for d in done if d][:3], faults[:3])


class Tokens(PlainTokens):
    """One token for ever."""

    def token(self):
        return TOKEN


def kafka_python(**sasl):
    topic = name("k")
    conf = {"bootstrap_servers": AT, "security_protocol": "SASL_PLAINTEXT", **sasl}
    producer = KafkaProducer(acks="all", **conf)
    for i in range(N):
        producer.send(topic, b"%d" % i)
    producer.flush()
    producer.close()
    consumer = KafkaConsumer(topic, group_id=name("g"), auto_offset_reset="earliest", consumer_timeout_ms=8000, **conf)
    got = 0
    for _ in consumer:
        got += 1
        if got == N:
            break
    consumer.close()
    assert got == N, got


def kafka_python_scram():
    for m in MECHANISMS:
        kafka_python(sasl_mechanism=m, sasl_plain_username=USER, sasl_plain_password=PASSWORD)


def kafka_python_plain():
    kafka_python(sasl_mechanism="PLAIN", sasl_plain_username=USER, sasl_plain_password=PASSWORD)


def kafka_python_token():
    kafka_python(sasl_mechanism="OAUTHBEARER", sasl_oauth_token_provider=Tokens())


def kafka_python_wrong_password():
    try:
        KafkaProducer(bootstrap_servers=AT, security_protocol="SASL_PLAINTEXT", sasl_mechanism="SCRAM-SHA-256", sasl_plain_username=USER,
                      sasl_plain_password="wrong", bootstrap_timeout_ms=8000).close()
    except PlainError:
        return
    raise AssertionError("came in")


class Later(AioTokens):
    """The same for aiokafka."""

    async def token(self):
        return TOKEN


async def aiokafka_in(**sasl):
    topic = name("a")
    conf = {"bootstrap_servers": AT, "security_protocol": "SASL_PLAINTEXT", **sasl}
    producer = AIOKafkaProducer(**conf)
    await producer.start()
    for i in range(N):
        await producer.send_and_wait(topic, b"%d" % i)
    await producer.stop()
    consumer = AIOKafkaConsumer(topic, group_id=name("g"), auto_offset_reset="earliest", **conf)
    await consumer.start()
    for i in range(N):
        assert int((await asyncio.wait_for(consumer.getone(), 10)).value) == i
    await consumer.stop()


def aiokafka_scram():
    for m in MECHANISMS:
        asyncio.run(aiokafka_in(sasl_mechanism=m, sasl_plain_username=USER, sasl_plain_password=PASSWORD))


def aiokafka_token():
    asyncio.run(aiokafka_in(sasl_mechanism="OAUTHBEARER", sasl_oauth_token_provider=Later()))


for test in (credentials, confluent_scram, confluent_wrong_password, confluent_token, confluent_bad_token, confluent_reauthentication, kafka_python_scram,
             kafka_python_plain, kafka_python_token, kafka_python_wrong_password, aiokafka_scram, aiokafka_token):
    try:
        test()
    except Exception as e:  # pylint: disable=broad-except
        print(f"FAIL {test.__name__}: {type(e).__name__} {e}".replace("\n", " "))
    else:
        print(f"PASS {test.__name__}")
    sys.stdout.flush()
