"""The drawn world: classes and families with parameters, of which a concept is one member."""
