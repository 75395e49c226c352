"""The read side: each module answers one question, with its tables, its ``apply`` and its queries.

- ``access``     who may use what now, and why not
- ``conduct``    which violations and warnings were recorded, and which still stand
- ``directory``  in which stream is an id written, and what rests on what
- ``operators``  who may act on the ledger, and with which keys
- ``report``     how much was recorded in a period, in figures
- ``trail``      what happened, in order

Each is written in the transaction that appends the event, and none imports another.
"""
