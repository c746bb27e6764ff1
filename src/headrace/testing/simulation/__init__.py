"""A seeded simulation of the engine: real runtimes over a model broker and model stores, in virtual time.

`simulate` runs one seed: some dozen events, some processes, and faults (kills between any two calls, stops, drains,
rebalances, stores and sinks that are away or answer too late). The world knows what is true and names the first rule that
is broken; see `headrace.testing.simulation.world`.
"""

from headrace.testing.simulation.run import Bug, Report, Simulation, simulate

__all__ = ["Bug", "Report", "Simulation", "simulate"]
