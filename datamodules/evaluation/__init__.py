"""Benchmark images and zero-shot prompts."""
