"""Sets that come with a package: their texts, and the examples that Tercet makes of them."""
