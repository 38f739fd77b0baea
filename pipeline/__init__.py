"""What happens to an event, from the bytes on a topic to the acknowledged offset."""
