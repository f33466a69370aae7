"""How Kafka's clients say who they are: SCRAM, OAUTHBEARER and re-authentication, by Java, librdkafka old and new, kafka-python and aiokafka."""

import base64
import json
import os
import subprocess
import time

import harness
import javakafka

RECONNECTS = True
PASSWORD = "interop-secret"


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Makes tokens with an RSA key of its own, by openssl."""

    def __init__(self, c):
        self.key = os.path.join(c.directory, "issuer.key")
        harness.run(["openssl", "genrsa", "-out", self.key, "2048"])
        modulus = harness.run(["openssl", "rsa", "-in", self.key, "-noout", "-modulus"]).strip().splitlines()[-1].rpartition("=")[2]
        key = {"kty": "RSA", "kid": "interop", "use": "sig", "alg": "RS256", "n": encoded(bytes.fromhex(modulus)), "e": "AQAB"}
        self.keys = c.write("jwks.json", json.dumps({"keys": [key]}))

    def token(self, user, seconds):
        now = int(time.time())
        claims = {"sub": user, "iss": "interop", "aud": "sluice", "iat": now, "exp": now + seconds, "scope": "kafka"}
        text = ".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "interop", "typ": "JWT"}, claims))
        signed = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key], input=text.encode(), stdout=subprocess.PIPE, check=True).stdout
        return text + "." + encoded(signed)


def jaas(module, **options):
    return f"org.apache.kafka.common.security.{module} required " + " ".join(f'{k}="{v}"' for k, v in options.items()) + ";"


def java_properties(c, name, mechanism, module, options, more=()):
    lines = ["security.protocol=SASL_PLAINTEXT", "sasl.mechanism=" + mechanism, "sasl.jaas.config=" + jaas(module, **options), *more]
    return c.write(name, "\n".join(lines) + "\n")


def java(c, broker, issuer):
    """Kafka's own tools set the credentials; its clients come in by them, by a token, and by neither."""
    javakafka.prepare(c)
    java = javakafka.Programs(c, broker)
    config = "kafka.admin.ConfigCommand"
    user = ["--entity-type", "users", "--entity-name", "java"]

    def credentials():
        java.tool(config, *java.server, "--alter", *user, "--add-config", f"SCRAM-SHA-256=[iterations=8192,password={PASSWORD}],SCRAM-SHA-512=[password={PASSWORD}]")
        out = java.tool(config, *java.server, "--describe", *user)
        assert "SCRAM-SHA-256=iterations=8192" in out and "SCRAM-SHA-512=iterations=4096" in out, out

    def both_ways(topic, properties):
        text = "".join(f"{i}\n" for i in range(50))
        java.tool("ConsoleProducer", *java.server, "--topic", topic, "--command-config", properties, input=text)
        out = java.read(topic, 50, "--command-config", properties)
        assert [line for line in out if line.isdigit()] == text.split(), out

    def scram(mechanism):
        properties = java_properties(c, mechanism + ".properties", mechanism, "scram.ScramLoginModule", {"username": "java", "password": PASSWORD})
        both_ways("java-" + mechanism, properties)

    def refused():
        properties = java_properties(c, "wrong.properties", "SCRAM-SHA-512", "scram.ScramLoginModule", {"username": "java", "password": "wrong"})
        code, out = harness.output_of(java.command("TopicCommand", *java.server, "--list", "--command-config", properties), 60)
        assert code != 0 and "SaslAuthenticationException" in out, out[-400:]

    def token(lifetime, wanted):
        path = c.write("token.jwt", lifetime)
        properties = java_properties(c, "token.properties", "OAUTHBEARER", "oauthbearer.OAuthBearerLoginModule", {}, [
            "sasl.login.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler",
            "sasl.oauthbearer.token.endpoint.url=file://" + path])
        allowed = [f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.{what}={value}" for what, value in (("urls", "file://" + path), ("files", path))]
        command = java.command("TopicCommand", *java.server, "--list", "--command-config", properties)
        code, out = harness.output_of([command[0], *allowed, *command[1:]], 60)
        assert (code == 0) == wanted and (wanted or "invalid_token" in out or "SaslAuthenticationException" in out), out[-600:]

    def forged():
        good = issuer.token("java", 600)
        token(good[:-8] + ("A" * 8), False)

    c.check("java credentials", credentials)
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
        c.check("java " + mechanism, scram, mechanism)
    c.check("java wrong password", refused)
    c.check("java OAUTHBEARER", lambda: token(issuer.token("java", 600), True))
    c.check("java forged token", forged)

    def deleted():
        java.tool(config, *java.server, "--alter", *user, "--delete-config", "SCRAM-SHA-256,SCRAM-SHA-512")
        properties = os.path.join(c.directory, "SCRAM-SHA-512.properties")
        code, out = harness.output_of(java.command("TopicCommand", *java.server, "--list", "--command-config", properties), 60)
        assert code != 0 and "SaslAuthenticationException" in out, out[-400:]

    c.check("java deleted user", deleted)


def old_librdkafka(c, broker, setting):
    """librdkafka before 2.6.1 repeats its nonce: Kafka refuses it, and so does a node that is not told otherwise."""
    harness.need("kcat", "kcat")

    def list_topics(b):
        at = b.bootstrap()
        login = ["-X", "security.protocol=SASL_PLAINTEXT", "-X", "sasl.mechanisms=SCRAM-SHA-256", "-X", "sasl.username=python", "-X", "sasl.password=" + PASSWORD]
        return harness.output_of(["kcat", "-b", at, *login, "-L", "-m", "8"], 30)

    version = harness.run(["kcat", "-V"]).partition("librdkafka ")[2].split()[0]
    if tuple(int(n) for n in version.split(".")[:3]) >= (2, 6, 1):
        c.skipped("old librdkafka", f"kcat has librdkafka {version}, which repeats no nonce")
        return

    def refused():
        code, out = list_topics(broker)
        assert code != 0 or "authentication" in out.lower(), out[-300:]

    def accepted():
        code, out = list_topics(setting)
        assert code == 0 and "broker 1" in out, out[-300:]

    c.check("old librdkafka refused", refused)
    c.check("old librdkafka with auth.scram_repeated_nonce", accepted)


def run(c):
    issuer = Issuer(c)
    tokens = ["auth.anonymous=loopback", "auth.jwt.jwks_file=" + issuer.keys, "auth.jwt.issuer=interop", "auth.jwt.audience=sluice"]
    broker, short = c.broker(tokens), c.broker([*tokens, "kafka.session_lifetime=3s", "auth.scram_repeated_nonce=true"])
    packages = ["kafka-python", "confluent-kafka", "aiokafka"]
    python = harness.venv("kafka", *packages, "lz4", "zstandard", "python-snappy")
    for p in packages:
        c.versions[p] = harness.package_version(python, p)
    program = [python, os.path.join(harness.HERE, "clients", "kafka_security.py")]
    env = {"SLUICE_PASSWORD": PASSWORD, "SLUICE_TOKEN": issuer.token("python", 3600), "SLUICE_SHORT": short.bootstrap()}
    c.program(program, broker, 300, env=env)
    old_librdkafka(c, broker, short)
    java(c, broker, issuer)
