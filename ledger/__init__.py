"""The write side of the compliance ledger, its store, and the service.

A map, from the facts up:

- ``domain/``        what can happen and what may not: facts, rules, the access rule. No I/O.
- ``store/``         where events are kept: recorders, canonical bytes, replay, the vault.
- ``application.py`` ``Ledger``: one method per decision.
- ``client/``        the Python client of the HTTP API; knows the domain's values and nothing else.
- ``service/``       settings, wiring, HTTP, command line. Only this knows everything.

The read side stands beside it in ``projections``. Read ``domain/events.py``, ``domain/record.py``,
``domain/access.py``, ``application.py``, ``projections/access`` and
``service/http/authzen.py``, and you know the product.
"""
