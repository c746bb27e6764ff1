"""The packaged example: an order flow that ``headrace demo`` runs end to end."""
