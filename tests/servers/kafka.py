"""Apache Kafka: one node that is broker and controller, started in about two seconds.

The jars come from Maven, a formatted data folder and an archive of loaded classes are made once and kept with them.
Listeners: PLAINTEXT is the address; PROXIED, where a proxy's port is given, is what clients are told behind that proxy;
with ``security=True`` also SASL PLAIN, SCRAM and OAUTHBEARER, TLS, mTLS and SASL over TLS.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tests.servers.cache import locked, provide
from tests.servers.ports import HOST, accepts, free_ports
from tests.servers.process import Child, ServerError, Unavailable
from tests.servers.server import Server, tell
from tests.servers.versions import KAFKA, KAFKA_SCALA, LOG4J

USER, PASSWORD = "alice", "alice-secret"
SECURE = ("SASL_PLAIN", "SASL_SCRAM", "SASL_OAUTH", "TLS", "MTLS", "SASL_TLS")

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>headrace.tests</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_{KAFKA_SCALA}</artifactId><version>{KAFKA}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>{LOG4J}</version>
    </dependency>
  </dependencies>
</project>
"""
_HEAP = ["-Xmx192m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
_LOG4J = """<Configuration status="ERROR"><Appenders><Console name="out" target="SYSTEM_OUT">
<PatternLayout pattern="%d{HH:mm:ss.SSS} %p %c{1} %m%n"/></Console></Appenders>
<Loggers><Root level="WARN"><AppenderRef ref="out"/></Root></Loggers></Configuration>
"""


class Kafka(Server):
    """One Kafka node.

    Args:
        folder: see `Server`.
        proxy_port: where a proxy will listen that forwards to ``proxied_port``.
        security: add the listeners of ``SECURE``; ``secure_ports`` names their ports.
        properties: server properties of the test's own.
    """

    name = "kafka"
    ready_timeout: ClassVar[float] = 60.0

    def __init__(
        self,
        *,
        folder: Path | None = None,
        proxy_port: int | None = None,
        security: bool = False,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder=folder)
        self._proxy_port = proxy_port
        self._security = security
        self._properties = dict(properties or {})
        self.port_count = 3 + (len(SECURE) if security else 0)

    @classmethod
    def fetch(cls) -> None:
        java = _java()
        archive = _archive(java)
        if archive.exists():
            return
        root = _root()
        with locked("kafka-classes"):
            if archive.exists():
                return
            tell("making Kafka's archive of loaded classes")
            making = root / f"making-{os.getpid()}.jsa"
            server = cls()
            try:
                server._making = making
                server.ports = free_ports(server.port_count)
                server._launch()
                for child in server.children:
                    child.ask_to_stop()
                    child.wait_stopped(60)
                making.rename(archive)
            finally:
                server.close()

    _making: Path | None = None

    @property
    def url(self) -> str:
        return f"kafka://{HOST}:{self.ports[0]}"

    @property
    def bootstrap(self) -> str:
        """``host:port`` as Kafka's own clients take it."""
        return f"{HOST}:{self.ports[0]}"

    @property
    def proxied_port(self) -> int:
        """Where the proxy forwards to."""
        return self.ports[2]

    @property
    def secure_ports(self) -> dict[str, int]:
        """The port of each listener of ``SECURE``."""
        return dict(zip(SECURE, self.ports[3:], strict=True))

    def prepare(self) -> list[Child]:
        data = self.folder / "data"
        if not data.exists():
            shutil.copytree(_root() / "formatted", data)
        (self.folder / "log4j2.xml").write_text(_LOG4J)
        listeners = {"PLAINTEXT": self.ports[0], "PROXIED": self.ports[2]}
        protocols = {"PLAINTEXT": "PLAINTEXT", "PROXIED": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        advertised = {**listeners, "PROXIED": self._proxy_port or self.ports[2]}
        lines: list[str] = []
        if self._security:
            listeners |= self.secure_ports
            advertised |= self.secure_ports
            lines += self._secure(protocols)
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{self.ports[1]}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": ",".join(
                f"{name}://{HOST}:{port}" for name, port in {**listeners, "CONTROLLER": self.ports[1]}.items()
            ),
            "advertised.listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in advertised.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "log.dirs": str(data),
            "num.partitions": "4",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "group.consumer.min.heartbeat.interval.ms": "100",
            "group.consumer.heartbeat.interval.ms": "200",
            "group.consumer.min.session.timeout.ms": "1000",
            # Members of the new protocol have the broker's; by default a killed one is missed after 45 seconds.
            "group.consumer.session.timeout.ms": "6000",
            # Without it the cleaner takes 128 MB, more than the heap.
            "log.cleaner.dedupe.buffer.size": "2097152",
            "log.cleaner.backoff.ms": "200",
            # A killed broker may come back after its session, by default nine seconds.
            "broker.session.timeout.ms": "1000",
            "broker.heartbeat.interval.ms": "200",
            **self._properties,
        }
        lines = [f"{name}={value}" for name, value in properties.items()] + lines
        (self.folder / "server.properties").write_text("\n".join(lines) + "\n")
        java = _java()
        share = ["-Xshare:auto", f"-XX:SharedArchiveFile={_archive(java)}"]
        if self._making is not None:
            share = [f"-XX:ArchiveClassesAtExit={self._making}"]
        command = [str(java), *_HEAP, *share, f"-Dlog4j2.configurationFile={self.folder / 'log4j2.xml'}"]
        command += ["-cp", f"{_root() / 'jars'}/*", "kafka.Kafka", str(self.folder / "server.properties")]
        return [Child("kafka", command, log=self.folder / "kafka.log")]

    def _secure(self, protocols: dict[str, str]) -> list[str]:
        """Settings of the listeners of ``SECURE``; certificates lie in the folder."""
        from tests.servers.certificates import make_certificates

        stores = make_certificates(self.folder)
        module = "org.apache.kafka.common.security"
        login = f'username="{USER}" password="{PASSWORD}"'
        plain = f'{module}.plain.PlainLoginModule required {login} user_{USER}="{PASSWORD}";'
        scram = f"{module}.scram.ScramLoginModule required;"
        oauth = f'{module}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="{USER}";'
        handler = f"{module}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
        protocols |= {
            "SASL_PLAIN": "SASL_PLAINTEXT",
            "SASL_SCRAM": "SASL_PLAINTEXT",
            "SASL_OAUTH": "SASL_PLAINTEXT",
            "TLS": "SSL",
            "MTLS": "SSL",
            "SASL_TLS": "SASL_SSL",
        }
        lines = [
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            "listener.name.sasl_plain.sasl.enabled.mechanisms=PLAIN",
            f"listener.name.sasl_plain.plain.sasl.jaas.config={plain}",
            "listener.name.sasl_scram.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512",
            f"listener.name.sasl_scram.scram-sha-256.sasl.jaas.config={scram}",
            f"listener.name.sasl_scram.scram-sha-512.sasl.jaas.config={scram}",
            "listener.name.sasl_oauth.sasl.enabled.mechanisms=OAUTHBEARER",
            f"listener.name.sasl_oauth.oauthbearer.sasl.jaas.config={oauth}",
            f"listener.name.sasl_oauth.oauthbearer.sasl.server.callback.handler.class={handler}",
            "listener.name.sasl_tls.sasl.enabled.mechanisms=PLAIN",
            f"listener.name.sasl_tls.plain.sasl.jaas.config={plain}",
        ]
        for listener in ("tls", "mtls", "sasl_tls"):
            lines += [
                f"listener.name.{listener}.ssl.keystore.type=PEM",
                f"listener.name.{listener}.ssl.keystore.location={stores.server_store}",
                f"listener.name.{listener}.ssl.truststore.type=PEM",
                f"listener.name.{listener}.ssl.truststore.location={stores.authority}",
                f"listener.name.{listener}.ssl.client.auth={'required' if listener == 'mtls' else 'none'}",
            ]
        return lines

    def is_ready(self, child: Child) -> bool:
        if not accepts(self.ports[0]):
            return False
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        try:
            client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "socket.timeout.ms": 1000})
            return bool(client.list_topics(timeout=0.5).brokers)
        except KafkaException:
            return False


