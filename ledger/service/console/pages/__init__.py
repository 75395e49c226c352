"""The pages, each in a module with ``routes``."""
