"""The HTTP interface: one module for each area, ``route.py`` for what every request passes."""
