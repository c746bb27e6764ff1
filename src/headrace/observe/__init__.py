"""What an app shows of itself: metrics, health, logs, traces. It reads the engine's state and changes nothing.

Each subject is a module and is imported by name; none of them is loaded by ``import headrace``.
"""
