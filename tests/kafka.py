"""A real Apache Kafka for tests and benchmarks: one broker, one JVM, on loopback, in a folder of its own.

The jars are fetched once by Maven into ``.cache/kafka`` of the checkout. The broker runs as ourselves under a
guard, so that it dies with us. ``kill`` and ``start`` again on the same folder is what the fault tests do.
"""

from __future__ import annotations

import base64
import fcntl
import re
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from anomalyze.embedded.process import GuardedProcess, free_port

KAFKA_VERSION = "4.1.0"
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "kafka"
START_TIMEOUT_S = 60.0

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>anomalyze</groupId><artifactId>test-broker</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId>
      <version>{KAFKA_VERSION}</version></dependency>
  </dependencies>
</project>
"""

# One broker that is also its controller. Small internal topics and no waiting for further group members make
# it start and rebalance fast; nothing here weakens what a producer with acks=all is promised by one broker.
PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.message.timestamp.type=LogAppendTime
log.cleaner.dedupe.buffer.size=8388608
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
log.retention.check.interval.ms=60000
controlled.shutdown.enable=false
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=6000
"""

# One more listener, with TLS and a password.
SECURE_PROPERTIES = """
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
inter.broker.listener.name=PLAINTEXT
listener.name.secure.sasl.enabled.mechanisms=PLAIN
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
listener.name.secure.ssl.keystore.type=PKCS12
listener.name.secure.ssl.keystore.location={folder}/broker.p12
listener.name.secure.ssl.keystore.password={password}
"""


@dataclass(frozen=True)
class Secured:
    """A listener with TLS (the broker's certificate is ``ca.pem`` in its folder) and SASL PLAIN."""

    port: int
    user: str
    password: str


class KafkaBroker:
    """One broker inside a folder.

    Parameters
    ----------
    folder
        Holds configuration, log directory and the broker's output. Made when missing, kept by ``stop``.
    port
        TCP port on loopback; the controller takes a free one of its own.
    secured
        A second listener.
    is_measured
        Whether its speed under load matters more than how soon it is there.
    """

    def __init__(
        self, folder: Path, port: int, secured: Secured | None = None, *, is_measured: bool = False
    ) -> None:
        self.folder = folder.resolve()
        self.port = port
        self.secured = secured
        # The optimising compiler costs a third of a start's processor time and pays off after minutes only.
        self._java_options = () if is_measured else ("-XX:TieredStopAtLevel=1",)
        self.process: GuardedProcess | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Address for clients."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> str:
        """Format when new, start, wait until it answers; return the address."""
        libraries = fetch_jars()
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self.folder / "server.properties"
        if not properties.exists():
            self._format(properties, libraries)
        self.process = GuardedProcess(
            "kafka",
            [
                *_java(libraries, "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", *self._java_options),
                "kafka.Kafka",
                properties,
            ],
            self.folder / "output",
            cwd=self.folder,
            grace_s=10,
        )
        self._wait_until_ready()
        return self.bootstrap_servers

    def kill(self) -> None:
        """SIGKILL the JVM and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.process.release()
        self.process = None

    def stop(self) -> None:
        """End it; the folder stays. Safe to call when not running."""
        if self.process is not None:
            self.process.stop()
            self.process = None

    def _format(self, properties: Path, libraries: Path) -> None:
        # Written under its final name last: an interrupted format is repeated.
        new = properties.with_suffix(".new")
        text = PROPERTIES.format(port=self.port, controller_port=free_port(), folder=self.folder).lstrip()
        if self.secured is not None:
            listener = f",SECURE://127.0.0.1:{self.secured.port}\n"
            text = re.sub(r"^((advertised\.)?listeners=.*)\n", rf"\1{listener}", text, flags=re.MULTILINE)
            text += SECURE_PROPERTIES.format(
                folder=self.folder, user=self.secured.user, password=self.secured.password
            )
            self._make_certificate(self.secured.password)
        new.write_text(text)
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        # One that began with a dash would be read as an option.
        cluster_id = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=").replace("-", "A")
        tool = [*_java(libraries, "-Xmx128m", "-XX:TieredStopAtLevel=1"), "kafka.tools.StorageTool"]
        done = subprocess.run(
            [*tool, "format", "-t", cluster_id, "-c", str(new)], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"Kafka's storage could not be formatted: {done.stdout}{done.stderr}")
        new.rename(properties)

    def _make_certificate(self, password: str) -> None:
        store = ["-keystore", str(self.folder / "broker.p12"), "-storepass", password, "-alias", "broker"]
        pair = ["-genkeypair", "-storetype", "PKCS12", "-keyalg", "EC", "-validity", "2"]
        named = ["-dname", "CN=127.0.0.1", "-ext", "SAN=ip:127.0.0.1", "-ext", "bc=ca:true"]
        subprocess.run(["keytool", *pair, *named, *store], check=True, capture_output=True)
        subprocess.run(
            ["keytool", "-exportcert", "-rfc", "-file", str(self.folder / "ca.pem"), *store],
            check=True,
            capture_output=True,
        )

    def _wait_until_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        while True:
            try:
                if admin.list_topics(timeout=1).brokers:
                    return
            except KafkaException:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = self.process.log_tail(40)
                self.stop()
                raise RuntimeError(f"Kafka on port {self.port} did not start:\n{tail}")
            time.sleep(0.05)


def fetch_jars() -> Path:
    """The folder with Kafka's jars, fetched by Maven when they are not there yet."""
    CACHE.mkdir(parents=True, exist_ok=True)
    libraries = CACHE / "libs"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (libraries / f"kafka_2.13-{KAFKA_VERSION}.jar").exists():
            return libraries
        (CACHE / "pom.xml").write_text(POM)
        new = CACHE / "libs.new"
        shutil.rmtree(new, ignore_errors=True)
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={new}"]
        done = subprocess.run(["mvn", "-q", "-B", *goal], cwd=CACHE, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"Maven could not fetch Kafka {KAFKA_VERSION}: {done.stdout}{done.stderr}")
        shutil.rmtree(libraries, ignore_errors=True)
        new.rename(libraries)
    return libraries


def missing_programs() -> str | None:
    """What is needed and not there, as a sentence; None when a broker can be started."""
    missing = [] if shutil.which("java") else ["java (17 or newer)"]
    if not shutil.which("mvn") and not (CACHE / "libs" / f"kafka_2.13-{KAFKA_VERSION}.jar").exists():
        missing.append("mvn, to fetch Kafka's jars once")
    if missing:
        return f"a real Kafka needs {' and '.join(missing)}"
    return None


def _java(libraries: Path, *options: str) -> list[str]:
    java = shutil.which("java") or "java"
    return [java, *options, "-cp", f"{libraries}/*"]
