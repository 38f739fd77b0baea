"""The demo: a fictional market day sent through a broker, a worker and a database of its own, shown live."""
