"""Paho for Java, mqttv3 (3.1 and 3.1.1) and mqttv5: clients/PahoJava3.java and PahoJava5.java over the four transports."""

import os
import re
import shutil

import harness


def run(c):
    harness.need("java", "default-jdk-headless")
    harness.need("mvn", "maven")
    clients, jars = os.path.join(harness.HERE, "clients"), os.path.join(harness.CACHE, "java")
    pom = shutil.copy(os.path.join(clients, "pom.xml"), c.directory)
    harness.run(["mvn", "-B", "-q", "-f", pom, "dependency:copy-dependencies", f"-DoutputDirectory={jars}"])
    for name, version in re.findall(r"<artifactId>org.eclipse.paho.([\w.]+)</artifactId><version>([\d.]+)<", open(pom).read()):
        c.versions[name] = version
    c.versions["Java"] = re.search(r'version "([^"]+)"', harness.run(["java", "-version"])).group(1)
    broker = c.broker()
    for program in ("PahoJava3.java", "PahoJava5.java"):
        c.program(["java", "-cp", os.path.join(jars, "*"), os.path.join(clients, program)], broker, 300, cwd=c.directory)
