"""Networks of a given size: what the gates find, and what a user would do instead."""
