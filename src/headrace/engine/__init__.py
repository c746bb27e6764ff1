"""The pipeline: lanes, attempts, retries, settlement, drain. It knows no transport and no store, only their contracts.

Each contract is a file of its own: `source`, `sink`, `ledger`, `dead_letters`, `checkpoints`, `broker`.
"""
