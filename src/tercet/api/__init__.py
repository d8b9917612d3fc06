"""The public API behind `import tercet`; docs/api.md describes it. Torch is imported when a function needs it."""
