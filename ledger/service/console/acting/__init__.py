"""Acting from the console: what an officer, an approver or an administrator may record.

A form is a command of the API with a page before it and a page after it. ``forms`` says which
fields a form has and what body they make; the API's own route reads that body, so that no rule
about it is written twice. ``foretold`` says in words what a rehearsal of it leads to.
``pages/acting`` has the addresses.
"""
