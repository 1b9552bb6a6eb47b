"""The paper as functions and thin modules."""
