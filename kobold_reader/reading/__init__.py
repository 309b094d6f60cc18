"""A page becomes verified text. Knows neither LlamaIndex nor Chroma."""
