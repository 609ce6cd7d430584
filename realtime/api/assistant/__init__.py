"""What assistants may ask, by the Model Context Protocol: the questions of REST, read-only, in answers of a size that
a conversation can hold. Imported by `anomalyze mcp` alone.
"""
