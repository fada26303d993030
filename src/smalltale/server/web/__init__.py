"""The web application: pages, API, middleware."""
