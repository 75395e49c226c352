"""Where events are kept: canonical bytes, recorders, and replay.

Trust: the database is not trusted with the history. Its triggers refuse UPDATE and DELETE of
events, which stops mistakes; somebody who owns the file can remove a trigger. Only a proof kept
outside the database shows that.
"""
