"""The real servers that tests run against: one module per server, started at first need.

``SERVERS`` lists them. Each module has ``describe()``, where the server comes from, and
``running()``, a context manager that yields its :class:`ServerAddress`. ``session`` shares the
started ones between all workers of one test run.
"""
