"""Starts bin/sluice for a suite and collects what the suite says. It knows no client: each suite is a module of its own."""

import base64
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "sluice-interop")
BINARY = os.environ.get("SLUICE", os.path.join(ROOT, "bin", "sluice"))
READY_SECONDS = 60
NODES = int(os.environ.get("NODES", "1"))  # that are one broker, in place of a node that is alone
RESTARTS = NODES > 1 and os.environ.get("RESTARTS", "") not in ("", "0")  # nodes are restarted in turn while suites run
RESTART_PAUSE_SECONDS = 3
CHECKS_PER_ROUND = 10
CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


class Skip(Exception):
    """A suite cannot run here; the text says why."""


class Broker:
    """One running node with a directory of its own. Restarts keep directory and ports."""

    def __init__(self, directory, certificates, settings=(), host="127.0.0.1", ports=None):
        self.directory, self.certificates, self.settings, self.host = directory, certificates, list(settings), host
        self.ports = ports or {"tcp": 0, "tls": 0, "ws": 0, "wss": 0}
        self.kafka = {"tcp": 0, "tls": 0}
        self.process = None
        self.log = os.path.join(directory, "broker.log")
        self.socket = os.path.join(directory, "mqtt.sock")

    def start(self):
        self.launch()
        return self.await_ready()

    def launch(self):
        command = [BINARY, "start", "--data", os.path.join(self.directory, "data")]
        settings = [f"listeners.mqtt.{name}={self.host}:{port}" for name, port in self.ports.items()]
        settings += [f"listeners.mqtt.unix={self.socket}", "listeners.http=127.0.0.1:0", "listeners.grpc=127.0.0.1:0", f"tls.cert={self.certificates.cert}", f"tls.key=file:{self.certificates.key}"]
        settings += [f"listeners.kafka.{name}={self.host}:{port}" for name, port in self.kafka.items()]
        for setting in settings + self.settings:
            command += ["--set", setting]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)

    def await_ready(self):
        timer = threading.Timer(READY_SECONDS, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line.startswith("ready "):
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"no ready line within {READY_SECONDS} s: {self.tail()}")
        listeners = json.loads(line[len("ready "):])["listeners"]
        self.ports = {name: int(listeners["mqtt." + name].rpartition(":")[2]) for name in ("tcp", "tls", "ws", "wss")}
        self.kafka = {name: int(listeners["kafka." + name].rpartition(":")[2]) for name in ("tcp", "tls")}
        self.grpc = listeners["grpc"]
        return self

    def stop(self, how=signal.SIGTERM):
        """Ends the node and returns its exit code; a node that does not drain within 30 s is killed."""
        if self.process is None:
            return None
        self.signal(how)
        return self.ended()

    def signal(self, how):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)

    def ended(self):
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process.stdout.close()
        self.process = None
        return code

    def tail(self):
        with open(self.log, "rb") as log:
            return log.read()[-2000:].decode(errors="replace")

    def bootstrap(self, listener="tcp"):
        """Where Kafka's clients begin; that of a certificate for localhost is tls."""
        return f"{'localhost' if listener == 'tls' else self.host}:{self.kafka[listener]}"

    def environment(self):
        """What a client program needs to know, for programs in any language."""
        return {**os.environ, "SLUICE_HOST": self.host, "SLUICE_CA": self.certificates.ca, "SLUICE_UNIX": self.socket,
                "SLUICE_KAFKA": self.bootstrap(), "SLUICE_KAFKA_TLS": self.bootstrap("tls"),
                **{f"SLUICE_{name.upper()}": str(port) for name, port in self.ports.items()}}