def _java() -> Path:
    found = shutil.which("java")
    if found is None:
        raise Unavailable("Apache Kafka needs Java 17 or newer: there is no java on PATH")
    return Path(found).resolve()


def _archive(java: Path) -> Path:
    """The classes as this Java has loaded them: another version would not read them."""
    release = java.parents[1] / "release"
    version = re.search(r'JAVA_VERSION="([^"]+)"', release.read_text()) if release.exists() else None
    return _root() / f"classes-{version[1] if version else 'unknown'}.jsa"


def _root() -> Path:
    """Jars and a formatted folder."""
    return provide(f"kafka-{KAFKA}", _bring)


def _bring(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable("Apache Kafka's jars are brought by Maven: there is no mvn on PATH")
    tell(f"bringing Apache Kafka {KAFKA} (43 MB)")
    (folder / "pom.xml").write_text(_POM)
    command = [maven, "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=jars"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"Maven could not bring Apache Kafka:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    _format(folder)


def _format(folder: Path) -> None:
    """A formatted folder with one SCRAM user, copied for each new server."""
    properties = folder / "format.properties"
    properties.write_text(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:9093\n"
        "listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\ncontroller.listener.names=CONTROLLER\n"
        f"log.dirs={folder / 'formatted'}\n"
    )
    command = [str(_java()), *_HEAP, "-cp", f"{folder / 'jars'}/*", "kafka.tools.StorageTool", "format"]
    command += ["-t", "aGVhZHJhY2UtdGVzdHMtMQ", "-c", str(properties)]
    for bits in (256, 512):
        command += ["--add-scram", f"SCRAM-SHA-{bits}=[name={USER},password={PASSWORD}]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"Kafka's folder could not be formatted:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
