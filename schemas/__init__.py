"""What the data is: messages, labels, tables. Nobody here acts."""
