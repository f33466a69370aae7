"""mosquitto_pub, mosquitto_sub and mosquitto_rr, from PATH and, if it is set, from the folder MOSQUITTO_CLIENTS."""

import os
import signal
import subprocess
import tempfile
import threading
import time

import harness

VERSIONS = ("mqttv31", "mqttv311", "mqttv5")
SECONDS = 30


class Clients:
    """The clients of one installation: those in PATH, or those in a folder."""

    def __init__(self, folder=""):
        self.pub, self.sub, self.rr = (os.path.join(folder, "mosquitto_" + n) for n in ("pub", "sub", "rr"))
        usage = subprocess.run([self.pub, "--help"], stdout=subprocess.PIPE, text=True, check=False).stdout
        words = usage.split()
        self.version, self.websocket = words[words.index("version") + 1], "--ws" in words


class Mosquitto:
    """Command lines for one broker, version and transport."""

    def __init__(self, clients, broker, version="mqttv311", transport="tcp", *arguments):
        self.clients = clients
        if transport == "unix":
            self.common = ["--unix", broker.socket, "-V", version]
        else:
            self.common = ["-h", broker.host, "-p", str(broker.ports[transport]), "-V", version]
        if transport in ("tls", "wss"):
            self.common += ["--cafile", broker.certificates.ca]
        if transport in ("ws", "wss"):
            self.common += ["--ws"]
        self.common += arguments

    def publish(self, topic, *arguments, text=None):
        subprocess.run([self.clients.pub, *self.common, "-t", topic, *arguments], input=text, text=True, check=True,
                       timeout=SECONDS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def refused(self, topic, *arguments):
        """Publishes, and wants that to fail."""
        try:
            self.publish(topic, "-m", "x", *arguments)
        except subprocess.CalledProcessError:
            return
        raise AssertionError("the client was not refused")

    def subscribe(self, topic, *arguments, count=1):
        """A subscriber whose SUBACK has arrived."""
        return Subscriber([self.clients.sub, *self.common, "-d", "-F", "got %t %q %r %p", "-t", topic, "-C", str(count), *arguments])

    def enter(self, topic, *arguments):
        """Connects, subscribes, leaves."""
        subprocess.run([self.clients.sub, *self.common, "-t", topic, *arguments, "-E"], check=True, timeout=SECONDS)


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


def run(c):
    harness.need("mosquitto_pub", "mosquitto-clients")
    harness.need("stdbuf", "coreutils")
    clients = Clients()
    c.versions["mosquitto-clients"] = clients.version
    all_tests(c, clients, "")
    if folder := os.environ.get("MOSQUITTO_CLIENTS"):
        clients = Clients(folder)
        c.versions["and"] = clients.version
        all_tests(c, clients, clients.version + " ")


def all_tests(c, clients, prefix):
    def check(name, test, *arguments):
        c.check(prefix + name, test, *arguments)

    broker = c.broker(["mqtt.sys_interval=1s"])
    for transport in ("tcp", "tls", "ws", "wss", "unix"):
        if transport in ("ws", "wss") and not clients.websocket:
            c.skipped(prefix + transport, f"{clients.version} has no --ws (2.1 and newer have it, see MOSQUITTO_CLIENTS)")
            continue
        for version in VERSIONS:
            m = Mosquitto(clients, broker, version, transport)
            for qos in (0, 1, 2):
                check(f"{transport} {version} QoS {qos}", flow, m, f"flow/{transport}/{version}/{qos}", qos)
    for version in VERSIONS:
        m = Mosquitto(clients, broker, version)
        check(f"{version} retained", retained, m, f"retained/{version}")
        check(f"{version} will", will, m, f"will/{version}")
        check(f"{version} large payload", large, c, m, f"large/{version}")
        check(f"{version} overlapping wildcards", wildcards, m, f"wild/{version}")
        check(f"{version} same client identifier", take_over, m, f"same/{version}")
        check(f"{version} $SYS", sys_topics, m)
    five = Mosquitto(clients, broker, "mqttv5")
    for name, test in (("properties", properties), ("retain as published", options), ("topic alias", alias),
                       ("shared subscription", shared), ("message expiry", expiry), ("session expiry", session_expiry),
                       ("will delay", will_delay), ("request and response", request_response)):
        check("mqttv5 " + name, test, five)
    for version in VERSIONS:
        check(f"{version} session resume", resume, clients, broker, version, None)
    check("wrong CA is refused by the client", wrong_ca, c, clients, broker)
    for how, name in ((signal.SIGTERM, "restart"), (signal.SIGKILL, "kill")):
        for version in VERSIONS:
            check(f"{version} session and retained over {name}", resume, clients, broker, version, how)
    guarded(c, clients, check)


def guarded(c, clients, check):
    """Users, rules and client certificates, on a broker that wants them."""
    users = c.write("users", harness.hash_password("plant", "right") + harness.hash_password("other", "right"))
    rules = c.write("rules", "allow all by user plant on plant/#\n")
    wants = [f"auth.password_file={users}", f"auth.acl_file={rules}", "auth.anonymous=off"]
    broker = c.broker(wants)
    for version in VERSIONS:
        for transport in ("tcp", "tls"):
            m = Mosquitto(clients, broker, version, transport, "-u", "plant", "-P", "right")
            check(f"{transport} {version} password", flow, m, f"plant/{transport}/{version}", 1)
        for name, words in (("wrong password", ("-u", "plant", "-P", "wrong")), ("no such user", ("-u", "nobody", "-P", "right")), ("anonymous", ())):
            check(f"{version} {name}", Mosquitto(clients, broker, version, "tcp", *words).refused, "plant/refused")
    check("mqttv5 topic that the rules deny", denied, clients, broker)
    certified = c.broker(wants + ["auth.certificate_user=cn", "tls.client_auth=required", "tls.client_ca=" + broker.certificates.ca])
    for version in VERSIONS:
        cert, key = broker.certificates.sign("client-" + version, "plant")
        m = Mosquitto(clients, certified, version, "tls", "--cert", cert, "--key", key)
        check(f"{version} client certificate", flow, m, f"plant/certificate/{version}", 1)
        check(f"{version} no client certificate", Mosquitto(clients, certified, version, "tls").refused, "plant/refused")


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
    s = Subscriber([m.clients.sub, *m.common, "-d", "-t", "properties", "-q", "1", "-C", "1",
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


def take_over(m, topic):
    """The second connection of a client identifier ends the first, and has the session's subscription for itself."""
    first = m.subscribe(topic, "-i", "same", "-q", "1")
    second = m.subscribe(topic, "-i", "same", "-q", "1")
    first.process.kill()  # it connects again otherwise, for ever
    first.process.communicate()
    m.publish(topic, "-q", "1", "-m", "one")
    same(second.messages(), [f"{topic} 1 0 one"])


def sys_topics(m):
    found = m.subscribe("$SYS/broker/version").messages()
    assert len(found) == 1 and found[0].startswith("$SYS/broker/version 0 "), found


def alias(m):
    s = m.subscribe("alias", "-q", "1", count=20)
    m.publish("alias", "-q", "1", "-l", "-D", "publish", "topic-alias", "5", text="".join(f"m{i}\n" for i in range(20)))
    same(s.messages(), [f"alias 1 0 m{i}" for i in range(20)])


def session_expiry(m):
    """A session that has expired is gone, with what it was owed; one that has not is there."""
    for name, seconds in (("short", "1"), ("long", "100")):
        m.enter("expire/" + name, "-i", "expire-" + name, "-c", "-q", "1", "-x", seconds)
    time.sleep(2.5)
    for name in ("short", "long"):
        m.publish("expire/" + name, "-q", "1", "-m", "while away")
    s = m.subscribe("expire/short", "-i", "expire-short", "-c", "-q", "1", "-x", "1")
    m.publish("expire/short", "-q", "1", "-m", "now")
    same(s.messages(), ["expire/short 1 0 now"])
    same(m.subscribe("expire/long", "-i", "expire-long", "-c", "-q", "1", "-x", "1").messages(), ["expire/long 1 0 while away"])


def will_delay(m):
    """The will of a client that is back in time is not sent, that of one that stays away is."""
    watcher = m.subscribe("delayed", "-q", "1")
    words = ["-x", "60", "-c", "--will-topic", "delayed", "--will-qos", "1", "-D", "will", "will-delay-interval", "2"]
    for name in ("back", "away"):
        victim = m.subscribe("delayed/" + name, "-i", "delayed-" + name, *words, "--will-payload", name)
        victim.process.kill()
        victim.process.communicate()
    m.enter("delayed/back", "-i", "delayed-back", "-c", "-x", "60")
    same(watcher.messages(), ["delayed 1 0 away"])


def request_response(m):
    server = Subscriber([m.clients.sub, *m.common, "-d", "-t", "ask", "-q", "1", "-C", "1", "-F", "got %R|%D|%p"])
    rr = subprocess.Popen([m.clients.rr, *m.common, "-t", "ask", "-e", "answer", "-q", "1", "-m", "?", "-D", "publish", "correlation-data",
                           "7", "-F", "%D|%p"], stdout=subprocess.PIPE, text=True)
    same(server.messages(), ["answer|7|?"])
    m.publish("answer", "-q", "1", "-m", "!", "-D", "publish", "correlation-data", "7")
    answer, _ = rr.communicate(timeout=SECONDS)
    same([answer.strip()], ["7|!"])


def denied(clients, broker):
    """What the rules deny is refused with its reason, and reaches nobody."""
    m = Mosquitto(clients, broker, "mqttv5", "tcp", "-u", "other", "-P", "right")
    plant = Mosquitto(clients, broker, "mqttv5", "tcp", "-u", "plant", "-P", "right")
    s = plant.subscribe("plant/#", "-q", "1")
    done = subprocess.run([clients.pub, *m.common, "-t", "plant/x", "-q", "1", "-m", "forbidden", "-d"], check=False, timeout=SECONDS,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert "Not authorized" in done.stdout or "RC:135" in done.stdout, done.stdout
    plant.publish("plant/x", "-q", "1", "-m", "allowed")
    same(s.messages(), ["plant/x 1 0 allowed"])


def expiry(m):
    enter = ["-i", "expiry", "-c", "-q", "1"]
    m.enter("expiry", *enter)
    m.publish("expiry", "-q", "1", "-m", "short", "-D", "publish", "message-expiry-interval", "1")
    m.publish("expiry", "-q", "1", "-m", "long", "-D", "publish", "message-expiry-interval", "100")
    time.sleep(2.5)
    same(m.subscribe("expiry", *enter).messages(), ["expiry 1 0 long"])


def resume(clients, broker, version, how):
    """Messages for an absent session, and a retained one, are there when it is back; with how, the broker ends in between."""
    topic = f"resume/{version}/{how}"
    m = Mosquitto(clients, broker, version)
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


def wrong_ca(c, clients, broker):
    other = tempfile.mkdtemp(dir=c.directory)
    m = Mosquitto(clients, broker, transport="tls")
    m.common[m.common.index("--cafile") + 1] = harness.Certificates(other, ["127.0.0.1"]).ca
    m.refused("refused")
