"""Companies by name: a file of names, tickers and aliases, and where a text speaks of them."""
