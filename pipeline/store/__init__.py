"""What is stored, and how: one transaction a chunk, on SQLite and on PostgreSQL."""
