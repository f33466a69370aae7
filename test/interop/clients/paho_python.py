"""Each protocol version over each transport: publish and subscribe, retained messages, wills, sessions, what MQTT 5 adds."""

import os
import queue
import ssl
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

SECONDS = 20
VERSIONS = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}


class Client:
    """A connected client whose callbacks end in queues."""

    def __init__(self, transport, version, client_id, clean=True, expiry=0, will=None):
        self.connected, self.subscribed, self.messages = queue.Queue(), queue.Queue(), queue.Queue()
        five = VERSIONS[version] == mqtt.MQTTv5
        self.paho = p = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=VERSIONS[version],
                                    clean_session=None if five else clean,
                                    transport={"ws": "websockets", "wss": "websockets", "unix": "unix"}.get(transport, "tcp"))
        p.ws_set_options(path="/mqtt")
        if transport in ("tls", "wss"):
            p.tls_set(os.environ["SLUICE_CA"], tls_version=ssl.PROTOCOL_TLS_CLIENT)
        p.on_connect = lambda c, u, flags, reason, properties: self.connected.put((flags, reason, properties))
        p.on_subscribe = lambda c, u, mid, reasons, properties: self.subscribed.put(reasons)
        p.on_message = lambda c, u, m: self.messages.put(m)
        if will:
            p.will_set(will, b"gone", qos=1)
        extra = {}
        if five:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = expiry
            extra = {"clean_start": clean, "properties": properties}
        at = os.environ["SLUICE_" + transport.upper()]
        if transport == "unix":
            p.connect(at, keepalive=30, **extra)
        else:
            p.connect(os.environ["SLUICE_HOST"], int(at), 30, **extra)
        p.loop_start()
        self.flags, self.reason, self.properties = self.connected.get(timeout=SECONDS)
        assert not self.reason.is_failure, self.reason

    def subscribe(self, *arguments, **options):
        self.paho.subscribe(*arguments, **options)
        reasons = self.subscribed.get(timeout=SECONDS)
        assert not any(r.is_failure for r in reasons), reasons

    def publish(self, *arguments, **options):
        info = self.paho.publish(*arguments, **options)
        info.wait_for_publish(SECONDS)
        assert info.is_published(), arguments[0]

    def next(self):
        return self.messages.get(timeout=SECONDS)

    def close(self):
        self.paho.disconnect()
        self.paho.loop_stop()


def flow(transport, version, prefix):
    s, p = Client(transport, version, prefix + "s"), Client(transport, version, prefix + "p")
    for qos in (0, 1, 2):
        topic = f"{prefix}/flow/{qos}"
        s.subscribe(topic, qos)
        for i in range(30):
            p.publish(topic, b"m%d" % i, qos)
        for i in range(30):
            m = s.next()
            assert (m.payload, m.qos, m.retain) == (b"m%d" % i, qos, False), (m.payload, m.qos, i)
    s.close(), p.close()


def large(transport, version, prefix):
    c, body = Client(transport, version, prefix), os.urandom(700_000)
    c.subscribe(prefix + "/large", 1)
    for _ in range(3):
        c.publish(prefix + "/large", body, 1)
        assert c.next().payload == body
    c.close()


def retained(transport, version, prefix):
    c, topic = Client(transport, version, prefix), prefix + "/retained"
    c.publish(topic, b"kept", 1, retain=True)
    c.subscribe(topic, 1)
    m = c.next()
    assert (m.payload, m.retain) == (b"kept", True), m.payload
    c.publish(topic, b"", 1, retain=True)
    c.next()
    c.paho.unsubscribe(topic)
    c.subscribe(topic, 1)
    c.publish(topic, b"live", 1)
    assert c.next().payload == b"live"
    c.close()


def will(transport, version, prefix):
    watcher = Client(transport, version, prefix + "w")
    watcher.subscribe(prefix + "/will", 1)
    victim = Client(transport, version, prefix + "v", will=prefix + "/will")
    victim.paho.loop_stop()
    victim.paho._sock_close()
    assert watcher.next().payload == b"gone"
    watcher.close()


