"""The HTTP application: routes, what is measured and what is refused."""
