"""The drawn world, second edition: classes and families with parameters, of which a concept is one member."""
