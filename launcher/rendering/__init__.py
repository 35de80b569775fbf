"""From a plan to text, every value escaped for its language; pure."""
