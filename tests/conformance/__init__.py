"""Whether the API keeps its own contract: schemathesis against a server with real rows.

    python -m tests.conformance [--quick] [--report]

Every operation of the OpenAPI document is called with data that fits it and data that doesn't, by
tokens of several scopes; what comes back is held against what the document says.
"""
