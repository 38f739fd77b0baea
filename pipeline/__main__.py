"""`python -m pipeline` is `salience`."""

from pipeline.cli import main

main()
