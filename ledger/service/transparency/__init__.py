"""What anybody may know: the figures of past periods, without those that are about a few people.

- ``suppression``  which counts of a table are left out, so that none of them can be worked out
- ``figures``      the public variant of a report
- ``publication``  which periods are published, and what is published of each, for ever the same
"""
