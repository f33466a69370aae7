"""The Eclipse Paho interoperability tests, from a checkout of paho.mqtt.testing that PAHO_TESTING names."""

import os
import sys

import harness

# The driver runs one of the checkout's modules as its own main does, but at our host and port.
DRIVER = """
import select, sys, threading, time, unittest
checkout, module, host, port, choose = sys.argv[1:]
sys.path.insert(0, checkout)
sys.dont_write_bytecode = True
import importlib
m = importlib.import_module(module)
topics = ["TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA"]
wild = ["TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#"]
prefix = "client_test5/" if module == "client_test5" else ""
if prefix:
    def data():
        m.topics, m.wildtopics = [prefix + t for t in topics], [prefix + t for t in wild]
        m.nosubscribe_topics, m.topic_prefix = ("test/nosubscribe",), prefix
    m.setData = data
# Some tests publish before the SUBACK has come, or wait for that of the wrong client. A client without a callback reads for itself.
subscribe = m.mqtt_client.Client.subscribe
def subscribe_and_wait(self, *arguments, **options):
    answer = subscribe(self, *arguments, **options)
    end = time.time() + 5
    while self.callback and time.time() < end and answer not in [s[0] for s in self.callback.subscribeds]:
        time.sleep(.01)
    return answer
m.mqtt_client.Client.subscribe = subscribe_and_wait
# A CONNACK is given 0.3 s, and on a machine that is busy with something else a broker may get no processor for so long.
formats = importlib.import_module("mqtt.formats." + ("MQTTV5" if prefix else "MQTTV311"))
get, here = formats.getPacket, threading.local()
def get_patiently(socket):
    if getattr(here, "connecting", False):
        select.select([socket], [], [], 10)
    return get(socket)
formats.getPacket = get_patiently
connect = m.mqtt_client.Client.connect
def connect_patiently(self, *arguments, **options):
    here.connecting = True
    try:
        return connect(self, *arguments, **options)
    finally:
        here.connecting = False
m.mqtt_client.Client.connect = connect_patiently
m.host, m.port, m.topics, m.wildtopics, m.nosubscribe_topics = host, int(port), topics, wild, ("test/nosubscribe",)

class Result(unittest.TestResult):
    def tell(self, word, test, reason=""):
        print("\\n" + word, module + "." + test.id().rpartition(".")[2] + reason, flush=True)
    def addSuccess(self, test):
        super().addSuccess(test); self.tell("PASS", test)
    def addFailure(self, test, err):
        super().addFailure(test, err); self.tell("FAIL", test, ": " + " ".join(str(err[1]).split()))
    addError = addFailure
    def addSkip(self, test, reason):
        super().addSkip(test, reason); self.tell("SKIP", test, ": " + reason)

loader = unittest.defaultTestLoader
names = [n for n in loader.getTestCaseNames(m.Test) if (n == "test_subscribe_failure") == (choose != "others")]
loader.loadTestsFromNames(["Test." + n for n in names], m).run(Result())
"""


def run(c):
    checkout = os.environ.get("PAHO_TESTING")
    if not checkout:
        raise harness.Skip("PAHO_TESTING names no checkout of github.com/eclipse/paho.mqtt.testing")
    folder = os.path.join(checkout, "interoperability")
    if not os.path.isdir(folder):
        raise harness.Skip(f"PAHO_TESTING: no folder interoperability in {os.path.basename(checkout)}")
    c.versions["paho.mqtt.testing"] = version(checkout)
    c.versions["Python"] = sys.version.split()[0]
    # test_server_keep_alive wants the server to lower 120 s to 60 s.
    settings = ["mqtt.keep_alive_max=60s"]
    acl = c.write("acl", "deny subscribe by all on test/nosubscribe\nallow all by all on #\n")
    refusing = settings + ["auth.anonymous=loopback", f"auth.acl_file={acl}"]
    # With that rule the filter # is refused too, which most tests use.
    for choose, broker in (("others", c.broker(settings)), ("test_subscribe_failure", c.broker(refusing))):
        for module in ("client_test", "client_test5"):
            c.program([sys.executable, "-c", DRIVER, folder, module, broker.host, str(broker.ports["tcp"]), choose],
                      broker, 600, cwd=c.directory)


def version(checkout):
    for place in (checkout, os.path.realpath(checkout)):
        try:
            return harness.run(["git", "-C", place, "log", "-1", "--format=%h of %cs"]).strip()
        except RuntimeError:
            continue
    return "of no known version"
