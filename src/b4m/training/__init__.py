"""The only training loop, and what it needs to survive anything."""
