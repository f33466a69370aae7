"""mosquitto_pub and mosquitto_sub: three protocol versions, three qualities of service, TCP and TLS, WebSocket where the client has it."""

import os
import signal
import subprocess
import threading
import time

import harness

VERSIONS = ("mqttv31", "mqttv311", "mqttv5")
SECONDS = 30


class Mosquitto:
    """Command lines for one broker, version and transport."""

    def __init__(self, broker, version="mqttv311", transport="tcp"):
        self.common = ["-h", broker.host, "-p", str(broker.ports[transport]), "-V", version]
        if transport in ("tls", "wss"):
            self.common += ["--cafile", broker.certificates.ca]
        if transport in ("ws", "wss"):
            self.common += ["--ws"]

    def publish(self, topic, *arguments, text=None):
        subprocess.run(["mosquitto_pub", *self.common, "-t", topic, *arguments], input=text, text=True, check=True,
                       timeout=SECONDS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def subscribe(self, topic, *arguments, count=1):
        """A subscriber whose SUBACK has arrived."""
        return Subscriber(["mosquitto_sub", *self.common, "-d", "-F", "got %t %q %r %p", "-t", topic, "-C", str(count), *arguments])

    def enter(self, topic, *arguments):
        """Connects, subscribes, leaves."""
        subprocess.run(["mosquitto_sub", *self.common, "-t", topic, *arguments, "-E"], check=True, timeout=SECONDS)


class Subscriber:
    def __init__(self, command):
        self.process = subprocess.Popen(["stdbuf", "-oL", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.seen = []
        for line in self.process.stdout:
            self.seen.append(line)
            if "received SUBACK" in line:
                return
        if any(line.startswith("got ") for line in self.seen):
            return  # the messages of a resumed session came before it, and they were enough
        raise AssertionError(f"no SUBACK: {''.join(self.seen)}")

    def messages(self):
        """What arrived, as `topic qos retained payload`, once the count is reached."""
        timer = threading.Timer(SECONDS, self.process.kill)
        timer.start()
        lines = self.seen + list(self.process.stdout)
        self.process.wait()
        timer.cancel()
        return [line[len("got "):].rstrip("\n") for line in lines if line.startswith("got ")]


def same(found, want):
    assert found == want, f"found {found[:6]}, want {want[:6]} ({len(found)}, {len(want)})"


def has_websocket():
    return "--ws" in subprocess.run(["mosquitto_pub", "--help"], stdout=subprocess.PIPE, text=True).stdout


def run(c):
    harness.need("mosquitto_pub", "mosquitto-clients")
    harness.need("stdbuf", "coreutils")
    words = subprocess.run(["mosquitto_pub", "--help"], stdout=subprocess.PIPE, text=True).stdout.split()
    c.versions["mosquitto-clients"] = words[words.index("version") + 1]
    broker = c.broker()
    for transport in ("tcp", "tls", "ws", "wss"):
        if transport in ("ws", "wss") and not has_websocket():
            c.skipped(transport, "these mosquitto clients have no --ws (2.1 and newer have it)")
            continue
        for version in VERSIONS:
            m = Mosquitto(broker, version, transport)
            for qos in (0, 1, 2):
                c.check(f"{transport} {version} QoS {qos}", flow, m, f"flow/{transport}/{version}/{qos}", qos)
    for version in VERSIONS:
        m = Mosquitto(broker, version)
        c.check(f"{version} retained", retained, m, f"retained/{version}")
        c.check(f"{version} will", will, m, f"will/{version}")
        c.check(f"{version} large payload", large, c, m, f"large/{version}")
        c.check(f"{version} overlapping wildcards", wildcards, m, f"wild/{version}")
    five = Mosquitto(broker, "mqttv5")
    c.check("mqttv5 properties", properties, five)
    c.check("mqttv5 retain as published", options, five)
    c.check("mqttv5 shared subscription", shared, five)
    c.check("mqttv5 message expiry", expiry, five)
    for version in VERSIONS:
        c.check(f"{version} session resume", resume, broker, version, None)
    c.check("wrong CA is refused by the client", wrong_ca, c, broker)
    for how, name in ((signal.SIGTERM, "restart"), (signal.SIGKILL, "kill")):
        for version in VERSIONS:
            c.check(f"{version} session and retained over {name}", resume, broker, version, how)


def flow(m, topic, qos):
    """Fifty messages down one connection come in order, once each at QoS 1 and 2 on a connection that holds."""
    s = m.subscribe(topic, "-q", str(qos), count=50)
    m.publish(topic, "-q", str(qos), "-l", text="".join(f"m{i}\n" for i in range(50)))
    same(s.messages(), [f"{topic} {qos} 0 m{i}" for i in range(50)])


def retained(m, topic):
    m.publish(topic, "-r", "-q", "1", "-m", "first")
    m.publish(topic, "-r", "-q", "1", "-m", "kept")
    same(m.subscribe(topic, "-q", "1").messages(), [f"{topic} 1 1 kept"])
    m.publish(topic, "-r", "-q", "1", "-n")
    s = m.subscribe(topic, "-q", "1")
    m.publish(topic, "-q", "1", "-m", "live")
    same(s.messages(), [f"{topic} 1 0 live"])


def will(m, topic):
    watcher = m.subscribe(topic, "-q", "1")
    victim = m.subscribe(topic + "/other", "--will-topic", topic, "--will-payload", "gone", "--will-qos", "1")
    victim.process.kill()
    victim.process.communicate()
    same(watcher.messages(), [f"{topic} 1 0 gone"])


def large(c, m, topic):
    text = "x" * 900_000
    s = m.subscribe(topic, "-q", "1")
    m.publish(topic, "-q", "1", "-f", c.write("large", text))
    found = s.messages()
    assert found == [f"{topic} 1 0 {text}"], f"{len(found)} messages, {[len(f) for f in found]} bytes"


def wildcards(m, topic):
    s = m.subscribe(topic + "/+/b", "-t", topic + "/#", "-T", topic + "/x/#", "-q", "1", count=2)
    m.publish(topic + "/x/b", "-q", "1", "-m", "left out by the client")
    m.publish(topic + "/a/c", "-q", "1", "-m", "one")
    m.publish(topic, "-q", "1", "-m", "two")
    same(s.messages(), [f"{topic}/a/c 1 0 one", f"{topic} 1 0 two"])


def properties(m):
    s = Subscriber(["mosquitto_sub", *m.common, "-d", "-t", "properties", "-q", "1", "-C", "1",
                    "-F", "got %C|%R|%D|%F|%P|%p"])
    m.publish("properties", "-q", "1", "-m", "body", "-D", "publish", "content-type", "text/plain",
              "-D", "publish", "response-topic", "answers", "-D", "publish", "correlation-data", "c1",
              "-D", "publish", "payload-format-indicator", "1", "-D", "publish", "user-property", "k", "v",
              "-D", "publish", "user-property", "k", "w")
    same(s.messages(), ["text/plain|answers|c1|1|k:v k:w|body"])


def options(m):
    m.publish("options/a", "-r", "-q", "1", "-m", "old")
    s = m.subscribe("options/#", "-q", "1", "--retain-as-published", count=2)
    m.publish("options/a", "-r", "-q", "1", "-m", "new")
    same(s.messages(), ["options/a 1 1 old", "options/a 1 1 new"])


def shared(m):
    members = [m.subscribe("$share/group/shared", "-q", "1", count=10) for _ in range(2)]
    m.publish("shared", "-q", "1", "-l", text="".join(f"m{i}\n" for i in range(20)))
    found = sorted(sum((s.messages() for s in members), []))
    same(found, sorted(f"shared 1 0 m{i}" for i in range(20)))


def expiry(m):
    enter = ["-i", "expiry", "-c", "-q", "1"]
    m.enter("expiry", *enter)
    m.publish("expiry", "-q", "1", "-m", "short", "-D", "publish", "message-expiry-interval", "1")
    m.publish("expiry", "-q", "1", "-m", "long", "-D", "publish", "message-expiry-interval", "100")
    time.sleep(2.5)
    same(m.subscribe("expiry", *enter).messages(), ["expiry 1 0 long"])


def resume(broker, version, how):
    """Messages for an absent session, and a retained one, are there when it is back; with how, the broker ends in between."""
    topic = f"resume/{version}/{how}"
    m = Mosquitto(broker, version)
    enter = ["-i", f"resume-{version}-{how and how.value}", "-c", "-q", "2"]
    m.enter(topic, *enter)
    for qos in ("1", "2"):
        m.publish(topic, "-q", qos, "-l", text="".join(f"m{i}\n" for i in range(20)))
    m.publish(topic + "/retained", "-q", "1", "-r", "-m", "kept")
    if how:
        code = broker.stop(how)
        broker.start()
        assert how == signal.SIGKILL or code == 0, f"exit code {code}"
    # mosquitto_sub subscribes again when it is back, which changes nothing.
    same(m.subscribe(topic, *enter, count=40).messages(), [f"{topic} {qos} 0 m{i}" for qos in (1, 2) for i in range(20)])
    same(m.subscribe(topic + "/retained", "-q", "1").messages(), [f"{topic}/retained 1 1 kept"])


def wrong_ca(c, broker):
    other = os.path.join(c.directory, "other")
    os.mkdir(other)
    m = Mosquitto(broker, transport="tls")
    m.common[m.common.index("--cafile") + 1] = harness.Certificates(other, ["127.0.0.1"]).ca
    try:
        m.publish("refused", "-m", "x")
    except subprocess.CalledProcessError:
        return
    raise AssertionError("the client connected")
