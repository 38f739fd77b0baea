"""Alembic migrations of the tables; run by `salience db upgrade`."""
