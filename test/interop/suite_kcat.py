"""kcat, and with it librdkafka, as Debian has it."""

import collections
import signal
import subprocess
import time

import harness

RECONNECTS = True


def run(c):
    harness.need("kcat", "kcat")
    c.versions["kcat"] = harness.run(["kcat", "-V"]).split("(")[-1].split(")")[0].strip() or "?"
    broker = c.broker()
    at = broker.bootstrap()

    def kcat(*arguments, text=None, timeout=30):
        # Of a node that goes away librdkafka tells on stderr, in the middle of records.
        code, out = harness.output_of(["kcat", "-b", at, *arguments], timeout, input=text, stderr=subprocess.PIPE)
        assert code == 0, out
        return out

    def read(topic, *arguments):
        return kcat("-C", "-t", topic, "-e", "-q", *arguments)

    def codec(name):
        lines = "".join(f"k{i}:v{i}\n" for i in range(2000))
        kcat("-P", "-t", "z-" + name, "-K:", "-z", name, "-X", "acks=all", text=lines)
        got = read("z-" + name, "-o", "beginning", "-K:")
        same(got, lines)

    for name in ("none", "gzip", "snappy", "lz4", "zstd"):
        c.check("codec " + name, codec, name)

    def headers():
        kcat("-P", "-t", "h", "-k", "key", "-H", "a=1", "-H", "b=2", text="value")
        assert read("h", "-o", "beginning", "-f", "%k %s %h") == "key value a=1,b=2"

    def offsets():
        kcat("-P", "-t", "o", text="".join(f"{i}\n" for i in range(10)))
        assert read("o", "-o", "-3") == "7\n8\n9\n"
        assert read("o", "-o", "5", "-c", "2") == "5\n6\n"
        assert read("o", "-o", "s@0", "-c", "1") == "0\n"

    def group():
        kcat("-P", "-t", "g", text="a\nb\n")
        first = kcat("-G", "readers", "-e", "-q", "-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=6000", "g")
        kcat("-P", "-t", "g", text="c\n")
        assert first == "a\nb\n", first
        second = kcat("-G", "readers", "-e", "-q", "-X", "session.timeout.ms=6000", "g")
        assert second == "c\n", second

    def idempotent():
        lines = "".join(f"{i}\n" for i in range(5000))
        kcat("-P", "-t", "i", "-X", "enable.idempotence=true", text=lines)
        same(read("i", "-o", "beginning"), lines)

    def metadata():
        assert 'topic "g" with 1 partitions' in kcat("-L")

    def tls():
        secure = ["-b", broker.bootstrap("tls"), "-X", "security.protocol=ssl", "-X", "ssl.ca.location=" + broker.certificates.ca]
        kcat(*secure, "-P", "-t", "t", text="x\n")
        got = kcat(*secure, "-C", "-t", "t", "-e", "-q", "-o", "beginning")
        assert got == "x\n", got

    def killed():
        before = read("i", "-o", "beginning")
        broker.stop(signal.SIGKILL)
        broker.start()
        # It asks once, and a node that has just started may not have heard of the topic.
        assert again(lambda: read("i", "-o", "beginning")) == before
        kcat("-P", "-t", "i", text="next\n")
        assert read("i", "-o", "-1") == "next\n"

    for test in (headers, offsets, group, idempotent, metadata, tls, killed):
        c.check(test.__name__, test)
    sasl(c)


def same(got, want):
    """Each line once and in order; else it says what is not."""
    if got == want:
        return
    had, has = collections.Counter(got.splitlines()), collections.Counter(want.splitlines())
    raise AssertionError(f"{len(got)} bytes of {len(want)}: missing {list((has - had).elements())[:5]}, too many {list((had - has).elements())[:5]}")


def again(run, seconds=10):
    """Runs it until it does not fail, where there are several nodes."""
    end = time.monotonic() + seconds
    while True:
        try:
            return run()
        except AssertionError:
            if harness.NODES == 1 or time.monotonic() > end:
                raise
        time.sleep(.2)


def sasl(c):
    users = c.write("users", harness.hash_password("plant", "secret"))
    broker = c.broker([f"auth.password_file={users}"])

    def kcat(password, *arguments, text=None):
        plain = ["-X", "security.protocol=sasl_plaintext", "-X", "sasl.mechanisms=PLAIN", "-X", "sasl.username=plant", "-X", "sasl.password=" + password]
        return harness.output_of(["kcat", "-b", broker.bootstrap(), *plain, *arguments], 30, input=text)

    def right():
        code, out = kcat("secret", "-P", "-t", "s", text="x\n")
        assert code == 0, out

    def wrong():
        code, out = kcat("guess", "-L", "-m", "3")
        assert code != 0, out

    c.check("SASL PLAIN", right)
    c.check("SASL PLAIN, wrong password", wrong)
