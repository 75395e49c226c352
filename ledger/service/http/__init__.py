"""The HTTP interface: one module for each area, ``route.py`` for what every request goes through."""
