"""Database schema, sessions, migrations, backup and restore."""
