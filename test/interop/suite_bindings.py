"""Bindings, with the clients and the words of the README: mosquitto's and kcat, over a kill -9."""

import signal
import subprocess
import time

import harness


def run(c):
    harness.need("kcat", "kcat")
    harness.need("mosquitto_pub", "mosquitto-clients")
    c.versions["kcat"] = harness.run(["kcat", "-V"]).split("(")[-1].split(")")[0].strip() or "?"
    broker = c.broker(["bindings=[{filter: plant/+/temp, topic: temps}]"])

    def command(*arguments, text=None, timeout=30):
        code, out = harness.output_of(list(arguments), timeout, input=text)
        assert code == 0, out
        return out

    def mqtt(program):
        return [f"mosquitto_{program}", "-h", broker.host, "-p", str(broker.ports["tcp"])]

    def kcat(*arguments, text=None):
        return command("kcat", "-b", broker.bootstrap(), *arguments, text=text)

    def subscribe(count, *arguments):
        """A subscriber that ends after so many messages."""
        return subprocess.Popen([*mqtt("sub"), "-q", "1", "-v", "-C", str(count), "-W", "20", *arguments], stdout=subprocess.PIPE, text=True)

    def finish(process):
        out, _ = process.communicate(timeout=30)
        return out

    def out_by_kafka():
        command(*mqtt("pub"), "-t", "plant/1/temp", "-m", "21.5", "-q", "1")
        command(*mqtt("pub"), "-V", "5", "-t", "plant/2/temp", "-m", "20", "-q", "2", "-D", "publish", "user-property", "unit", "C")
        got = kcat("-C", "-t", "temps", "-o", "beginning", "-e", "-q", "-f", "%k %s %h\n")
        assert got == "plant/1/temp 21.5 \nplant/2/temp 20 mqtt.qos=2,unit=C\n", got

    def and_back():
        kept = ["-c", "-i", "kept", "-t", "plant/#"]
        command(*mqtt("sub"), "-q", "1", "-E", *kept)
        kcat("-P", "-t", "temps", "-K:", "-z", "zstd", text="plant/3/temp:19.0\nno topic here\nplant/4/temp:18.5\n")
        got = finish(subscribe(2, *kept))
        assert got == "plant/3/temp 19.0\nplant/4/temp 18.5\n", got

    def from_the_beginning():
        got = finish(subscribe(4, "-V", "5", "-t", "plant/#", "-D", "subscribe", "user-property", "from", "earliest"))
        want = "plant/1/temp 21.5\nplant/2/temp 20\nplant/3/temp 19.0\nplant/4/temp 18.5\n"
        assert got == want, got

    def live_over_a_kill():
        command(*mqtt("sub"), "-q", "2", "-E", "-c", "-i", "away", "-t", "plant/+/temp")
        for i in range(20):
            command(*mqtt("pub"), "-t", "plant/5/temp", "-m", str(i), "-q", "2")
        broker.stop(signal.SIGKILL)
        broker.start()
        # At the QoS that it has had: what comes at QoS 2 before SUBSCRIBE, and at QoS 1 after it, has no order among itself.
        got = finish(subscribe(20, "-q", "2", "-c", "-i", "away", "-t", "plant/+/temp")).splitlines()
        assert got == [f"plant/5/temp {i}" for i in range(20)], got
        assert kcat("-C", "-t", "temps", "-o", "-20", "-e", "-q").splitlines() == [str(i) for i in range(20)]

    def retained_is_a_compacted_view():
        command(*mqtt("pub"), "-t", "plant/6/temp", "-m", "a", "-q", "1", "-r")
        kcat("-P", "-t", "temps", "-K:", "-H", "mqtt.retain=1", text="plant/7/temp:b\n")
        deadline = time.monotonic() + 10
        got = ""
        while time.monotonic() < deadline and got.count("\n") < 2:
            _, got = harness.output_of([*mqtt("sub"), "-t", "plant/#", "-v", "--retained-only", "-W", "1"], 10)
            got = "".join(line + "\n" for line in sorted(got.splitlines()) if line.startswith("plant/"))
        assert got == "plant/6/temp a\nplant/7/temp b\n", got

    for test in (out_by_kafka, and_back, from_the_beginning, live_over_a_kill, retained_is_a_compacted_view):
        c.check(test.__name__, test)
