"""Whether the API keeps its own contract, and refuses what it has to.

    python -m tests.conformance [--report] [--quick] [--only generated|walk|inputs]

Every operation of the OpenAPI document is called with data that fits it and data that doesn't, by
tokens of several scopes (`generated`); every route is asked by everyone who must not (`walked`);
and all bad inputs are sent (`refused`).
"""