def session(transport, version, prefix):
    s = Client(transport, version, prefix + "s", clean=False, expiry=300)
    assert not s.flags.session_present
    s.subscribe(prefix + "/session", 2)
    s.close()
    p = Client(transport, version, prefix + "p")
    for i in range(30):
        p.publish(prefix + "/session", b"m%d" % i, i // 15 + 1)
    s = Client(transport, version, prefix + "s", clean=False, expiry=300)
    assert s.flags.session_present or version == "3.1"  # 3.1 has no such flag
    for i in range(30):
        m = s.next()
        assert (m.payload, m.qos) == (b"m%d" % i, i // 15 + 1), (m.payload, m.qos, i)
    s.close(), p.close()


def take_over(transport, version, prefix):
    first = Client(transport, version, prefix)
    lost = queue.Queue()
    first.paho.on_disconnect = lambda c, u, flags, reason, properties: (lost.put(reason), c.loop_stop())
    second = Client(transport, version, prefix)
    reason = lost.get(timeout=SECONDS)
    if version == "5":
        assert reason.value == 0x8E, reason
    second.close()


def request_response(transport, version, prefix):
    answers, server = Client(transport, version, prefix + "a"), Client(transport, version, prefix + "s")
    server.subscribe(prefix + "/ask", 1)
    answers.subscribe(prefix + "/answer", 1)
    ask = Properties(PacketTypes.PUBLISH)
    ask.ResponseTopic, ask.CorrelationData, ask.ContentType = prefix + "/answer", b"\x00\x01", "text/plain"
    ask.UserProperty = [("k", "v"), ("k", "w")]
    ask.PayloadFormatIndicator, ask.MessageExpiryInterval = 1, 100
    answers.publish(prefix + "/ask", b"?", 1, properties=ask)
    m = server.next().properties
    assert (m.CorrelationData, m.ContentType, m.UserProperty) == (b"\x00\x01", "text/plain", [("k", "v"), ("k", "w")]), m
    assert m.PayloadFormatIndicator == 1 and 95 <= m.MessageExpiryInterval <= 100, m
    back = Properties(PacketTypes.PUBLISH)
    back.CorrelationData = m.CorrelationData
    server.publish(m.ResponseTopic, b"!", 1, properties=back)
    assert answers.next().properties.CorrelationData == b"\x00\x01"
    answers.close(), server.close()


def subscription_options(transport, version, prefix):
    c, topic = Client(transport, version, prefix), prefix + "/options"
    c.publish(topic, b"old", 1, retain=True)
    ids = Properties(PacketTypes.SUBSCRIBE)
    ids.SubscriptionIdentifier = 7
    options = SubscribeOptions(1, noLocal=False, retainAsPublished=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
    c.subscribe(topic, options=options, properties=ids)
    c.publish(topic, b"new", 1, retain=True)
    m = c.next()
    assert (m.payload, m.retain, m.properties.SubscriptionIdentifier) == (b"new", True, [7]), (m.payload, m.retain, m.properties)
    c.subscribe(topic, options=SubscribeOptions(1, noLocal=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND))
    c.publish(topic, b"own", 1)
    other = Client(transport, version, prefix + "o")
    other.publish(topic, b"other", 1)
    assert c.next().payload == b"other"
    c.close(), other.close()


def assigned_id(transport, version, prefix):
    c = Client(transport, version, "")
    assert c.properties.AssignedClientIdentifier
    c.close()


def main():
    for transport in ("tcp", "tls", "ws", "wss", "unix"):
        for version in VERSIONS:
            tests = [flow, large, retained, will, session, take_over]
            if version == "5":
                tests += [request_response, subscription_options, assigned_id]
            for test in tests:
                name = f"{transport} {version} {test.__name__}"
                try:
                    test(transport, version, f"py{transport}{version.replace('.', '')}{test.__name__}"[:22])
                    print("PASS", name, flush=True)
                except Exception as e:  # a failed test must not end the others
                    print(f"FAIL {name}: {type(e).__name__}: {e}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