class Cluster:
    """Several nodes that are one broker. Each time that a port is asked for it is another node's. All of them are stopped and started at once.

    With RESTARTS a thread restarts nodes in turn: all of them if clients reconnect, as Kafka's do; else the last one, which no client is sent to."""

    def __init__(self, directory, certificates, settings, host, ports, reconnects):
        self.directory, self.certificates, self.host, self.turn = directory, certificates, host, 0
        self.nodes = []
        peers = [f"127.0.0.1:{free_port()}" for _ in range(NODES)]
        for i, at in enumerate(peers):
            own = os.path.join(directory, str(i + 1))
            os.mkdir(own)
            joined = [f"node.id={i + 1}", f"listeners.cluster={at}"] + ([f"cluster.peers={peers[0]}"] if i else [])
            node = Broker(own, certificates, list(settings) + joined, host, {name: free_port() for name in ("tcp", "tls", "ws", "wss")})
            node.kafka = {name: free_port() for name in node.kafka}
            if ports and i == 1:
                node.ports = ports  # the ones to be had once are not the leader's
            self.nodes.append(node)
        self.fixed = ports is not None
        self.peers = peers
        self.open = self.nodes if reconnects or not RESTARTS else self.nodes[:-1]  # clients are sent to these
        self.restarts = Restarts(self, self.nodes if reconnects else self.nodes[-1:]) if RESTARTS else None

    def start(self):
        first, rest = self.nodes[0], self.nodes[1:]
        if os.path.exists(os.path.join(rest[0].directory, "data")):
            for node in self.nodes:
                node.launch()
            for node in self.nodes:
                node.await_ready()
        else:
            first.start()
            for i, node in enumerate(rest):
                run([BINARY, "node", "add", str(i + 2), "--address", self.peers[i + 1], "--server", first.grpc])
                node.start()
        if self.restarts:
            self.restarts.go_on()
        return self

    def stop(self, how=signal.SIGTERM):
        """Ends all nodes, and gives the first exit code that is not 0."""
        if self.restarts:
            self.restarts.hold()
        running = [node for node in self.nodes if node.process is not None]
        for node in running:
            node.signal(how)
        return max([node.ended() for node in running], key=abs, default=None)

    def restart(self, node):
        """Stops a node as a rolling restart does, starts it, and waits until it is in sync."""
        code = node.stop()
        if code != 0:
            raise RuntimeError(f"a node that was restarted: exit code {code}: {node.tail()}")
        node.start()
        end = time.monotonic() + READY_SECONDS
        while True:
            status = subprocess.run([BINARY, "shard", "status", "--output", "json", "--server", node.grpc], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if status.returncode == 0 and len(json.loads(status.stdout)["in_sync"]) == len(self.nodes):
                return
            if time.monotonic() > end:
                raise RuntimeError(f"a node that was restarted is not in sync after {READY_SECONDS} s: {status.stdout}")
            time.sleep(.1)

    def node(self):
        self.turn += 1
        return self.nodes[1 if self.fixed else self.turn % len(self.open)]

    ports = property(lambda self: self.node().ports)
    kafka = property(lambda self: self.node().kafka)
    socket = property(lambda self: self.node().socket)

    def bootstrap(self, listener="tcp"):
        """One node; all of them where the one may be away, as a user would have it."""
        return ",".join(node.bootstrap(listener) for node in (self.nodes if RESTARTS else [self.node()]))

    def environment(self):
        return {**self.node().environment(), "SLUICE_KAFKA": self.bootstrap(), "SLUICE_KAFKA_TLS": self.bootstrap("tls")}

    def tail(self):
        return "".join(node.tail() for node in self.nodes)


class Restarts:
    """Restarts nodes of a cluster in turn, one at a time, between go_on and hold. What went wrong is in failure."""

    def __init__(self, cluster, nodes):
        self.cluster, self.nodes = cluster, nodes
        self.count, self.failure = 0, None
        self.held, self.thread = threading.Event(), None

    def go_on(self):
        self.held.clear()
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()

    def hold(self):
        """Returns when all nodes run, and none is restarted any more."""
        self.held.set()
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def loop(self):
        while self.failure is None and not self.held.wait(RESTART_PAUSE_SECONDS):
            self.one(self.nodes[self.count % len(self.nodes)])

    def round(self):
        """Restarts every node once, while no client is connected."""
        self.hold()
        for node in self.cluster.nodes:
            self.one(node)
        self.go_on()

    def one(self, node):
        try:
            self.cluster.restart(node)
            self.count += 1
        except (RuntimeError, OSError) as e:
            self.failure = e


class Certificates:
    """A CA, and what it signs: a certificate for localhost and the given addresses, others on demand. Made with openssl."""

    def __init__(self, directory, addresses):
        self.directory, self.ca = directory, os.path.join(directory, "ca.pem")
        self.ca_key = os.path.join(directory, "ca.key")
        run(["openssl", "req", "-x509", *CURVE, "-days", "2", "-subj", "/CN=interop CA", "-keyout", self.ca_key, "-out", self.ca,
             "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"])
        names = ",".join(["DNS:localhost"] + [f"IP:{a}" for a in addresses])
        self.cert, self.key = self.sign("server", "localhost", f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")

    def sign(self, file, name, extensions="extendedKeyUsage=clientAuth\n"):
        """The paths of a certificate for name, a client's unless told otherwise, and of its key."""
        cert, key, request, wanted = (os.path.join(self.directory, file + end) for end in (".pem", ".key", ".csr", ".ext"))
        with open(wanted, "w") as f:
            f.write(extensions)
        run(["openssl", "req", *CURVE, "-subj", "/CN=" + name, "-keyout", key, "-out", request])
        run(["openssl", "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.ca_key, "-CAcreateserial", "-days", "2",
             "-extfile", wanted, "-out", cert])
        return cert, key


class Context:
    """What a suite is given: a directory, a way to start brokers, a way to report."""

    def __init__(self, directory, suite):
        self.directory, self.suite = directory, suite
        self.brokers, self.results, self.versions = [], [], {}
        self.reconnects = False  # clients of this suite come back when a connection ends
        self.checks = 0

    def broker(self, settings=(), default_ports=False):
        """default_ports: 1883, 8883 and 8080 (ws) on a loopback address of its own, for suites that cannot be told a port."""
        directory = tempfile.mkdtemp(dir=self.directory)
        host = free_loopback() if default_ports else "127.0.0.1"
        ports = {"tcp": 1883, "tls": 8883, "ws": 8080, "wss": 0} if default_ports else None
        certificates = Certificates(directory, [host])
        if NODES > 1:
            broker = Cluster(directory, certificates, settings, host, ports, self.reconnects)
        else:
            broker = Broker(directory, certificates, settings, host, ports)
        self.brokers.append(broker)
        return broker.start()

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def passed(self, name):
        self.add(name, "passed", "")

    def failed(self, name, reason):
        self.add(name, "failed", reason)

    def skipped(self, name, reason):
        self.add(name, "skipped", reason)

    def add(self, name, status, reason):
        reason = " ".join(str(reason).split())[:300]
        self.results.append((name, status, reason))
        print(f"{self.suite}: {name}: {status}{': ' + reason if reason else ''}", flush=True)

    def check(self, name, test, *arguments):
        """Runs test; an AssertionError or a time-out of a client is a failure, with its text."""
        self.checks += 1
        if RESTARTS and not self.reconnects and self.checks % CHECKS_PER_ROUND == 0:
            self.brokers[-1].restarts.round()
        try:
            test(*arguments)
        except (AssertionError, subprocess.SubprocessError, OSError) as e:
            self.failed(name, f"{type(e).__name__}: {e}")
        else:
            self.passed(name)

    def program(self, command, broker, timeout, **options):
        """Runs a client program that prints `PASS name`, `FAIL name: reason` or `SKIP name: reason`, a line each."""
        before = len(self.results)
        code, output = output_of(command, timeout, env={**broker.environment(), **options.pop("env", {})}, **options)
        for word, name, reason in re.findall(r"^(PASS|FAIL|SKIP) ([^:\n]+)(?:: (.*))?$", output, re.M):
            {"PASS": self.passed, "FAIL": lambda n: self.failed(n, reason), "SKIP": lambda n: self.skipped(n, reason)}[word](name)
        if len(self.results) == before or (code != 0 and not any(r[1] == "failed" for r in self.results[before:])):
            self.failed("run", f"exit code {code}: {output[-600:]}")

    def close(self):
        for broker in self.brokers:
            code = broker.stop()
            if RESTARTS:
                self.restarted(broker.restarts)
            log = broker.tail()
            if code not in (None, 0):
                self.failed("broker stops", f"exit code {code}: {' '.join(re.findall('level=ERROR.*', log))}")
            if "panic:" in log or "fatal error:" in log:
                self.failed("broker lives", log[log.rfind("panic:"):])

    def restarted(self, restarts):
        """Counts the restarts of a cluster, and tells what went wrong with one."""
        self.versions["restarts"] = self.versions.get("restarts", 0) + restarts.count
        if restarts.failure is not None:
            self.failed("restart", restarts.failure)


def run(command, **options):
    """Runs a command quietly; what it said is in the error when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:4])}: exit code {done.returncode}: {done.stdout[-1500:]}")
    return done.stdout


def output_of(command, timeout, input=None, stderr=subprocess.STDOUT, **options):
    """Exit code and output of a command in a process group of its own, all of which is ended at the time-out. input: what it reads.
    With stderr=subprocess.PIPE what it says of itself is not among the output, unless it fails."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=stderr, text=True, errors="replace", start_new_session=True, **options)
    try:
        output, said = process.communicate(input, timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, said = process.communicate()
        return -1, output + (said or "") + f"\nended after {timeout} s"
    return process.returncode, output if process.returncode == 0 else output + (said or "")


given = set()  # by free_port: who has one may just be restarting


def free_port():
    """A port below those that the system gives to connections: it is still free when who has it is stopped and started again."""
    while True:
        port = random.randint(10000, 32000)
        if port in given:
            continue
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        given.add(port)
        return port


def free_loopback():
    """A loopback address on which ports 1883, 8883 and 8080 are free."""
    while True:
        host = f"127.{random.randint(16, 250)}.{random.randint(1, 250)}.{random.randint(1, 250)}"
        try:
            for port in (1883, 8883, 8080):
                with socket.socket() as s:
                    s.bind((host, port))
            return host
        except OSError:
            continue


def need(program, package):
    """Makes sure of a program, by apt where it is missing and this user may install."""
    if shutil.which(program):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Skip(f"{program} is not installed (Debian package {package})")
    run(["apt-get", "install", "-y", "--no-install-recommends", package], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def venv(name, *packages):
    """The python of a virtual environment that holds packages."""
    directory = os.path.join(CACHE, "venv-" + name)
    python = os.path.join(directory, "bin", "python")
    if not os.path.exists(python):
        run(["python3", "-m", "venv", directory])
    run([python, "-m", "pip", "install", "-q", *packages])
    return python


def package_version(python, package):
    return run([python, "-c", f"import importlib.metadata as m; print(m.version({package!r}))"]).strip()


def hash_password(user, password):
    """A line of a password file, as `sluice passwd` makes it."""
    return subprocess.run([BINARY, "passwd", user], input=password + "\n", stdout=subprocess.PIPE, text=True, check=True).stdout


def unusable_password():
    """The hash of a password that nobody knows, for users that must be refused."""
    salt, key = (base64.b64encode(os.urandom(n)).decode().rstrip("=") for n in (16, 32))
    return f"$argon2id$v=19$m=19456,t=2,p=1${salt}${key}"
