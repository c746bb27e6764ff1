"""The broker of one process: ``memory://``. For tests and for apps whose events never leave the process.

Channels keep their history while the process lives, so that a late subscriber gets it; nothing survives the process.
"""
