"""Questions that `tercet label` asks about data sets and stages, and labels from elsewhere."""
