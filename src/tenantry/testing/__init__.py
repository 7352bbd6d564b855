"""How do I test an application of many tenants? With real servers, started here.

``postgresql`` starts a PostgreSQL of its own; ``address`` says where a server is reached.
The other modules carry these two and need not be imported by anybody else.
"""
