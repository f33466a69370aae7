"""aiomqtt's own tests, from its source distribution, pointed at our broker."""

import glob
import os
import re
import shutil
import tarfile
import xml.etree.ElementTree as ET

import harness

HOST = 'HOSTNAME = "test.mosquitto.org"'
PATH = 'websocket_path="/"'


def run(c):
    python = harness.venv("aiomqtt", "aiomqtt", "pytest<8", "anyio<4")
    c.versions["aiomqtt"] = version = harness.package_version(python, "aiomqtt")
    c.versions["paho-mqtt"] = harness.package_version(python, "paho-mqtt")
    harness.run([python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", c.directory, f"aiomqtt=={version}"])
    with tarfile.open(glob.glob(os.path.join(c.directory, "aiomqtt-*.tar.gz"))[0]) as archive:
        archive.extractall(c.directory, filter="data")
    tests = os.path.join(c.directory, f"aiomqtt-{version}", "tests")
    path = os.path.join(tests, "test_client.py")
    with open(path) as f:
        source = f.read()
    if HOST not in source:
        raise harness.Skip(f"aiomqtt {version} no longer names its host as {HOST}")
    # One test expects that a name which the server does not know is refused, another that an empty name is not: two brokers.
    users = c.write("users", f"somebody:{harness.unusable_password()}\n")
    guarded = ["auth.anonymous=loopback", f"auth.password_file={users}"]
    for settings, choice in (([], "not connack_negative"), (guarded, "connack_negative")):
        broker = c.broker(settings, default_ports=True)
        with open(path, "w") as f:
            f.write(source.replace(HOST, f'HOSTNAME = "{broker.host}"').replace(PATH, 'websocket_path="/mqtt"'))
        shutil.copy(broker.certificates.ca, os.path.join(tests, "mosquitto.org.crt"))
        collect(c, python, os.path.dirname(tests), choice)


def collect(c, python, directory, choice):
    results = os.path.join(directory, "results.xml")
    _, output = harness.output_of([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", results, "-k", choice, "tests"],
                                  300, cwd=directory)
    if not os.path.exists(results):
        c.failed("run", output[-600:])
        return
    for case in ET.parse(results).iter("testcase"):
        name = re.sub(r"\W+", " ", case.get("name")).strip()
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        if bad is not None:
            c.failed(name, bad.get("message"))
        elif case.find("skipped") is not None:
            c.skipped(name, case.find("skipped").get("message"))
        else:
            c.passed(name)
