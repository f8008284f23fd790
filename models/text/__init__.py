"""Tokenizers, vocabulary and causal truncation of text towers."""
